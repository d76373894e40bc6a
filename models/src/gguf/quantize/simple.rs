//! The types with one scale for 32 elements. The integers are found with the scale before it is rounded to f16.

use std::array;

use super::{inverse, put_half, put_nibbles};

pub(super) fn q8_0(values: &[f32; 32], out: &mut [u8; 34]) {
    let largest = values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = inverse(scale);
    put_half(out, 0, scale);
    for (out, value) in out[2..].iter_mut().zip(values) {
        *out = (value * inverse).round() as i8 as u8;
    }
}

pub(super) fn q4_0(values: &[f32; 32], out: &mut [u8; 18]) {
    let (scale, codes) = symmetric(values, 8.0);
    put_half(out, 0, scale);
    put_nibbles(&mut out[2..], &codes);
}

pub(super) fn q5_0(values: &[f32; 32], out: &mut [u8; 22]) {
    let (scale, codes) = symmetric(values, 16.0);
    put_half(out, 0, scale);
    put_five_bits(&mut out[2..], &codes);
}

pub(super) fn q4_1(values: &[f32; 32], out: &mut [u8; 20]) {
    let (scale, min, codes) = with_minimum(values, 15.0);
    put_half(out, 0, scale);
    put_half(out, 2, min);
    put_nibbles(&mut out[4..], &codes);
}

pub(super) fn q5_1(values: &[f32; 32], out: &mut [u8; 24]) {
    let (scale, min, codes) = with_minimum(values, 31.0);
    put_half(out, 0, scale);
    put_half(out, 2, min);
    put_five_bits(&mut out[4..], &codes);
}

/// Codes from 0 to `2 * middle - 1`; the element of the largest magnitude is the lowest.
fn symmetric(values: &[f32; 32], middle: f32) -> (f32, [u8; 32]) {
    let largest = values.iter().fold(0.0f32, |far, value| if value.abs() > far.abs() { *value } else { far });
    let scale = largest / -middle;
    let inverse = f64::from(inverse(scale));
    let top = 2.0 * f64::from(middle) - 1.0;
    let code = |value: f32| (f64::from(value) * inverse + f64::from(middle) + 0.5).trunc().min(top) as u8;
    (scale, values.map(code))
}

/// Codes from 0 to `top` above the least element.
fn with_minimum(values: &[f32; 32], top: f32) -> (f32, f32, [u8; 32]) {
    let min = values.iter().copied().fold(f32::INFINITY, f32::min);
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = (max - min) / top;
    let inverse = inverse(scale);
    (scale, min, values.map(|value| ((value - min) * inverse + 0.5).trunc().min(top) as u8))
}

/// 32 top bits, then the nibbles.
fn put_five_bits(out: &mut [u8], codes: &[u8; 32]) {
    let top: [u8; 4] =
        array::from_fn(|byte| (0..8).fold(0, |bits, i| bits | (codes[8 * byte + i] >> 4) << i));
    out[..4].copy_from_slice(&top);
    put_nibbles(&mut out[4..], codes);
}
