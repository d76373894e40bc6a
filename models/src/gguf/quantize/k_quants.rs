//! The K types: groups of 16 or 32 elements whose scales (and minima) are small integers under one f16 each. The codes
//! are found last, with the scales as they are stored.

use std::array;

use super::search::{Affine, nearest, symmetric};
use super::{inverse, put_half, put_nibbles};

/// Largest scale and minimum of a group.
const SIX_BITS: f32 = 63.0;

pub(super) fn q4_k(values: &[f32; 256], out: &mut [u8; 144]) {
    let codes = put_affine(values, 15.0, out);
    for (out, codes) in out[16..].chunks_exact_mut(32).zip(codes.chunks_exact(64)) {
        put_nibbles(out, codes);
    }
}

pub(super) fn q5_k(values: &[f32; 256], out: &mut [u8; 176]) {
    let codes = put_affine(values, 31.0, out);
    let (fifth, nibbles) = out[16..].split_at_mut(32);
    for (j, fifth) in fifth.iter_mut().enumerate() {
        *fifth = (0..8).fold(0, |bits, group| bits | (codes[32 * group + j] >> 4) << group);
    }
    for (out, codes) in nibbles.chunks_exact_mut(32).zip(codes.chunks_exact(64)) {
        put_nibbles(out, codes);
    }
}

/// Writes the scales and minima of eight groups, and returns the codes from 0 to `top`.
fn put_affine<const BYTES: usize>(values: &[f32; 256], top: f32, out: &mut [u8; BYTES]) -> [u8; 256] {
    let groups = values.as_chunks::<32>().0;
    let fits: [Affine; 8] = array::from_fn(|group| Affine::search(&groups[group], top));
    let largest = |of: fn(&Affine) -> f32| fits.iter().map(of).fold(0.0, f32::max);
    let scale = put_half(out, 0, largest(|fit| fit.scale) / SIX_BITS);
    let min = put_half(out, 2, largest(|fit| fit.min) / SIX_BITS);
    let six_bits =
        |value: f32, unit: f32| (value * inverse(unit)).round_ties_even().clamp(0.0, SIX_BITS) as u8;
    let scales = fits.map(|fit| six_bits(fit.scale, scale));
    let mins = fits.map(|fit| six_bits(fit.min, min));
    put_scales_and_mins(&mut out[4..16], &scales, &mins);
    array::from_fn(|i| {
        let stored = Affine { scale: scale * f32::from(scales[i / 32]), min: min * f32::from(mins[i / 32]) };
        stored.code(values[i], top) as u8
    })
}

/// Groups 0–3 have their six bits at the bottom of bytes 0–3 (scales) and 4–7 (minima); groups 4–7 have four in bytes
/// 8–11 and two at the top of those.
fn put_scales_and_mins(out: &mut [u8], scales: &[u8; 8], mins: &[u8; 8]) {
    for group in 0..4 {
        let (scale, min) = (scales[group + 4], mins[group + 4]);
        out[group] = scales[group] | scale >> 4 << 6;
        out[group + 4] = mins[group] | min >> 4 << 6;
        out[group + 8] = scale & 15 | min << 4;
    }
}

/// 128 bytes of low halves, 64 of the upper two bits, 16 signed scales.
pub(super) fn q6_k(values: &[f32; 256], out: &mut [u8; 210]) {
    const MIDDLE: f32 = 32.0;
    let groups = values.as_chunks::<16>().0;
    let fits: [f32; 16] = array::from_fn(|group| symmetric(&groups[group], MIDDLE));
    let largest = fits.iter().fold(0.0f32, |far, fit| if fit.abs() > far.abs() { *fit } else { far });
    // The largest scale becomes -128.
    let scale = put_half(out, 208, largest / -128.0);
    let scales = fits.map(|fit| nearest(fit * inverse(scale), 128.0) as i8);
    let codes: [u8; 256] = array::from_fn(|i| {
        let step = scale * f32::from(scales[i / 16]);
        (nearest(values[i] * inverse(step), MIDDLE) + MIDDLE) as u8
    });
    for (out, codes) in out[..128].chunks_exact_mut(64).zip(codes.chunks_exact(128)) {
        put_nibbles(out, codes);
    }
    for (out, codes) in out[128..192].chunks_exact_mut(32).zip(codes.chunks_exact(128)) {
        for (j, out) in out.iter_mut().enumerate() {
            *out = (0..4).fold(0, |bits, quarter| bits | (codes[32 * quarter + j] >> 4) << (2 * quarter));
        }
    }
    for (out, scale) in out[192..208].iter_mut().zip(scales) {
        *out = scale as u8;
    }
}
