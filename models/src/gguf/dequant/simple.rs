//! Floats, and the types with one scale for 32 elements.
//!
//! `Qn_0` is a scale times a signed integer; `Qn_1` has a minimum too, and unsigned integers. A five-bit element keeps
//! its top bit in a word of 32 bits beside the nibbles.

use std::array;

use super::{half_at, nibble};

pub(super) fn f32(block: &[u8; 4]) -> [f32; 1] {
    [f32::from_le_bytes(*block)]
}

pub(super) fn f16(block: &[u8; 2]) -> [f32; 1] {
    [half_at(block, 0)]
}

pub(super) fn bf16(block: &[u8; 2]) -> [f32; 1] {
    [f32::from_bits(u32::from(u16::from_le_bytes(*block)) << 16)]
}

pub(super) fn q8_0(block: &[u8; 34]) -> [f32; 32] {
    let scale = half_at(block, 0);
    array::from_fn(|i| f32::from(block[2 + i] as i8) * scale)
}

pub(super) fn q4_0(block: &[u8; 18]) -> [f32; 32] {
    let scale = half_at(block, 0);
    array::from_fn(|i| f32::from(nibble(&block[2..], i) as i8 - 8) * scale)
}

pub(super) fn q4_1(block: &[u8; 20]) -> [f32; 32] {
    let (scale, min) = (half_at(block, 0), half_at(block, 2));
    array::from_fn(|i| f32::from(nibble(&block[4..], i)) * scale + min)
}

pub(super) fn q5_0(block: &[u8; 22]) -> [f32; 32] {
    let scale = half_at(block, 0);
    array::from_fn(|i| f32::from(five_bits(&block[2..], i) as i8 - 16) * scale)
}

pub(super) fn q5_1(block: &[u8; 24]) -> [f32; 32] {
    let (scale, min) = (half_at(block, 0), half_at(block, 2));
    array::from_fn(|i| f32::from(five_bits(&block[4..], i)) * scale + min)
}

/// Element `i`: 32 top bits, then the nibbles.
fn five_bits(packed: &[u8], i: usize) -> u8 {
    let top = packed[i / 8] >> (i % 8) & 1;
    nibble(&packed[4..], i) | top << 4
}
