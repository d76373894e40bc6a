//! The kernels for real GPUs: nvcc compiles every `.cu` file, where it is found; images and sources are embedded in the
//! binary (`src/cuda/driver/images.rs`).
//!
//! nvcc is looked for in `NVCC`, `CUDA_HOME`, `PATH` and `.cuda` (`make cuda-toolchain`), in this order. A file is
//! compiled anew only when it, a header, nvcc or the flags changed.

use std::collections::hash_map::DefaultHasher;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Machine code for what is deployed, and PTX, which the driver compiles on chips that are newer: with products of eight bits
/// for those that have them.
const TARGETS: &[&str] = &[
    "-gencode=arch=compute_80,code=[sm_80,compute_80]",
    "-gencode=arch=compute_89,code=[sm_89,compute_89]",
    "-gencode=arch=compute_90a,code=sm_90a",
    "-gencode=arch=compute_100a,code=sm_100a",
];
/// `-v` of the assembler is what the test of registers and stack frames reads.
const FLAGS: &[&str] = &["-std=c++17", "-O3", "-fatbin", "-compress-mode=size", "-Xptxas=-v"];
/// Files compiled at a time.
const JOBS: usize = 2;

/// Compiles `kernels` (all of `csrc/*.cu`) if nvcc is found, and writes the table of images and sources.
pub fn build(kernels: Vec<PathBuf>) -> Result<()> {
    let manifest = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("cuda");
    fs::create_dir_all(&out)?;
    for variable in ["NVCC", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let kernels = kernels.iter().map(|path| manifest.join(path)).collect();
    let sources = Sources { kernels, headers: headers(&manifest.join("csrc"))? };
    let nvcc = match find_nvcc(&manifest) {
        Some(path) => Some(Nvcc::new(path)?),
        None => None,
    };
    remove_stale(&sources, &out)?;
    if let Some(nvcc) = &nvcc {
        compile_all(nvcc, &sources, &out)?;
    }
    fs::write(out.join("images.rs"), generated(nvcc.as_ref(), &sources, &out)?)?;
    Ok(())
}

struct Sources {
    kernels: Vec<PathBuf>,
    headers: Vec<PathBuf>,
}

/// The headers that device code includes; the emulation's own are in a folder below.
fn headers(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "h" || extension == "cuh") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

struct Nvcc {
    path: PathBuf,
    /// Major and minor.
    version: (u32, u32),
}

impl Nvcc {
    fn new(path: PathBuf) -> Result<Self> {
        let output =
            Command::new(&path).arg("--version").output().map_err(|e| format!("{}: {e}", path.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version =
            text.split("release ").nth(1).and_then(|rest| rest.split(',').next()).and_then(|version| {
                let (major, minor) = version.trim().split_once('.')?;
                Some((major.parse().ok()?, minor.parse().ok()?))
            });
        let version =
            version.ok_or_else(|| format!("{} --version says no release: {text}", path.display()))?;
        Ok(Self { path, version })
    }
}

fn find_nvcc(manifest: &Path) -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(nvcc) = set("NVCC") {
        return Some(nvcc.into());
    }
    let folders = set("CUDA_HOME").map(|home| Path::new(&home).join("bin")).into_iter();
    let folders = folders.chain(set("PATH").iter().flat_map(std::env::split_paths).collect::<Vec<_>>());
    let folders = folders.chain([manifest.join("../.cuda/bin")]);
    folders.map(|folder| folder.join("nvcc")).find(|path| path.is_file())
}

fn compile_all(nvcc: &Nvcc, sources: &Sources, out: &Path) -> Result<()> {
    let mut common = DefaultHasher::new();
    (nvcc.version, TARGETS, FLAGS).hash(&mut common);
    for header in &sources.headers {
        (file_name(header), fs::read(header)?).hash(&mut common);
    }
    let common = common.finish();
    let queue = Mutex::new(sources.kernels.iter());
    let worker = || -> Result<()> {
        loop {
            let next = queue.lock().map_err(|e| e.to_string())?.next();
            let Some(source) = next else { return Ok(()) };
            compile(nvcc, source, common, out)?;
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..JOBS).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a compile thread panicked")?)
    })
}

/// What was made from files that are gone.
fn remove_stale(sources: &Sources, out: &Path) -> Result<()> {
    let names: Vec<_> = sources.kernels.iter().map(|source| source.file_stem()).collect();
    for entry in fs::read_dir(out)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "rs") && !names.contains(&path.file_stem()) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// `<name>.fatbin` and, from the assembler, `<name>.ptxas`; `<name>.stamp` says what they were made from.
fn compile(nvcc: &Nvcc, source: &Path, common: u64, out: &Path) -> Result<()> {
    let mut hasher = DefaultHasher::new();
    (common, fs::read(source)?).hash(&mut hasher);
    let stamp = hasher.finish().to_string();
    let product = |extension: &str| out.join(file_name(source)).with_extension(extension);
    if fs::read_to_string(product("stamp")).is_ok_and(|made| made == stamp) && product("fatbin").is_file() {
        return Ok(());
    }
    let output = Command::new(&nvcc.path)
        .args(FLAGS)
        .args(TARGETS)
        .arg("-o")
        .arg(product("fatbin"))
        .arg(source)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("nvcc failed on {}:\n{said}", source.display()).into());
    }
    fs::write(product("ptxas"), said.as_bytes())?;
    Ok(fs::write(product("stamp"), stamp)?)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The Rust tables of what there is; images are aligned as the driver reads them.
fn generated(nvcc: Option<&Nvcc>, sources: &Sources, out: &Path) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "pub(super) const TOOLKIT: Option<(u32, u32)> = {:?};", nvcc.map(|nvcc| nvcc.version))?;
    let images = if nvcc.is_some() { sources.kernels.as_slice() } else { &[] };
    if !images.is_empty() {
        writeln!(
            text,
            "/// The driver reads images in words.\n#[repr(align(16))]\nstruct Aligned<T: ?Sized>(T);"
        )?;
    }
    for (n, source) in images.iter().enumerate() {
        let image = out.join(file_name(source)).with_extension("fatbin");
        writeln!(text, "static IMAGE_{n}: &Aligned<[u8]> = &Aligned(*include_bytes!({image:?}));")?;
    }
    writeln!(text, "pub(super) static IMAGES: &[&[u8]] = &[")?;
    for n in 0..images.len() {
        writeln!(text, "    &IMAGE_{n}.0,")?;
    }
    writeln!(text, "];")?;
    for (table, files) in [("SOURCES", &sources.kernels), ("HEADERS", &sources.headers)] {
        writeln!(text, "pub(super) static {table}: &[Source] = &[")?;
        for file in files {
            writeln!(text, "    Source {{ name: {:?}, text: include_str!({file:?}) }},", file_name(file))?;
        }
        writeln!(text, "];")?;
    }
    Ok(text)
}
