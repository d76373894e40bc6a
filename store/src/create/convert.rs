//! Checkpoints into GGUF blobs.

use std::io::{self, BufWriter, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, process};

use weirgate_models::{
    Adapter, DType, Gguf, GgufProgress, GgufSource, GgufValue, GgufWriter, ModelError, ModelFiles, ModelSpec,
    QuantMix, add_tokenizer, open_tensors_in_one_thread, read_spec, requantize,
};

use crate::StoreError;
use crate::entry::{Progress, Report};
use crate::name::Digest;
use crate::own::{CONVERSION, Writing, work_folder};

const BUFFER_BYTES: usize = 1 << 20;
/// What Ollama shows as digest of a quantization under way.
const NO_DIGEST: &str = "0000000000000000000";

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// The client sees what is wrong with its checkpoint, not where it lies here.
pub(super) fn unreadable(error: ModelError) -> StoreError {
    tracing::info!("refused a checkpoint: {error}");
    StoreError::invalid(match error {
        ModelError::File { message, .. } => message,
        ModelError::Config { key, message, .. } => format!("key '{key}': {message}"),
        ModelError::Tensor { tensor, message, .. } => format!("tensor '{tensor}': {message}"),
        ModelError::UnsupportedArchitecture { architecture, supported, .. } => {
            format!("architecture '{architecture}' is not supported; supported: {supported}")
        }
        other => other.to_string(),
    })
}

/// A safetensors folder as a GGUF blob, its matrices as they are stored.
///
/// # Errors
/// A checkpoint that cannot be read or that GGUF has no words for.
pub(super) fn to_gguf(
    writing: &Writing<'_>,
    files: &ModelFiles,
    report: &mut Report<'_>,
) -> Result<(Digest, u64), StoreError> {
    let spec = read_spec(files).map_err(unreadable)?;
    let tensors = open_tensors_in_one_thread(files).map_err(unreadable)?;
    spec.check_tensors(tensors.as_ref()).map_err(unreadable)?;
    let mut writer = weirgate_models::to_gguf(&spec, tensors.as_ref()).map_err(unreadable)?;
    let file_type = match tensors.info(&spec.tensors.embedding).map_err(unreadable)?.0 {
        DType::F32 => 0,
        DType::BF16 => QuantMix::BF16.file_type(),
        _ => QuantMix::F16.file_type(),
    };
    writer.set("general.file_type", GgufValue::U32(file_type));
    add_tokenizer(&mut writer, files).map_err(unreadable)?;
    write(writing, &writer, "converting model", report)
}

/// The weights of `gguf` in the types of `mix`, as a new blob.
///
/// # Errors
/// An architecture or a tensor that is not supported.
pub(super) fn quantize(
    writing: &Writing<'_>,
    gguf: Gguf,
    mix: QuantMix,
    status: &str,
    report: &mut Report<'_>,
) -> Result<(Digest, u64), StoreError> {
    let files = ModelFiles::from(gguf);
    let gguf = files.gguf().map(Arc::clone).ok_or_else(|| StoreError::invalid("not a GGUF file"))?;
    let spec = read_spec(&files).map_err(unreadable)?;
    let source = GgufSource::new(Arc::clone(&gguf)).map_err(unreadable)?;
    let writer = requantize(&gguf, &source, &spec, mix).map_err(unreadable)?;
    write(writing, &writer, status, report)
}

/// The adapter in a folder of PEFT's, which belongs to a model like `base`, as a GGUF blob.
///
/// # Errors
/// An adapter that cannot be read, or that does not fit the base.
pub(super) fn adapter_to_gguf(
    writing: &Writing<'_>,
    folder: &Path,
    base: &ModelSpec,
    report: &mut Report<'_>,
) -> Result<(Digest, u64), StoreError> {
    let adapter = Adapter::open(folder, base).map_err(unreadable)?;
    let writer = adapter.to_gguf(base).map_err(unreadable)?;
    write(writing, &writer, "converting adapter", report)
}

/// Writes a blob, a line of progress for each tensor.
fn write(
    writing: &Writing<'_>,
    writer: &GgufWriter<'_>,
    status: &str,
    report: &mut Report<'_>,
) -> Result<(Digest, u64), StoreError> {
    let stopped = std::cell::Cell::new(false);
    let mut out =
        BufWriter::with_capacity(BUFFER_BYTES, Stoppable { inner: writing.blob()?, stopped: &stopped });
    let each = |GgufProgress { index, count, .. }: GgufProgress<'_>| {
        let progress = Progress {
            status: status.to_owned(),
            digest: NO_DIGEST.to_owned(),
            total: count as u64,
            completed: index as u64 + 1,
        };
        stopped.set(stopped.get() || report(progress).is_break());
    };
    let written = writer.write_reporting(&mut out, each).and_then(|()| out.flush());
    let blob = out.into_parts().0.inner;
    match written {
        _ if stopped.get() => Err(StoreError::Canceled),
        Ok(()) => blob.finish(None),
        Err(error) => match error.downcast::<ModelError>() {
            Ok(model) => Err(unreadable(model)),
            Err(error) => Err(blob.failed(error, 0)),
        },
    }
}

struct Stoppable<'a, W> {
    inner: W,
    stopped: &'a std::cell::Cell<bool>,
}

impl<W: Write> Write for Stoppable<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stopped.get() {
            return Err(io::Error::other("canceled"));
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A folder of links to blobs, under the names that a checkpoint's files have. Removed when dropped.
pub(super) struct Folder {
    pub path: PathBuf,
}

impl Folder {
    /// # Errors
    /// Names that are no plain file names; a folder that cannot be made.
    pub fn of_links(store: &Path, files: &[(&str, PathBuf)]) -> Result<Self, StoreError> {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = work_folder(store).join(format!("{CONVERSION}{}-{number}", process::id()));
        let what = || "a folder for the conversion".to_owned();
        fs::create_dir_all(&path).map_err(StoreError::io(what()))?;
        let folder = Self { path };
        for (name, blob) in files {
            if matches!(*name, "" | "." | "..") || name.contains(['/', '\\', '\0', ':']) || name.len() > 200 {
                return Err(StoreError::invalid("file path must be relative, and a plain name"));
            }
            let blob = fs::canonicalize(blob).map_err(StoreError::io(what()))?;
            symlink(blob, folder.path.join(name)).map_err(StoreError::io(what()))?;
        }
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
