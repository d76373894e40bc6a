//! The whole engine on a real GPU: its tokens are the CPU device's. No part of `cargo test`: it needs a GPU
//! (`make gpu-check`).
#![allow(clippy::expect_used, clippy::panic)]

#[path = "cuda/adapters.rs"]
mod adapters;
#[path = "cuda/embedders.rs"]
mod embedders;
#[path = "cuda/faults.rs"]
mod faults;
#[path = "cuda/gguf.rs"]
mod gguf;
#[path = "cuda/kv.rs"]
mod kv;
#[path = "cuda/parity.rs"]
mod parity;
#[path = "cuda/quantized.rs"]
mod quantized;
mod real;
#[path = "cuda/two_gpus.rs"]
mod two_gpus;

use weirgate_kernels::cuda::driver::{CompileSettings, Device, DeviceChoice, NvidiaGpu};

fn gpu() -> NvidiaGpu {
    let Ok(Device::Cuda(found)) = Device::choose(DeviceChoice::Cuda(0)) else { panic!("no GPU") };
    NvidiaGpu::new(&found, &CompileSettings::of_environment()).unwrap_or_else(|error| panic!("{error}"))
}

/// It may be one whose tensor cores take numbers of eight bits.
fn ada() -> NvidiaGpu {
    gpu()
}
