//! Which instructions to use: chosen once at run time, the same code for all.
//!
//! A kernel is written once over [`Simd`], sixteen f32 lanes with a fixed meaning, and compiled for every [`Isa`].
//! Each operation rounds the same way on every instruction set with fused multiply-add, so AVX2, AVX-512 and NEON give
//! the same bits.

mod dot;
#[cfg(target_arch = "aarch64")]
mod dot_neon;
#[cfg(target_arch = "x86_64")]
mod dot_x86;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use dot::{Dot, DotKernel, Range, dot_quad};
use half::{bf16, f16};

/// An instruction set the CPU device has code for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust, for any processor.
    Portable,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// With AVX-VNNI too, which matters to quantized weights alone.
    AvxVnni,
    /// AVX-512 F and BW.
    Avx512,
    /// With AVX-512 VNNI too, which matters to quantized weights alone.
    Avx512Vnni,
    /// NEON.
    Neon,
    /// With dot products of int8 too, which matter to quantized weights alone.
    NeonDot,
    /// With matrix products of int8 too, which matter to quantized weights alone.
    NeonI8mm,
}

impl Isa {
    /// Every instruction set this processor has, worst first.
    pub fn available() -> impl Iterator<Item = Isa> {
        use Isa::*;
        [Portable, Avx2, AvxVnni, Avx512, Avx512Vnni, Neon, NeonDot, NeonI8mm]
            .into_iter()
            .filter(|isa| isa.is_available())
    }

    /// The best instruction set this processor has.
    pub fn detect() -> Isa {
        Isa::available().last().unwrap_or(Isa::Portable)
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86::has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => dot_x86::has_avx_vnni(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86::has_avx512(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => dot_x86::has_avx512_vnni(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::has_neon(),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => dot_neon::has_dot(),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => dot_neon::has_i8mm(),
            _ => false,
        }
    }
}

/// An [`Isa`] this processor is known to have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dispatch(Isa);

impl Dispatch {
    /// `isa`, or the best one there is where the processor lacks it.
    pub(crate) fn new(isa: Isa) -> Self {
        Self(if isa.is_available() { isa } else { Isa::detect() })
    }

    pub(crate) fn isa(self) -> Isa {
        self.0
    }

    /// Runs `kernel` compiled for this instruction set.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) fn run<K: Kernel>(self, kernel: K) {
        match self.0 {
            // SAFETY: `Dispatch::new` keeps only what the processor has.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Vnni => unsafe { x86::run_avx512(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => unsafe { x86::run_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDot | Isa::NeonI8mm => unsafe { neon::run(kernel) },
            _ => kernel.run(portable::Portable),
        }
    }
}

/// A piece of work written over [`Simd`]. `run` is `#[inline(always)]`, as is all it calls, so that the whole body is
/// compiled with the instruction set's features.
pub(crate) trait Kernel {
    fn run<S: Simd>(self, simd: S);
}

/// Sixteen f32 lanes. A value of the implementing type is the proof that the processor has the instructions.
pub(crate) trait Simd: Copy {
    type V: Copy;
    /// Whether there are registers for a tile of 24 accumulators (else for six).
    const WIDE: bool;

    fn splat(self, value: f32) -> Self::V;
    fn load(self, from: &[f32; 16]) -> Self::V;
    fn store(self, v: Self::V, to: &mut [f32; 16]);
    /// Sixteen f16.
    fn load_f16(self, from: &[f16; 16]) -> Self::V;
    /// The first of each of sixteen pairs of bf16 that lie back to back.
    fn load_bf16_first(self, from: &[[bf16; 16]; 2]) -> Self::V;
    /// The second of each.
    fn load_bf16_second(self, from: &[[bf16; 16]; 2]) -> Self::V;
    /// Brings the cache line at `at` into the second-level cache.
    fn prefetch<T>(self, at: *const T);

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c - a * b`.
    fn nfma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a < b ? a : b`, so `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a > b ? a : b`, so `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// `a * 2^n` for integral `-126 <= n <= 128`.
    fn scale2(self, a: Self::V, n: Self::V) -> Self::V;
    /// `a < b ? yes : no`.
    fn select_lt(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// Lanes `from..to` of `v`, `other` elsewhere.
    fn keep(self, v: Self::V, from: usize, to: usize, other: Self::V) -> Self::V;
    /// The largest lane.
    fn max_lane(self, v: Self::V) -> f32;

    /// Sum of the lanes by halves: 8 + 8, 4 + 4, 2 + 2, 1 + 1.
    #[inline(always)]
    fn sum_lanes(self, v: Self::V) -> f32 {
        let mut a = [0.0; 16];
        self.store(v, &mut a);
        let mut half = 8;
        while half > 0 {
            for i in 0..half {
                a[i] += a[i + half];
            }
            half /= 2;
        }
        a[0]
    }
}

/// Up to sixteen elements, zero beyond.
#[inline(always)]
pub(crate) fn load_part<S: Simd>(s: S, from: &[f32]) -> S::V {
    match from.first_chunk() {
        Some(whole) => s.load(whole),
        None => {
            let mut lanes = [0.0; 16];
            for (lane, &value) in lanes.iter_mut().zip(from) {
                *lane = value;
            }
            s.load(&lanes)
        }
    }
}

/// The first `to.len()` lanes, at most sixteen.
#[inline(always)]
pub(crate) fn store_part<S: Simd>(s: S, v: S::V, to: &mut [f32]) {
    match to.first_chunk_mut() {
        Some(whole) => s.store(v, whole),
        None => {
            let mut lanes = [0.0; 16];
            s.store(v, &mut lanes);
            for (to, &lane) in to.iter_mut().zip(&lanes) {
                *to = lane;
            }
        }
    }
}
