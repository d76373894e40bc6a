//! `weirgate quantize`: a checkpoint folder into a GGUF file.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use weirgate_models::{
    GgufProgress, GgufValue, ModelFiles, Quantized, add_tokenizer, open_tensors, read_spec, to_gguf,
};

use crate::cli::QuantizeArgs;
use crate::error::LauncherError;

/// Writes the file; a line for each tensor, and what came of it at the end.
///
/// # Errors
/// A folder that holds no checkpoint we read, settings that GGUF cannot express, or those of writing.
pub fn quantize(args: QuantizeArgs) -> Result<u8, LauncherError> {
    let started = Instant::now();
    let files = ModelFiles::open(&args.folder)?;
    if files.folder().is_none() {
        return Err(LauncherError::QuantizeNoFolder { path: args.folder });
    }
    let spec = read_spec(&files)?;
    let tensors = open_tensors(&files)?;
    spec.check_tensors(tensors.as_ref())?;
    let mix = args.r#type.mix();
    let quantized = Quantized::new(&spec, tensors.as_ref(), mix)?;
    let mut writer = to_gguf(&spec, &quantized)?;
    writer.set("general.file_type", GgufValue::U32(mix.file_type()));
    if let Some(name) = args.folder.file_name().and_then(|name| name.to_str()) {
        writer.set("general.name", GgufValue::String(name.to_owned()));
    }
    // What the K types' quantization is called since it is what it is.
    writer.set("general.quantization_version", GgufValue::U32(2));
    add_tokenizer(&mut writer, &files)?;
    let failed = |source| LauncherError::Write { path: args.out.clone(), source };
    let size = write_whole(&args.out, |out| writer.write_reporting(out, report)).map_err(failed)?;
    println!(
        "{}: {}, {:.1} MB (from {:.1} MB) in {:.1} s",
        args.out.display(),
        mix.name(),
        size as f64 / 1e6,
        tensors.total_bytes() as f64 / 1e6,
        started.elapsed().as_secs_f64()
    );
    Ok(0)
}

fn report(tensor: GgufProgress<'_>) {
    let GgufProgress { index, count, name, dtype, shape } = tensor;
    println!("[{:>4}/{count}] {name:<32} {dtype:<6} {shape:?}", index + 1);
}

/// Writes beside `path` and takes its place at the end, so that there never is half a file. Returns its size.
fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> std::io::Result<u64> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = (|| {
        let mut out = BufWriter::new(File::create(&partial)?);
        write(&mut out)?;
        out.flush()?;
        out.get_ref().sync_all()?;
        let size = out.get_ref().metadata()?.len();
        fs::rename(&partial, path)?;
        Ok(size)
    })();
    if written.is_err() {
        // Whatever failed is the error to tell; that the rest cannot be removed adds nothing.
        let _ = fs::remove_file(&partial);
    }
    written
}
