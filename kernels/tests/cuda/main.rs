//! Every kernel of the CUDA device, through the emulation, against the references of the CPU device's tests.

// Helpers outside of `#[test]` functions, which clippy.toml does not see as tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod attention;
mod blocks;
#[path = "../shared/common.rs"]
mod common;
mod emulation;
#[path = "../sampling/random.rs"]
mod generators;
mod graphs;
mod hopper;
mod library;
mod linear;
mod low_rank;
#[path = "../shared/paged.rs"]
mod paged;
#[path = "../shared/products.rs"]
mod products;
#[path = "../shared/references.rs"]
mod references;
mod sample;
mod small_ops;
#[path = "../shared/stored.rs"]
mod stored;

use weirgate_kernels::cuda::{CudaBackend, Emulator};

type TestGpu = Emulator;

fn gpu() -> TestGpu {
    Emulator::new().unwrap()
}

fn device() -> CudaBackend<TestGpu> {
    CudaBackend::new(gpu())
}
