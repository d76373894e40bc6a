//! The K types: super-blocks of 256 elements in groups of 16 or 32, whose scales (and minima) are small integers
//! under one f16 scale each.

use std::array;

use super::half_at;

/// 16 groups: a byte each of scale (low half) and minimum (high half); 64 bytes of two-bit elements.
pub(super) fn q2_k(block: &[u8; 84]) -> [f32; 256] {
    let (scale, min) = (half_at(block, 80), half_at(block, 82));
    array::from_fn(|i| {
        let group = block[i / 16];
        let element = two_bits(&block[16..], i);
        (scale * f32::from(group & 15)) * f32::from(element) - min * f32::from(group >> 4)
    })
}

/// 32 bytes of third bits, 64 of two-bit elements, 16 six-bit scales in 12 bytes. A third bit that is clear means
/// minus four.
pub(super) fn q3_k(block: &[u8; 110]) -> [f32; 256] {
    let scale = half_at(block, 108);
    let packed = &block[96..108];
    let scales: [f32; 16] = array::from_fn(|group| {
        let low = if group < 8 { packed[group] & 15 } else { packed[group - 8] >> 4 };
        let high = packed[8 + group % 4] >> (2 * (group / 4)) & 3;
        scale * f32::from((low | high << 4) as i8 - 32)
    });
    array::from_fn(|i| {
        let third = block[i % 32] >> (i / 32) & 1;
        let element = two_bits(&block[32..], i) as i8 - if third == 1 { 0 } else { 4 };
        scales[i / 16] * f32::from(element)
    })
}

pub(super) fn q4_k(block: &[u8; 144]) -> [f32; 256] {
    let groups = scales_and_mins(block);
    array::from_fn(|i| {
        let (scale, min) = groups[i / 32];
        scale * f32::from(nibble_of_64(&block[16..], i)) - min
    })
}

/// As Q4_K, with 32 bytes of fifth bits before the nibbles: bit `g` of byte `j` belongs to element `j` of group `g`.
pub(super) fn q5_k(block: &[u8; 176]) -> [f32; 256] {
    let groups = scales_and_mins(block);
    array::from_fn(|i| {
        let (scale, min) = groups[i / 32];
        let fifth = block[16 + i % 32] >> (i / 32) & 1;
        scale * f32::from(nibble_of_64(&block[48..], i) | fifth << 4) - min
    })
}

/// 128 bytes of low halves, 64 of the upper two bits, 16 signed scales. Each 128 elements: nibbles in 64 bytes (low
/// halves first), upper bits in 32 bytes.
pub(super) fn q6_k(block: &[u8; 210]) -> [f32; 256] {
    let scale = half_at(block, 208);
    array::from_fn(|i| {
        let (half, within) = (i / 128, i % 128);
        let byte = block[64 * half + within % 64];
        let low = if within < 64 { byte & 15 } else { byte >> 4 };
        let high = two_bits(&block[128..], i);
        let group = f32::from(block[192 + i / 16] as i8);
        (scale * group) * f32::from((low | high << 4) as i8 - 32)
    })
}

/// Element `i` of 256 in 64 bytes: each 128 elements take 32 bytes, whose lowest two bits are the first 32 of them.
fn two_bits(packed: &[u8], i: usize) -> u8 {
    let (half, within) = (i / 128, i % 128);
    packed[32 * half + within % 32] >> (2 * (within / 32)) & 3
}

/// Element `i` of 256 in 128 bytes: each 64 elements take 32 bytes, low halves first.
fn nibble_of_64(packed: &[u8], i: usize) -> u8 {
    let (quarter, within) = (i / 64, i % 64);
    let byte = packed[32 * quarter + within % 32];
    if within < 32 { byte & 15 } else { byte >> 4 }
}

/// The scale and minimum of each group of 32 in Q4_K and Q5_K. Groups 0–3 have their six bits at the bottom of bytes
/// 0–3 (scales) and 4–7 (minima); groups 4–7 have four in bytes 8–11 and two at the top of those.
fn scales_and_mins<const BYTES: usize>(block: &[u8; BYTES]) -> [(f32, f32); 8] {
    let (scale, min) = (half_at(block, 0), half_at(block, 2));
    let packed = &block[4..16];
    array::from_fn(|group| {
        let (s, m) = match group {
            0..4 => (packed[group] & 63, packed[group + 4] & 63),
            _ => (
                packed[group + 4] & 15 | packed[group - 4] >> 6 << 4,
                packed[group + 4] >> 4 | packed[group] >> 6 << 4,
            ),
        };
        (scale * f32::from(s), min * f32::from(m))
    })
}
