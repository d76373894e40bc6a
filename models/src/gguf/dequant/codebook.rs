//! Types whose nibbles are indices into a table of values.

use std::array;

use super::{half_at, nibble};

/// IQ4_NL and IQ4_XS: denser around zero.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Twice the values of the four-bit float E2M1 (OCP Microscaling).
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

pub(super) fn iq4_nl(block: &[u8; 18]) -> [f32; 32] {
    let scale = half_at(block, 0);
    array::from_fn(|i| scale * f32::from(IQ4[usize::from(nibble(&block[2..], i))]))
}

/// 8 groups of 32 with six-bit scales: the upper two bits in a 16-bit word, the lower four in four bytes.
pub(super) fn iq4_xs(block: &[u8; 136]) -> [f32; 256] {
    let scale = half_at(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    let scales: [f32; 8] = array::from_fn(|group| {
        let low = block[4 + group / 2] >> (4 * (group % 2)) & 15;
        let high = (high >> (2 * group) & 3) as u8;
        scale * f32::from((low | high << 4) as i8 - 32)
    });
    array::from_fn(|i| {
        let group = i / 32;
        scales[group] * f32::from(IQ4[usize::from(nibble(&block[8 + 16 * group..], i % 32))])
    })
}

/// One byte of exponent for 32 elements.
pub(super) fn mxfp4(block: &[u8; 17]) -> [f32; 32] {
    let scale = half_exponent(block[0]);
    array::from_fn(|i| scale * f32::from(E2M1[usize::from(nibble(&block[1..], i))]))
}

/// `2^(exponent - 128)`: half the scale, because the table holds twice the values.
fn half_exponent(exponent: u8) -> f32 {
    match exponent {
        0 | 1 => f32::from_bits(0x0020_0000 << exponent),
        _ => f32::from_bits((u32::from(exponent) - 1) << 23),
    }
}
