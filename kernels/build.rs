//! Builds the CUDA kernels of `csrc/`.

#[path = "build/emulator.rs"]
mod emulator;
#[path = "build/nvcc.rs"]
mod nvcc;

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    println!("cargo::rerun-if-changed=csrc");
    println!("cargo::rerun-if-changed=build");
    let sources = sources();
    emulator::build(&sources);
    nvcc::build(sources)
}

/// The `.cu` files of `csrc/`, in order.
fn sources() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir("csrc") else { return Vec::new() };
    let mut sources: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .collect();
    sources.sort();
    sources
}
