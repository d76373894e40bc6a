//! Every op on a real GPU, against the references of the other devices' tests. No part of `cargo test`: it needs a GPU
//! (`make gpu-check`).

// Helpers outside of `#[test]` functions, which clippy.toml does not see as tests.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../cuda/attention.rs"]
mod attention;
#[path = "../cuda/blocks.rs"]
mod blocks;
#[path = "../shared/common.rs"]
mod common;
#[path = "../sampling/random.rs"]
mod generators;
#[path = "../cuda/linear.rs"]
mod linear;
#[path = "../shared/paged.rs"]
mod paged;
#[path = "../shared/products.rs"]
mod products;
#[path = "../shared/references.rs"]
mod references;
#[path = "../cuda/sample.rs"]
mod sample;
#[path = "../cuda/small_ops.rs"]
mod small_ops;
#[path = "../shared/stored.rs"]
mod stored;

use std::sync::{LazyLock, Mutex};

use weirgate_kernels::cuda::CudaBackend;
use weirgate_kernels::cuda::driver::{CompileSettings, Device, DeviceChoice, NvidiaGpu};

type TestGpu = NvidiaGpu;

fn gpu() -> TestGpu {
    /// Keeps the device's context, which would be made anew for each test.
    static FIRST: LazyLock<Mutex<NvidiaGpu>> = LazyLock::new(|| Mutex::new(open()));
    LazyLock::force(&FIRST);
    open()
}

fn open() -> NvidiaGpu {
    let Device::Cuda(found) = Device::choose(DeviceChoice::Cuda(0)).unwrap() else { panic!("no GPU") };
    // As the server takes it: `own` or nothing.
    let own_gemm = std::env::var("CUDA_GEMM").is_ok_and(|whose| whose == "own");
    NvidiaGpu::new(&found, &CompileSettings { own_gemm, ..CompileSettings::default() }).unwrap()
}

fn device() -> CudaBackend<TestGpu> {
    CudaBackend::new(gpu())
}
