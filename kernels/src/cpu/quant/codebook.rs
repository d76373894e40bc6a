//! Types whose nibbles are indices into a table of values.

use super::format::{half_at, put_nibbles};
use super::{Format, Parts, Scales};

/// IQ4_NL and IQ4_XS: denser around zero.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Twice the values of the four-bit float E2M1 (OCP Microscaling).
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The table with `bias` added, so that no value is negative.
const fn biased(table: [i8; 16], bias: u8) -> [u8; 16] {
    let mut biased = [0; 16];
    let mut i = 0;
    while i < 16 {
        biased[i] = (table[i] as u8).wrapping_add(bias);
        i += 1;
    }
    biased
}

pub(crate) struct Iq4Nl;

impl Format for Iq4Nl {
    const BYTES: usize = 18;
    const BITS: usize = 4;
    const SCALES: Scales = Scales::Half;
    const BIAS: u8 = 128;
    const TABLE: Option<&'static [u8; 16]> = Some(&biased(IQ4, Self::BIAS));

    fn take_apart(block: &[u8], parts: &mut Parts) {
        parts.scale = half_at(block, 0);
        put_nibbles(&block[2..18], &mut parts.codes);
    }
}

pub(crate) struct Iq4Xs;

impl Format for Iq4Xs {
    const BYTES: usize = 136;
    const BITS: usize = 4;
    const SCALES: Scales = Scales::Super { signed: true };
    const BIAS: u8 = 128;
    const TABLE: Option<&'static [u8; 16]> = Some(&biased(IQ4, Self::BIAS));

    /// Eight scales of six bits: the upper two in a word, the lower four in nibbles.
    fn take_apart(block: &[u8], parts: &mut Parts) {
        parts.scale = half_at(block, 0);
        let high = half_at(block, 2);
        for group in 0..8 {
            let low = block[4 + group / 2] >> (4 * (group % 2)) & 15;
            let high = (high >> (2 * group) & 3) as u8;
            parts.scales[group] = (low | high << 4).wrapping_sub(32);
        }
        for (packed, codes) in block[8..136].chunks_exact(16).zip(parts.codes.chunks_exact_mut(32)) {
            put_nibbles(packed, codes);
        }
    }
}

pub(crate) struct Mxfp4;

impl Format for Mxfp4 {
    const BYTES: usize = 17;
    const BITS: usize = 4;
    // Half of the scale that the byte means, as the table has twice the values.
    const SCALES: Scales = Scales::Exponent;
    const BIAS: u8 = 12;
    const TABLE: Option<&'static [u8; 16]> = Some(&biased(E2M1, Self::BIAS));

    fn take_apart(block: &[u8], parts: &mut Parts) {
        parts.scale = u16::from(block[0]);
        put_nibbles(&block[1..17], &mut parts.codes);
    }
}
