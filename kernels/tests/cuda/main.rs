//! Every kernel of the CUDA device, through the emulation, against the references of the CPU device's tests.

// Helpers outside of `#[test]` functions, which clippy.toml does not see as tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod attention;
mod blocks;
#[path = "../shared/common.rs"]
mod common;
mod coverage;
#[path = "../shared/dequantized.rs"]
mod dequantized;
mod devices;
mod emulation;
#[path = "../shared/encoder.rs"]
mod encoder;
#[path = "../sampling/random.rs"]
mod generators;
mod graphs;
mod group;
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
mod scaled;
mod small_ops;
#[path = "../shared/stored.rs"]
mod stored;

use weirgate_kernels::cpu::CpuBackend;
use weirgate_kernels::cuda::{CudaBackend, Emulator};
use weirgate_kernels::{Backend, ScaledRowsView};

type TestGpu = Emulator;

fn gpu() -> TestGpu {
    coverage::watch();
    Emulator::new().unwrap()
}

fn device() -> CudaBackend<TestGpu> {
    CudaBackend::new(gpu())
}

/// A chip whose tensor cores take numbers of eight bits.
fn ada() -> Option<TestGpu> {
    Some(gpu().with_capability((8, 9)))
}

/// How far sums of their products may be off, as a part of the sum of magnitudes.
const E4M3_SUMS: f64 = 1e-6;

#[test]
fn older_chips_take_no_numbers_of_eight_bits() {
    let view = ScaledRowsView { rows: 1, cols: 2, codes: &[0x38; 2], scales: &[1.0] };
    for (capability, taken) in [((8, 0), false), ((8, 6), false), ((8, 9), true), ((9, 0), true)] {
        let device = CudaBackend::new(gpu().with_capability(capability));
        assert_eq!(device.scaled_matrix(&[view]).unwrap().is_some(), taken, "{capability:?}");
    }
    assert!(CpuBackend::new(1).scaled_matrix(&[view]).unwrap().is_none());
}
