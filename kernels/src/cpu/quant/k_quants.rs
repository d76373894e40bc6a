//! The K types: blocks of 256 elements in groups of 16 or 32, whose scales (and minima) are small integers under one
//! f16 each.

use super::format::{half_at, put_nibbles};
use super::{Format, Parts, Scales};

pub(crate) struct Q2K;

impl Format for Q2K {
    const BYTES: usize = 84;
    const BITS: usize = 2;
    const SCALES: Scales = Scales::Super { signed: false };
    const GROUP: usize = 16;
    const MIN: bool = true;

    /// A byte for each group, scale (low half) and minimum (high half), then the elements.
    fn take_apart(block: &[u8], parts: &mut Parts) {
        (parts.scale, parts.min) = (half_at(block, 80), half_at(block, 82));
        for (group, &byte) in block[..16].iter().enumerate() {
            (parts.scales[group], parts.mins[group]) = (byte & 15, byte >> 4);
        }
        parts.codes.fill(0);
        or_two_bits(&block[16..80], 0, &mut parts.codes);
    }
}

pub(crate) struct Q3K;

impl Format for Q3K {
    const BYTES: usize = 110;
    const BITS: usize = 3;
    const SCALES: Scales = Scales::Super { signed: true };
    const GROUP: usize = 16;
    const BIAS: u8 = 4;

    /// 32 bytes of third bits (bit `g` of byte `j` belongs to element `32 g + j`), 64 bytes of the other two, and in 12
    /// bytes 16 scales of six bits: four in nibbles, two in the last four bytes.
    fn take_apart(block: &[u8], parts: &mut Parts) {
        parts.scale = half_at(block, 108);
        let packed = &block[96..108];
        for (group, scale) in parts.scales.iter_mut().enumerate() {
            let low = if group < 8 { packed[group] & 15 } else { packed[group - 8] >> 4 };
            let high = packed[8 + group % 4] >> (2 * (group / 4)) & 3;
            *scale = (low | high << 4).wrapping_sub(32);
        }
        for (i, code) in parts.codes.iter_mut().enumerate() {
            *code = (block[i % 32] >> (i / 32) & 1) << 2;
        }
        or_two_bits(&block[32..96], 0, &mut parts.codes);
    }
}

pub(crate) struct Q4K;

impl Format for Q4K {
    const BYTES: usize = 144;
    const BITS: usize = 4;
    const SCALES: Scales = Scales::Super { signed: false };
    const MIN: bool = true;

    fn take_apart(block: &[u8], parts: &mut Parts) {
        put_scales_and_mins(block, parts);
        for (packed, codes) in block[16..144].chunks_exact(32).zip(parts.codes.chunks_exact_mut(64)) {
            put_nibbles(packed, codes);
        }
    }
}

pub(crate) struct Q5K;

impl Format for Q5K {
    const BYTES: usize = 176;
    const BITS: usize = 5;
    const SCALES: Scales = Scales::Super { signed: false };
    const MIN: bool = true;

    /// As Q4_K, with 32 bytes of fifth bits before the nibbles: bit `g` of byte `j` belongs to element `32 g + j`.
    fn take_apart(block: &[u8], parts: &mut Parts) {
        put_scales_and_mins(block, parts);
        for (packed, codes) in block[48..176].chunks_exact(32).zip(parts.codes.chunks_exact_mut(64)) {
            put_nibbles(packed, codes);
        }
        for (group, codes) in parts.codes.chunks_exact_mut(32).enumerate() {
            for (code, &byte) in codes.iter_mut().zip(&block[16..48]) {
                *code |= (byte >> group & 1) << 4;
            }
        }
    }
}

pub(crate) struct Q6K;

impl Format for Q6K {
    const BYTES: usize = 210;
    const BITS: usize = 6;
    const SCALES: Scales = Scales::Super { signed: true };
    const GROUP: usize = 16;
    const BIAS: u8 = 32;

    /// Of each 128 elements, the lower four bits are nibbles in 64 bytes. Then the upper two bits, then the scales.
    fn take_apart(block: &[u8], parts: &mut Parts) {
        parts.scale = half_at(block, 208);
        parts.scales.copy_from_slice(&block[192..208]);
        for (packed, codes) in block[..128].chunks_exact(64).zip(parts.codes.chunks_exact_mut(128)) {
            put_nibbles(packed, codes);
        }
        or_two_bits(&block[128..192], 4, &mut parts.codes);
    }
}

/// Of each 128 elements, 32 bytes: their lowest two bits are the first 32 elements, and so on. Two bits go to `shift`.
fn or_two_bits(packed: &[u8], shift: u32, codes: &mut [u8; 256]) {
    for (packed, codes) in packed.chunks_exact(32).zip(codes.chunks_exact_mut(128)) {
        for (quarter, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (code, &byte) in codes.iter_mut().zip(packed) {
                *code |= (byte >> (2 * quarter) & 3) << shift;
            }
        }
    }
}

/// The scale and the minimum of each of eight groups, six bits each. Groups 0–3 have theirs at the bottom of bytes 0–3
/// (scales) and 4–7 (minima); groups 4–7 have four bits in bytes 8–11 and two at the top of those.
fn put_scales_and_mins(block: &[u8], parts: &mut Parts) {
    (parts.scale, parts.min) = (half_at(block, 0), half_at(block, 2));
    let packed = &block[4..16];
    for group in 0..4 {
        parts.scales[group] = packed[group] & 63;
        parts.mins[group] = packed[group + 4] & 63;
        parts.scales[group + 4] = packed[group + 8] & 15 | packed[group] >> 6 << 4;
        parts.mins[group + 4] = packed[group + 8] >> 4 | packed[group + 4] >> 6 << 4;
    }
}
