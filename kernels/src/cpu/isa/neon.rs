//! NEON. The token is made only by [`run`] and [`Neon::new`], whose callers vouch for the processor; that is what makes
//! every intrinsic below sound.
#![allow(unsafe_code)]

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use half::{bf16, f16};

use super::{Kernel, Simd};

pub(super) fn has_neon() -> bool {
    is_aarch64_feature_detected!("neon")
}

/// # Safety
/// The processor has NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) {
    kernel.run(Neon(()));
}

#[derive(Clone, Copy)]
pub(super) struct Neon(());

impl Neon {
    /// # Safety
    /// The processor has NEON.
    pub(super) unsafe fn new() -> Self {
        Self(())
    }
}

/// 128 bits, four times.
#[derive(Clone, Copy)]
pub(super) struct Four<T>(pub(super) T, pub(super) T, pub(super) T, pub(super) T);

impl<T: Copy> Four<T> {
    #[inline(always)]
    pub(super) fn all(value: T) -> Self {
        Self(value, value, value, value)
    }
    /// `f(part)` for each quarter.
    #[inline(always)]
    pub(super) fn from_parts(f: impl Fn(usize) -> T) -> Self {
        Self(f(0), f(1), f(2), f(3))
    }
    #[inline(always)]
    pub(super) fn map<U>(self, f: impl Fn(T) -> U) -> Four<U> {
        Four(f(self.0), f(self.1), f(self.2), f(self.3))
    }
    #[inline(always)]
    pub(super) fn zip<U, R>(self, other: Four<U>, f: impl Fn(T, U) -> R) -> Four<R> {
        Four(f(self.0, other.0), f(self.1, other.1), f(self.2, other.2), f(self.3, other.3))
    }
    #[inline(always)]
    fn zip3(self, b: Self, c: Self, f: impl Fn(T, T, T) -> T) -> Self {
        Self(f(self.0, b.0, c.0), f(self.1, b.1, c.1), f(self.2, b.2, c.2), f(self.3, b.3, c.3))
    }
}

type V = Four<float32x4_t>;

/// Four f32 from as many f16, their bits in `halves`.
#[inline(always)]
pub(super) fn widen_f16(halves: uint16x4_t) -> float32x4_t {
    // SAFETY: tokens exist only where the processor has NEON, and this is called by their methods alone.
    unsafe { vcvt_f32_f16(vreinterpret_f16_u16(halves)) }
}

/// Sixteen pairs of bf16, as 32-bit words.
#[inline(always)]
fn bf16_pairs(from: &[[bf16; 16]; 2]) -> Four<uint32x4_t> {
    // SAFETY: as for [`widen_f16`]; four quarters of sixteen bytes follow each other in the array.
    Four::from_parts(|part| unsafe { vld1q_u32(from.as_ptr().cast::<u32>().add(4 * part)) })
}

// SAFETY (every block): the token proves the feature; loads and stores stay within references of the exact size, the
// parts of which follow each other; a prefetch may name any address.
impl Simd for Neon {
    type V = V;
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, value: f32) -> V {
        Four::all(unsafe { vdupq_n_f32(value) })
    }
    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> V {
        Four::from_parts(|part| unsafe { vld1q_f32(from.as_ptr().add(4 * part)) })
    }
    #[inline(always)]
    fn store(self, v: V, to: &mut [f32; 16]) {
        let p = to.as_mut_ptr();
        unsafe {
            vst1q_f32(p, v.0);
            vst1q_f32(p.add(4), v.1);
            vst1q_f32(p.add(8), v.2);
            vst1q_f32(p.add(12), v.3);
        }
    }
    #[inline(always)]
    fn load_f16(self, from: &[f16; 16]) -> V {
        Four::from_parts(|part| widen_f16(unsafe { vld1_u16(from.as_ptr().cast::<u16>().add(4 * part)) }))
    }
    #[inline(always)]
    fn load_bf16_first(self, from: &[[bf16; 16]; 2]) -> V {
        bf16_pairs(from).map(|pairs| unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs)) })
    }
    #[inline(always)]
    fn load_bf16_second(self, from: &[[bf16; 16]; 2]) -> V {
        let second = |pairs| unsafe { vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff_0000))) };
        bf16_pairs(from).map(second)
    }
    #[inline(always)]
    fn prefetch<T>(self, at: *const T) {
        unsafe { asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nomem, nostack, preserves_flags)) }
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        a.zip(b, |a, b| unsafe { vaddq_f32(a, b) })
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        a.zip(b, |a, b| unsafe { vsubq_f32(a, b) })
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        a.zip(b, |a, b| unsafe { vmulq_f32(a, b) })
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        a.zip(b, |a, b| unsafe { vdivq_f32(a, b) })
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        a.zip3(b, c, |a, b, c| unsafe { vfmaq_f32(c, a, b) })
    }
    #[inline(always)]
    fn nfma(self, a: V, b: V, c: V) -> V {
        a.zip3(b, c, |a, b, c| unsafe { vfmsq_f32(c, a, b) })
    }
    // The instructions for these have other rules for NaN.
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        a.zip(b, |a, b| unsafe { vbslq_f32(vcltq_f32(a, b), a, b) })
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        a.zip(b, |a, b| unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) })
    }
    #[inline(always)]
    fn round(self, a: V) -> V {
        a.map(|a| unsafe { vrndnq_f32(a) })
    }
    // In two factors, as 2^128 is no f32.
    #[inline(always)]
    fn scale2(self, a: V, n: V) -> V {
        a.zip(n, |a, n| unsafe {
            let power = |n| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127))));
            let n = vcvtq_s32_f32(n);
            let half = vshrq_n_s32::<1>(n);
            vmulq_f32(vmulq_f32(a, power(half)), power(vsubq_s32(n, half)))
        })
    }
    #[inline(always)]
    fn select_lt(self, a: V, b: V, yes: V, no: V) -> V {
        let less = a.zip(b, |a, b| unsafe { vcltq_f32(a, b) });
        less.zip(yes.zip(no, |yes, no| (yes, no)), |less, (yes, no)| unsafe { vbslq_f32(less, yes, no) })
    }
    #[inline(always)]
    fn keep(self, v: V, from: usize, to: usize, other: V) -> V {
        const LANES: [u32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        let kept = Four::from_parts(|part| unsafe {
            let lane = vld1q_u32(LANES.as_ptr().add(4 * part));
            let below = |n: usize| vcltq_u32(lane, vdupq_n_u32(n.min(16) as u32));
            vbicq_u32(below(to), below(from))
        });
        kept.zip(v.zip(other, |v, other| (v, other)), |kept, (v, other)| unsafe { vbslq_f32(kept, v, other) })
    }
    #[inline(always)]
    fn max_lane(self, v: V) -> f32 {
        unsafe { vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(v.0, v.1), vmaxnmq_f32(v.2, v.3))) }
    }
}
