//! The types with one scale for 32 elements. `Qn_0` has signed integers, `Qn_1` unsigned ones and a minimum, which is
//! added. A five-bit element keeps its top bit in a word of 32 bits.

use super::format::{half_at, put_nibbles};
use super::{Format, Parts, Scales};

/// The sign of an f16.
const SIGN: u16 = 0x8000;

pub(crate) struct Q8_0;

impl Format for Q8_0 {
    const BYTES: usize = 34;
    const BITS: usize = 8;
    const SCALES: Scales = Scales::Half;
    const BIAS: u8 = 128;

    fn take_apart(block: &[u8], parts: &mut Parts) {
        parts.scale = half_at(block, 0);
        for (code, &byte) in parts.codes.iter_mut().zip(&block[2..34]) {
            *code = byte ^ 128;
        }
    }
}

pub(crate) struct Q4_0;

impl Format for Q4_0 {
    const BYTES: usize = 18;
    const BITS: usize = 4;
    const SCALES: Scales = Scales::Half;
    const BIAS: u8 = 8;

    fn take_apart(block: &[u8], parts: &mut Parts) {
        parts.scale = half_at(block, 0);
        put_nibbles(&block[2..18], &mut parts.codes);
    }
}

pub(crate) struct Q4_1;

impl Format for Q4_1 {
    const BYTES: usize = 20;
    const BITS: usize = 4;
    const SCALES: Scales = Scales::Half;
    const MIN: bool = true;

    fn take_apart(block: &[u8], parts: &mut Parts) {
        (parts.scale, parts.min) = (half_at(block, 0), half_at(block, 2) ^ SIGN);
        put_nibbles(&block[4..20], &mut parts.codes);
    }
}

pub(crate) struct Q5_0;

impl Format for Q5_0 {
    const BYTES: usize = 22;
    const BITS: usize = 5;
    const SCALES: Scales = Scales::Half;
    const BIAS: u8 = 16;

    fn take_apart(block: &[u8], parts: &mut Parts) {
        parts.scale = half_at(block, 0);
        put_five_bits(&block[2..22], parts);
    }
}

pub(crate) struct Q5_1;

impl Format for Q5_1 {
    const BYTES: usize = 24;
    const BITS: usize = 5;
    const SCALES: Scales = Scales::Half;
    const MIN: bool = true;

    fn take_apart(block: &[u8], parts: &mut Parts) {
        (parts.scale, parts.min) = (half_at(block, 0), half_at(block, 2) ^ SIGN);
        put_five_bits(&block[4..24], parts);
    }
}

/// 32 top bits, then the nibbles.
fn put_five_bits(packed: &[u8], parts: &mut Parts) {
    put_nibbles(&packed[4..20], &mut parts.codes);
    for (i, code) in parts.codes[..32].iter_mut().enumerate() {
        *code |= (packed[i / 8] >> (i % 8) & 1) << 4;
    }
}
