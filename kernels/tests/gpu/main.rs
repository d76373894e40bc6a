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
#[path = "../shared/dequantized.rs"]
mod dequantized;
#[path = "../cuda/devices.rs"]
mod devices;
#[path = "../shared/encoder.rs"]
mod encoder;
#[path = "../sampling/random.rs"]
mod generators;
#[path = "../cuda/linear.rs"]
mod linear;
#[path = "../cuda/low_rank.rs"]
mod low_rank;
#[path = "../shared/paged.rs"]
mod paged;
#[path = "../shared/products.rs"]
mod products;
#[path = "../shared/references.rs"]
mod references;
#[path = "../cuda/sample.rs"]
mod sample;
#[path = "../cuda/scaled.rs"]
mod scaled;
#[path = "../cuda/small_ops.rs"]
mod small_ops;
#[path = "../shared/stored.rs"]
mod stored;

use std::sync::{LazyLock, Mutex};

use weirgate_kernels::DType;
use weirgate_kernels::cuda::driver::{CompileSettings, Device, DeviceChoice, NvidiaGpu};
use weirgate_kernels::cuda::{CudaBackend, FactorType, Gpu};

type TestGpu = NvidiaGpu;

fn gpu() -> TestGpu {
    /// Keeps the device's context, which would be made anew for each test.
    static FIRST: LazyLock<Mutex<NvidiaGpu>> = LazyLock::new(|| Mutex::new(open()));
    LazyLock::force(&FIRST);
    open()
}

fn open() -> NvidiaGpu {
    let Device::Cuda(found) = Device::choose(DeviceChoice::Cuda(0)).unwrap() else { panic!("no GPU") };
    NvidiaGpu::new(&found, &CompileSettings::of_environment()).unwrap()
}

fn device() -> CudaBackend<TestGpu> {
    CudaBackend::new(gpu())
}

/// The GPU, if its tensor cores take numbers of eight bits.
fn ada() -> Option<TestGpu> {
    let gpu = gpu();
    FactorType::E4M3.suits(gpu.info()).then_some(gpu)
}

/// How far sums of their products may be off, as a part of the sum of magnitudes: Hopper adds them with about 14 bits, and
/// libraries move these sums to an f32 every few steps (DeepSeek-V3's report, <https://arxiv.org/abs/2412.19437>, 3.5.2).
const E4M3_SUMS: f64 = 5e-4;

/// Who only asks gets the answer of who uses it.
#[test]
fn a_device_tells_what_it_has_free() {
    let Device::Cuda(found) = Device::choose(DeviceChoice::Cuda(0)).unwrap() else { panic!("no GPU") };
    let (asked, used) = (found.memory_info().unwrap(), gpu().memory_info().unwrap());
    assert_eq!(asked.total, used.total);
    // Other tests take and give back at the same time.
    assert!(asked.free > 0 && asked.free <= asked.total, "{asked:?}");
}

/// More tiles than multiprocessors, for kernels whose blocks take one after the other.
#[test]
fn products_of_many_tiles() {
    for dtype in [DType::F16, DType::BF16] {
        for (rows, cols, outputs) in [(131, 600, 140), (1025, 130, 300), (1100, 100, 4200)] {
            let mut case = products::Case::new(rows, cols, outputs, true);
            linear::round_x(&mut case, dtype, |_| 1.0);
            linear::check(&mut device(), &case, dtype);
        }
    }
}

/// Several tiles of keys and of queries.
#[test]
fn long_stretches() {
    for case in attention::long_stretches() {
        for dtype in [DType::F16, DType::BF16] {
            let case = paged::Case { dtype: dtype.into(), ..case.clone() };
            attention::check_stretches(&case, device, |_| ());
        }
    }
}
