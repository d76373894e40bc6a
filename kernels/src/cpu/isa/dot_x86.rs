//! [`Dot`] on AVX2 and AVX-512, each with and without the VNNI instructions. The tokens are made only by the `run_*`
//! functions, as in [`super::x86`].
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::dot::{Dot, DotKernel, Range};
use super::x86::{self, Avx2, Avx512};

pub(super) fn has_avx512_vnni() -> bool {
    x86::has_avx512() && is_x86_feature_detected!("avx512vnni")
}

pub(super) fn has_avx_vnni() -> bool {
    x86::has_avx2() && is_x86_feature_detected!("avxvnni")
}

/// # Safety
/// The processor has AVX-512 F, BW and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn run_avx512_vnni<K: DotKernel>(kernel: K) {
    // SAFETY: as the caller promises.
    kernel.run(Wide::<true>(unsafe { Avx512::new() }));
}

/// # Safety
/// The processor has AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
pub(super) unsafe fn run_avx512<K: DotKernel>(kernel: K) {
    // SAFETY: as the caller promises.
    kernel.run(Wide::<false>(unsafe { Avx512::new() }));
}

/// # Safety
/// The processor has AVX2, FMA, F16C and AVX-VNNI.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn run_avx_vnni<K: DotKernel>(kernel: K) {
    // SAFETY: as the caller promises.
    kernel.run(Narrow::<true>(unsafe { Avx2::new() }));
}

/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run_avx2<K: DotKernel>(kernel: K) {
    // SAFETY: as the caller promises.
    kernel.run(Narrow::<false>(unsafe { Avx2::new() }));
}

/// Reads a vector; such reads keep their order. The compiler's order would be no stream that a processor recognises and
/// fetches ahead of its use: one row of an eight-bit product then takes up to twice the time.
///
/// # Safety
/// `from` may be read, at any alignment.
#[inline(always)]
unsafe fn in_order<V: Copy>(from: *const V) -> V {
    #[repr(C, packed)]
    #[derive(Clone, Copy)]
    struct Unaligned<V>(V);
    // SAFETY: as the caller promises; the wrapper has the same bytes and needs no alignment.
    unsafe { from.cast::<Unaligned<V>>().read_volatile().0 }
}

/// 512 bits.
#[derive(Clone, Copy)]
struct Wide<const VNNI: bool>(Avx512);

// SAFETY (every block): the token proves the features; loads and stores go through references of the exact size and
// use unaligned instructions.
impl<const VNNI: bool> Dot for Wide<VNNI> {
    type F = Avx512;
    type B = __m512i;
    type I = __m512i;

    #[inline(always)]
    fn float(self) -> Avx512 {
        self.0
    }
    #[inline(always)]
    fn load(self, from: &[u8; 64]) -> __m512i {
        unsafe { in_order(from.as_ptr().cast()) }
    }
    #[inline(always)]
    fn store(self, b: __m512i, to: &mut [u8; 64]) {
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), b) }
    }
    #[inline(always)]
    fn splat4(self, bytes: &[i8; 4]) -> __m512i {
        unsafe { _mm512_set1_epi32(i32::from_le_bytes(bytes.map(|b| b as u8))) }
    }
    #[inline(always)]
    fn splat1(self, value: u8) -> __m512i {
        unsafe { _mm512_set1_epi8(value as i8) }
    }
    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    fn down(self, a: __m512i, n: u32) -> __m512i {
        unsafe { _mm512_srl_epi16(a, _mm_cvtsi32_si128(n as i32)) }
    }
    #[inline(always)]
    fn up(self, a: __m512i, n: u32) -> __m512i {
        unsafe { _mm512_sll_epi16(a, _mm_cvtsi32_si128(n as i32)) }
    }
    #[inline(always)]
    fn look_up(self, table: &[u8; 16], index: __m512i) -> __m512i {
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, index)
        }
    }
    #[inline(always)]
    fn splat_i32(self, value: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(value) }
    }
    #[inline(always)]
    fn dot(self, acc: __m512i, codes: __m512i, x: __m512i, range: Range) -> __m512i {
        unsafe {
            if VNNI {
                return _mm512_dpbusd_epi32(acc, codes, x);
            }
            let dot = |codes| _mm512_madd_epi16(_mm512_maddubs_epi16(codes, x), _mm512_set1_epi16(1));
            if range == Range::SevenBits {
                return _mm512_add_epi32(acc, dot(codes));
            }
            // Sums of pairs would not fit into 16 bits, those of either part do.
            let top = _mm512_set1_epi8(-128);
            let (low, high) = (_mm512_andnot_si512(top, codes), _mm512_and_si512(top, codes));
            _mm512_add_epi32(acc, _mm512_add_epi32(dot(low), dot(high)))
        }
    }
    #[inline(always)]
    fn to_f32(self, a: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    fn widen_f16(self, from: &[u8; 32]) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }
    #[inline(always)]
    fn widen_u8(self, from: &[u8; 16]) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn widen_i8(self, from: &[u8; 16]) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn narrow_i8(self, v: __m512, to: &mut [i8; 16]) {
        unsafe {
            let bytes = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        }
    }
}

/// 256 bits, twice.
#[derive(Clone, Copy)]
struct Narrow<const VNNI: bool>(Avx2);

type Pair = (__m256i, __m256i);

#[inline(always)]
fn both(a: Pair, b: Pair, f: impl Fn(__m256i, __m256i) -> __m256i) -> Pair {
    (f(a.0, b.0), f(a.1, b.1))
}

// SAFETY (every block): as for `Wide`; the second half of each load and store starts in the middle of the array.
impl<const VNNI: bool> Dot for Narrow<VNNI> {
    type F = Avx2;
    type B = Pair;
    type I = Pair;

    #[inline(always)]
    fn float(self) -> Avx2 {
        self.0
    }
    #[inline(always)]
    fn load(self, from: &[u8; 64]) -> Pair {
        let p = from.as_ptr().cast::<__m256i>();
        unsafe { (in_order(p), in_order(p.add(1))) }
    }
    #[inline(always)]
    fn store(self, b: Pair, to: &mut [u8; 64]) {
        let p = to.as_mut_ptr();
        unsafe {
            _mm256_storeu_si256(p.cast(), b.0);
            _mm256_storeu_si256(p.add(32).cast(), b.1);
        }
    }
    #[inline(always)]
    fn splat4(self, bytes: &[i8; 4]) -> Pair {
        let v = unsafe { _mm256_set1_epi32(i32::from_le_bytes(bytes.map(|b| b as u8))) };
        (v, v)
    }
    #[inline(always)]
    fn splat1(self, value: u8) -> Pair {
        let v = unsafe { _mm256_set1_epi8(value as i8) };
        (v, v)
    }
    #[inline(always)]
    fn and(self, a: Pair, b: Pair) -> Pair {
        both(a, b, |a, b| unsafe { _mm256_and_si256(a, b) })
    }
    #[inline(always)]
    fn or(self, a: Pair, b: Pair) -> Pair {
        both(a, b, |a, b| unsafe { _mm256_or_si256(a, b) })
    }
    #[inline(always)]
    fn down(self, a: Pair, n: u32) -> Pair {
        unsafe {
            let n = _mm_cvtsi32_si128(n as i32);
            (_mm256_srl_epi16(a.0, n), _mm256_srl_epi16(a.1, n))
        }
    }
    #[inline(always)]
    fn up(self, a: Pair, n: u32) -> Pair {
        unsafe {
            let n = _mm_cvtsi32_si128(n as i32);
            (_mm256_sll_epi16(a.0, n), _mm256_sll_epi16(a.1, n))
        }
    }
    #[inline(always)]
    fn look_up(self, table: &[u8; 16], index: Pair) -> Pair {
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            (_mm256_shuffle_epi8(table, index.0), _mm256_shuffle_epi8(table, index.1))
        }
    }
    #[inline(always)]
    fn splat_i32(self, value: i32) -> Pair {
        let v = unsafe { _mm256_set1_epi32(value) };
        (v, v)
    }
    #[inline(always)]
    fn dot(self, acc: Pair, codes: Pair, x: Pair, range: Range) -> Pair {
        unsafe {
            if VNNI {
                return (
                    _mm256_dpbusd_avx_epi32(acc.0, codes.0, x.0),
                    _mm256_dpbusd_avx_epi32(acc.1, codes.1, x.1),
                );
            }
            let dot = |codes, x| _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), _mm256_set1_epi16(1));
            if range == Range::SevenBits {
                return both(acc, both(codes, x, dot), |a, b| _mm256_add_epi32(a, b));
            }
            // Sums of pairs would not fit into 16 bits, those of either part do.
            let top = _mm256_set1_epi8(-128);
            let sum = both(codes, x, |codes, x| {
                let (low, high) = (_mm256_andnot_si256(top, codes), _mm256_and_si256(top, codes));
                _mm256_add_epi32(dot(low, x), dot(high, x))
            });
            both(acc, sum, |a, b| _mm256_add_epi32(a, b))
        }
    }
    #[inline(always)]
    fn to_f32(self, a: Pair) -> (__m256, __m256) {
        unsafe { (_mm256_cvtepi32_ps(a.0), _mm256_cvtepi32_ps(a.1)) }
    }
    #[inline(always)]
    fn widen_f16(self, from: &[u8; 32]) -> (__m256, __m256) {
        let p = from.as_ptr();
        unsafe {
            let first = _mm_loadu_si128(p.cast());
            let second = _mm_loadu_si128(p.add(16).cast());
            (_mm256_cvtph_ps(first), _mm256_cvtph_ps(second))
        }
    }
    #[inline(always)]
    fn widen_u8(self, from: &[u8; 16]) -> (__m256, __m256) {
        unsafe {
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            let widen = |bytes| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
            (widen(bytes), widen(_mm_srli_si128::<8>(bytes)))
        }
    }
    #[inline(always)]
    fn widen_i8(self, from: &[u8; 16]) -> (__m256, __m256) {
        unsafe {
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            let widen = |bytes| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
            (widen(bytes), widen(_mm_srli_si128::<8>(bytes)))
        }
    }
    #[inline(always)]
    fn narrow_i8(self, v: (__m256, __m256), to: &mut [i8; 16]) {
        unsafe {
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(v.0), _mm256_cvtps_epi32(v.1));
            // Packing keeps to halves of 128 bits: lanes 0–3, 8–11, 4–7, 12–15.
            let words = _mm256_permute4x64_epi64::<0b1101_1000>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        }
    }
}
