//! The devices to test.

use weirgate_kernels::cpu::{CpuBackend, Isa};

pub type Device = CpuBackend;
/// How far products may be off.
pub const TOLERANCE: f64 = 2e-5;

/// One device per instruction set of this machine, those left out that differ in integers alone.
pub fn devices(threads: usize) -> impl Iterator<Item = Device> {
    let floats = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Neon];
    floats.into_iter().filter(|isa| isa.is_available()).map(move |isa| CpuBackend::with_isa(threads, isa))
}
