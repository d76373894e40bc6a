//! The whole engine (scheduler, cache, decoder, sampler) on the CUDA device, whose kernels run on the emulated GPU: its
//! tokens are the CPU device's.
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
#[path = "cuda/serving.rs"]
mod serving;
#[path = "cuda/shards.rs"]
mod shards;

use weirgate_kernels::cuda::Emulator;

fn gpu() -> Emulator {
    Emulator::new().expect("an emulated GPU")
}

/// One whose tensor cores take numbers of eight bits.
fn ada() -> Emulator {
    gpu().with_capability((8, 9))
}
