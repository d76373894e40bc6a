//! The devices to test.

use weirgate_kernels::cpu::{CpuBackend, Isa};

/// One device per instruction set of this machine, those left out that differ in integers alone.
pub fn devices(threads: usize) -> impl Iterator<Item = CpuBackend> {
    let floats = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Neon];
    floats.into_iter().filter(|isa| isa.is_available()).map(move |isa| CpuBackend::with_isa(threads, isa))
}
