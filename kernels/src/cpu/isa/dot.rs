//! Products of small integers, beside [`Simd`]: four to each of sixteen sums.

use half::f16;

#[cfg(target_arch = "aarch64")]
use super::dot_neon;
#[cfg(target_arch = "x86_64")]
use super::dot_x86;
use super::{Isa, Simd, portable};

/// How large codes may be. Without VNNI, eight bits take twice the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Range {
    SevenBits,
    EightBits,
}

/// Vectors of 64 bytes, seen as sixteen lanes of four (a *quad*), and of sixteen i32. All arithmetic is exact, so every
/// instruction set gives the same products in the end.
pub(crate) trait Dot: Copy {
    type F: Simd;
    /// 64 bytes.
    type B: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// What codes of eight bits are less, in two's complement, when they are multiplied: 0, or 128 where the instructions
    /// know signed numbers alone.
    const SHIFT: u8 = 0;
    /// How many columns of a row lie together in what [`Dot::dot_group`] takes: four, or eight.
    const COLUMNS: usize = 4;

    /// The float lanes of the same instruction set.
    fn float(self) -> Self::F;

    fn load(self, from: &[u8; 64]) -> Self::B;
    fn store(self, b: Self::B, to: &mut [u8; 64]);
    /// The same four bytes in every lane.
    fn splat4(self, bytes: &[i8; 4]) -> Self::B;
    /// `value` in every byte.
    fn splat1(self, value: u8) -> Self::B;
    fn and(self, a: Self::B, b: Self::B) -> Self::B;
    fn or(self, a: Self::B, b: Self::B) -> Self::B;
    /// Moves bits down by `n < 8`, across the border of neighbouring bytes: what comes in has to be masked away.
    fn down(self, a: Self::B, n: u32) -> Self::B;
    /// As [`Dot::down`], up.
    fn up(self, a: Self::B, n: u32) -> Self::B;
    /// `table[index]` for each byte; indices are below 16.
    fn look_up(self, table: &[u8; 16], index: Self::B) -> Self::B;

    fn splat_i32(self, value: i32) -> Self::I;
    /// `acc[i] + Σ codes[4i + j] * x[4i + j]` over four `j`; codes are unsigned and within `range`, those of eight bits
    /// [shifted](Dot::shift); `x` is signed and above -128.
    fn dot(self, acc: Self::I, codes: Self::B, x: Self::B, range: Range) -> Self::I;
    fn to_f32(self, a: Self::I) -> <Self::F as Simd>::V;

    /// Sixteen f16, little-endian.
    fn widen_f16(self, from: &[u8; 32]) -> <Self::F as Simd>::V;
    fn widen_u8(self, from: &[u8; 16]) -> <Self::F as Simd>::V;
    /// Bytes as signed numbers.
    fn widen_i8(self, from: &[u8; 16]) -> <Self::F as Simd>::V;
    /// To the nearest integers, ties to even; lanes are within -127..=127, or the result is of no use.
    fn narrow_i8(self, v: <Self::F as Simd>::V, to: &mut [i8; 16]);

    /// What is left of a type's `bias` to be taken from the products.
    #[inline(always)]
    fn bias(self, bias: u8, range: Range) -> u8 {
        match range {
            Range::SevenBits => bias,
            Range::EightBits => bias - Self::SHIFT,
        }
    }

    /// `codes` less [`Dot::SHIFT`]; and back.
    #[inline(always)]
    fn shift(self, codes: Self::B) -> Self::B {
        codes
    }

    /// Eight quads as [`Dot::dot_group`] takes them.
    #[inline(always)]
    fn arrange(self, quads: [Self::B; 8]) -> [Self::B; 8] {
        quads
    }

    /// The sums plus [`Dot::dot`] of `P` panels' quads with those of `R` rows. Of both, [`Dot::COLUMNS`] columns of a row
    /// lie together: with eight, each two vectors of codes hold two quads, and each two elements of `x` two quads of
    /// every row.
    #[inline(always)]
    fn dot_group<const R: usize, const P: usize>(
        self,
        sums: [[Self::I; P]; R],
        codes: [&[[u8; 64]]; P],
        x: &[[[i8; 4]; R]],
        range: Range,
    ) -> [[Self::I; P]; R] {
        dot_quads(self, sums, codes, x, range)
    }
}

/// [`Dot::dot_group`], quad by quad.
#[inline(always)]
pub(super) fn dot_quads<D: Dot, const R: usize, const P: usize>(
    d: D,
    mut sums: [[D::I; P]; R],
    codes: [&[[u8; 64]]; P],
    x: &[[[i8; 4]; R]],
    range: Range,
) -> [[D::I; P]; R] {
    for (quad, x) in x.iter().enumerate() {
        let codes = std::array::from_fn(|p| d.load(&codes[p][quad]));
        sums = dot_quad(d, sums, codes, x, range);
    }
    sums
}

/// The sums plus [`Dot::dot`] of one quad of `P` panels with that of `R` rows.
// Counted loops unroll into registers, whatever iterators would do.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
pub(crate) fn dot_quad<D: Dot, const R: usize, const P: usize>(
    d: D,
    mut sums: [[D::I; P]; R],
    codes: [D::B; P],
    x: &[[i8; 4]; R],
    range: Range,
) -> [[D::I; P]; R] {
    for r in 0..R {
        let four = d.splat4(&x[r]);
        for p in 0..P {
            sums[r][p] = d.dot(sums[r][p], codes[p], four, range);
        }
    }
    sums
}

/// A piece of work written over [`Dot`]; see [`super::Kernel`].
pub(crate) trait DotKernel {
    fn run<D: Dot>(self, d: D);
}

impl super::Dispatch {
    /// Runs `kernel` compiled for this instruction set.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) fn run_dot<K: DotKernel>(self, kernel: K) {
        match self.0 {
            // SAFETY: `Dispatch::new` keeps only what the processor has.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => unsafe { dot_x86::run_avx512_vnni(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { dot_x86::run_avx512(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => unsafe { dot_x86::run_avx_vnni(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { dot_x86::run_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => unsafe { dot_neon::run_neon(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => unsafe { dot_neon::run_dot(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => unsafe { dot_neon::run_i8mm(kernel) },
            _ => kernel.run(portable::Portable),
        }
    }
}

impl Dot for portable::Portable {
    type F = Self;
    type B = [u8; 64];
    type I = [i32; 16];

    #[inline(always)]
    fn float(self) -> Self {
        self
    }
    #[inline(always)]
    fn load(self, from: &[u8; 64]) -> [u8; 64] {
        *from
    }
    #[inline(always)]
    fn store(self, b: [u8; 64], to: &mut [u8; 64]) {
        *to = b;
    }
    #[inline(always)]
    fn splat4(self, bytes: &[i8; 4]) -> [u8; 64] {
        std::array::from_fn(|i| bytes[i % 4] as u8)
    }
    #[inline(always)]
    fn splat1(self, value: u8) -> [u8; 64] {
        [value; 64]
    }
    #[inline(always)]
    fn and(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn or(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn down(self, a: [u8; 64], n: u32) -> [u8; 64] {
        a.map(|byte| byte >> n)
    }
    #[inline(always)]
    fn up(self, a: [u8; 64], n: u32) -> [u8; 64] {
        a.map(|byte| byte << n)
    }
    #[inline(always)]
    fn look_up(self, table: &[u8; 16], index: [u8; 64]) -> [u8; 64] {
        index.map(|i| table[usize::from(i & 15)])
    }
    #[inline(always)]
    fn splat_i32(self, value: i32) -> [i32; 16] {
        [value; 16]
    }
    #[inline(always)]
    fn dot(self, mut acc: [i32; 16], codes: [u8; 64], x: [u8; 64], _: Range) -> [i32; 16] {
        for (i, sum) in acc.iter_mut().enumerate() {
            for j in 4 * i..4 * i + 4 {
                *sum += i32::from(codes[j]) * i32::from(x[j] as i8);
            }
        }
        acc
    }
    #[inline(always)]
    fn to_f32(self, a: [i32; 16]) -> [f32; 16] {
        a.map(|v| v as f32)
    }
    #[inline(always)]
    fn widen_f16(self, from: &[u8; 32]) -> [f32; 16] {
        std::array::from_fn(|i| f16::from_le_bytes([from[2 * i], from[2 * i + 1]]).to_f32())
    }
    #[inline(always)]
    fn widen_u8(self, from: &[u8; 16]) -> [f32; 16] {
        from.map(f32::from)
    }
    #[inline(always)]
    fn widen_i8(self, from: &[u8; 16]) -> [f32; 16] {
        from.map(|byte| f32::from(byte as i8))
    }
    #[inline(always)]
    fn narrow_i8(self, v: [f32; 16], to: &mut [i8; 16]) {
        *to = self.round(v).map(|v| v as i8);
    }
}
