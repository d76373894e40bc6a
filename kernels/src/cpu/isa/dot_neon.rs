//! [`Dot`] on NEON, plain, with the dot product instructions, and with those for matrices of int8. The tokens are made
//! only by the `run_*` functions, as in [`super::neon`].
#![allow(unsafe_code)]

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::dot::{Dot, DotKernel, Range, dot_quads};
use super::neon::{self, Four, Neon, widen_f16};

pub(super) fn has_dot() -> bool {
    neon::has_neon() && is_aarch64_feature_detected!("dotprod")
}

pub(super) fn has_i8mm() -> bool {
    has_dot() && is_aarch64_feature_detected!("i8mm")
}

/// # Safety
/// The processor has NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run_neon<K: DotKernel>(kernel: K) {
    // SAFETY: as the caller promises.
    kernel.run(Bytes::<PLAIN>(unsafe { Neon::new() }));
}

/// # Safety
/// The processor has NEON with dot products.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn run_dot<K: DotKernel>(kernel: K) {
    // SAFETY: as the caller promises.
    kernel.run(Bytes::<DOT>(unsafe { Neon::new() }));
}

/// # Safety
/// The processor has NEON with dot products and matrix products of int8.
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(super) unsafe fn run_i8mm<K: DotKernel>(kernel: K) {
    // SAFETY: as the caller promises.
    kernel.run(Bytes::<I8MM>(unsafe { Neon::new() }));
}

/// Products of bytes are widened and added pair by pair.
const PLAIN: u8 = 0;
/// `sdot`: both factors are signed.
const DOT: u8 = 1;
/// `usdot` and, for two rows of activations at a time, `usmmla`.
const I8MM: u8 = 2;

#[derive(Clone, Copy)]
struct Bytes<const WITH: u8>(Neon);

/// An instruction `acc += a · b` that the compiler offers no function for.
macro_rules! product {
    ($extension:literal, $instruction:literal, $acc:expr, $a:expr, $b:expr) => {{
        let mut acc = $acc;
        asm!(
            concat!(".arch_extension ", $extension),
            concat!($instruction, " {acc:v}.4s, {a:v}.16b, {b:v}.16b"),
            acc = inlateout(vreg) acc,
            a = in(vreg) $a,
            b = in(vreg) $b,
            options(pure, nomem, nostack, preserves_flags),
        );
        acc
    }};
}

// SAFETY (every block): the token proves the features; loads and stores stay within references of the exact size, the
// parts of which follow each other.
impl<const WITH: u8> Bytes<WITH> {
    #[inline(always)]
    fn dot_part(self, acc: int32x4_t, codes: uint8x16_t, x: uint8x16_t) -> int32x4_t {
        unsafe {
            if WITH == I8MM {
                return product!("i8mm", "usdot", acc, codes, x);
            }
            if WITH == DOT {
                return product!("dotprod", "sdot", acc, codes, x);
            }
            let (codes, x) = (vreinterpretq_s8_u8(codes), vreinterpretq_s8_u8(x));
            // A sum of two products, each of at most 128 * 127, fits into 16 bits.
            let low = vmull_s8(vget_low_s8(codes), vget_low_s8(x));
            vpadalq_s16(acc, vpaddq_s16(low, vmull_high_s8(codes, x)))
        }
    }

    /// `acc`, 2 × 2, plus two rows of eight codes times two rows of eight of `x`.
    #[inline(always)]
    fn matrix_part(self, acc: int32x4_t, codes: uint8x16_t, x: int8x16_t) -> int32x4_t {
        unsafe { product!("i8mm", "usmmla", acc, codes, x) }
    }

    /// Two quads, such that eight columns of a row lie together: rows 0 to 7, rows 8 to 15.
    #[inline(always)]
    fn together(self, a: Four<uint8x16_t>, b: Four<uint8x16_t>) -> [Four<uint8x16_t>; 2] {
        let both = |a, b| unsafe {
            let (a, b) = (vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b));
            (vreinterpretq_u8_u32(vzip1q_u32(a, b)), vreinterpretq_u8_u32(vzip2q_u32(a, b)))
        };
        let Four(p, q, r, s) = a.zip(b, both);
        [Four(p.0, p.1, q.0, q.1), Four(r.0, r.1, s.0, s.1)]
    }

    /// The two quads that `low` and `high` were made of.
    #[inline(always)]
    fn apart(self, low: Four<uint8x16_t>, high: Four<uint8x16_t>) -> [Four<uint8x16_t>; 2] {
        let both = |a, b| unsafe {
            let (a, b) = (vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b));
            (vreinterpretq_u8_u32(vuzp1q_u32(a, b)), vreinterpretq_u8_u32(vuzp2q_u32(a, b)))
        };
        let parts = Four(both(low.0, low.1), both(low.2, low.3), both(high.0, high.1), both(high.2, high.3));
        [parts.map(|part| part.0), parts.map(|part| part.1)]
    }

    /// `sums[r]` and `sums[r + 1]` with the products added that `low` (rows 0 to 7 of the weights) and `high` hold in
    /// 2 × 2 each.
    #[inline(always)]
    fn add_pair(
        self,
        sums: [Four<int32x4_t>; 2],
        low: Four<int32x4_t>,
        high: Four<int32x4_t>,
    ) -> [Four<int32x4_t>; 2] {
        let first = |a, b| unsafe { vuzp1q_s32(a, b) };
        let second = |a, b| unsafe { vuzp2q_s32(a, b) };
        let row = |f: fn(int32x4_t, int32x4_t) -> int32x4_t| {
            Four(f(low.0, low.1), f(low.2, low.3), f(high.0, high.1), f(high.2, high.3))
        };
        let add = |a: Four<_>, b| a.zip(b, |a, b| unsafe { vaddq_s32(a, b) });
        [add(sums[0], row(first)), add(sums[1], row(second))]
    }
}

// SAFETY (every block): as above.
impl<const WITH: u8> Dot for Bytes<WITH> {
    type F = Neon;
    type B = Four<uint8x16_t>;
    type I = Four<int32x4_t>;
    const SHIFT: u8 = if WITH == I8MM { 0 } else { 128 };
    const COLUMNS: usize = if WITH == I8MM { 8 } else { 4 };

    #[inline(always)]
    fn float(self) -> Neon {
        self.0
    }
    #[inline(always)]
    fn load(self, from: &[u8; 64]) -> Self::B {
        Four::from_parts(|part| unsafe { vld1q_u8(from.as_ptr().add(16 * part)) })
    }
    #[inline(always)]
    fn store(self, b: Self::B, to: &mut [u8; 64]) {
        let p = to.as_mut_ptr();
        unsafe {
            vst1q_u8(p, b.0);
            vst1q_u8(p.add(16), b.1);
            vst1q_u8(p.add(32), b.2);
            vst1q_u8(p.add(48), b.3);
        }
    }
    #[inline(always)]
    fn splat4(self, bytes: &[i8; 4]) -> Self::B {
        let four = u32::from_le_bytes(bytes.map(|byte| byte as u8));
        Four::all(unsafe { vreinterpretq_u8_u32(vdupq_n_u32(four)) })
    }
    #[inline(always)]
    fn splat1(self, value: u8) -> Self::B {
        Four::all(unsafe { vdupq_n_u8(value) })
    }
    #[inline(always)]
    fn and(self, a: Self::B, b: Self::B) -> Self::B {
        a.zip(b, |a, b| unsafe { vandq_u8(a, b) })
    }
    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        a.zip(b, |a, b| unsafe { vorrq_u8(a, b) })
    }
    #[inline(always)]
    fn down(self, a: Self::B, n: u32) -> Self::B {
        a.map(|a| unsafe { vshlq_u8(a, vdupq_n_s8(-(n as i8))) })
    }
    #[inline(always)]
    fn up(self, a: Self::B, n: u32) -> Self::B {
        a.map(|a| unsafe { vshlq_u8(a, vdupq_n_s8(n as i8)) })
    }
    #[inline(always)]
    fn look_up(self, table: &[u8; 16], index: Self::B) -> Self::B {
        index.map(|index| unsafe { vqtbl1q_u8(vld1q_u8(table.as_ptr()), index) })
    }
    #[inline(always)]
    fn splat_i32(self, value: i32) -> Self::I {
        Four::all(unsafe { vdupq_n_s32(value) })
    }
    #[inline(always)]
    fn dot(self, acc: Self::I, codes: Self::B, x: Self::B, _: Range) -> Self::I {
        acc.zip(codes.zip(x, |codes, x| (codes, x)), |acc, (codes, x)| self.dot_part(acc, codes, x))
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Four<float32x4_t> {
        a.map(|a| unsafe { vcvtq_f32_s32(a) })
    }
    #[inline(always)]
    fn widen_f16(self, from: &[u8; 32]) -> Four<float32x4_t> {
        let halves = |part| unsafe { vreinterpret_u16_u8(vld1_u8(from.as_ptr().add(8 * part))) };
        Four::from_parts(|part| widen_f16(halves(part)))
    }
    #[inline(always)]
    fn widen_u8(self, from: &[u8; 16]) -> Four<float32x4_t> {
        unsafe {
            let bytes = vld1q_u8(from.as_ptr());
            let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
            let words = Four(
                vmovl_u16(vget_low_u16(low)),
                vmovl_high_u16(low),
                vmovl_u16(vget_low_u16(high)),
                vmovl_high_u16(high),
            );
            words.map(|words| vcvtq_f32_u32(words))
        }
    }
    #[inline(always)]
    fn widen_i8(self, from: &[u8; 16]) -> Four<float32x4_t> {
        unsafe {
            let bytes = vreinterpretq_s8_u8(vld1q_u8(from.as_ptr()));
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            let words = Four(
                vmovl_s16(vget_low_s16(low)),
                vmovl_high_s16(low),
                vmovl_s16(vget_low_s16(high)),
                vmovl_high_s16(high),
            );
            words.map(|words| vcvtq_f32_s32(words))
        }
    }
    #[inline(always)]
    fn narrow_i8(self, v: Four<float32x4_t>, to: &mut [i8; 16]) {
        unsafe {
            let words = v.map(|v| vqmovn_s32(vcvtnq_s32_f32(v)));
            let (low, high) = (vcombine_s16(words.0, words.1), vcombine_s16(words.2, words.3));
            vst1q_s8(to.as_mut_ptr(), vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
        }
    }

    #[inline(always)]
    fn shift(self, codes: Self::B) -> Self::B {
        codes.map(|codes| unsafe { veorq_u8(codes, vdupq_n_u8(Self::SHIFT)) })
    }

    #[inline(always)]
    fn arrange(self, quads: [Self::B; 8]) -> [Self::B; 8] {
        if Self::COLUMNS == 4 {
            return quads;
        }
        let mut arranged = quads;
        for (to, from) in arranged.as_chunks_mut().0.iter_mut().zip(quads.as_chunks::<2>().0) {
            *to = self.together(from[0], from[1]);
        }
        arranged
    }

    /// With matrix products, two rows at a time: while they are summed, `tangled[r]` holds rows 0 to 7 of the weights
    /// times rows `r` and `r + 1` of `x`, and `tangled[r + 1]` rows 8 to 15.
    // Counted loops unroll into registers, whatever iterators would do.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn dot_group<const R: usize, const P: usize>(
        self,
        mut sums: [[Self::I; P]; R],
        codes: [&[[u8; 64]]; P],
        x: &[[[i8; 4]; R]],
        range: Range,
    ) -> [[Self::I; P]; R] {
        if Self::COLUMNS == 4 {
            return dot_quads(self, sums, codes, x, range);
        }
        let mut tangled = [[self.splat_i32(0); P]; R];
        for (pair, x) in x.as_chunks::<2>().0.iter().enumerate() {
            let x: &[[i8; 8]] = x.as_flattened().as_flattened().as_chunks().0;
            for p in 0..P {
                let (low, high) = (self.load(&codes[p][2 * pair]), self.load(&codes[p][2 * pair + 1]));
                for r in (0..R - R % 2).step_by(2) {
                    let x = unsafe { vld1q_s8(x[r..r + 2].as_flattened().as_ptr()) };
                    let add = |acc, codes| self.matrix_part(acc, codes, x);
                    tangled[r][p] = tangled[r][p].zip(low, add);
                    tangled[r + 1][p] = tangled[r + 1][p].zip(high, add);
                }
                if R % 2 == 1 {
                    let last = x[R - 1].as_chunks().0;
                    for (quad, x) in self.apart(low, high).into_iter().zip(last) {
                        sums[R - 1][p] = self.dot(sums[R - 1][p], quad, self.splat4(x), range);
                    }
                }
            }
        }
        for r in (0..R - R % 2).step_by(2) {
            for p in 0..P {
                let pair = self.add_pair([sums[r][p], sums[r + 1][p]], tangled[r][p], tangled[r + 1][p]);
                [sums[r][p], sums[r + 1][p]] = pair;
            }
        }
        sums
    }
}
