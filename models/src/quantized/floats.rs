//! Matrices of eight-bit floats (E4M3, the OCP's 8-bit floating point specification: no infinities) with scales.
//!
//! For devices that do not multiply with these they become f16, or f32 where f16 is too small.

use std::num::NonZero;

use half::f16;

use super::{float_type, share_rows};
use crate::{DType, ScaledRows};

/// The largest finite value.
const LARGEST: f32 = 448.0;
/// Rows that are converted together.
const BAND: usize = 64;

/// A `[rows, cols]` matrix; a weight is its float times its scale.
pub(super) struct SmallFloats<'a> {
    pub cols: usize,
    pub rows: usize,
    pub bytes: &'a [u8],
    /// `[⌈rows / block.0⌉, ⌈cols / block.1⌉]`.
    pub scales: Vec<f32>,
    /// Rows and columns under one scale.
    pub block: (usize, usize),
}

impl<'a> SmallFloats<'a> {
    /// The matrix as it is, if no row has more than one scale.
    pub fn scaled_rows(self) -> Option<ScaledRows<'a>> {
        let Self { cols, rows, bytes, scales, block } = self;
        let scale = |row: usize| scales.get(row / block.0).copied().unwrap_or(0.0);
        (block.1 >= cols).then(|| ScaledRows {
            rows,
            cols,
            codes: bytes.into(),
            scales: (0..rows).map(scale).collect(),
        })
    }

    pub fn dtype(&self) -> DType {
        float_type(&self.scales, LARGEST)
    }

    /// The matrix in `dtype`, which is what [`SmallFloats::dtype`] says.
    pub fn encode(&self, dtype: DType, threads: NonZero<usize>) -> Vec<u8> {
        let size = dtype.block_bytes();
        let per_row = self.cols.div_ceil(self.block.1);
        share_rows((self.rows, self.cols * size), BAND, threads, |first, band, row_bytes| {
            let mut table = Table::new(dtype);
            for block in 0..per_row {
                let cols = block * self.block.1..self.cols.min((block + 1) * self.block.1);
                for (row, out) in band.chunks_exact_mut(row_bytes).enumerate() {
                    let row = first + row;
                    let scale = self.scales.get(row / self.block.0 * per_row + block).copied().unwrap_or(0.0);
                    let table = table.of(scale);
                    let stored = self.bytes.get(row * self.cols..).and_then(|row| row.get(cols.clone()));
                    let out = out.get_mut(cols.start * size..cols.end * size);
                    let (Some(stored), Some(out)) = (stored, out) else { continue };
                    for (out, byte) in out.chunks_exact_mut(size).zip(stored) {
                        out.copy_from_slice(&table[usize::from(*byte)][..size]);
                    }
                }
            }
        })
    }
}

/// What each byte stands for under a scale, as it is stored.
struct Table {
    dtype: DType,
    scale: Option<u32>,
    values: [[u8; 4]; 256],
}

impl Table {
    fn new(dtype: DType) -> Self {
        Self { dtype, scale: None, values: [[0; 4]; 256] }
    }

    fn of(&mut self, scale: f32) -> &[[u8; 4]; 256] {
        if self.scale != Some(scale.to_bits()) {
            self.scale = Some(scale.to_bits());
            for (byte, stored) in (0..=u8::MAX).zip(&mut self.values) {
                let value = e4m3(byte) * scale;
                *stored = if self.dtype == DType::F16 {
                    let [low, high] = f16::from_f32(value).to_le_bytes();
                    [low, high, 0, 0]
                } else {
                    value.to_le_bytes()
                };
            }
        }
        &self.values
    }
}

/// A sign, four bits of exponent with bias 7, three of mantissa; all ones is not a number.
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let size = match (byte & 127, exponent) {
        (127, _) => f32::NAN,
        (_, 0) => mantissa / 512.0,
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if byte & 128 == 0 { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::e4m3;

    /// Table 2 of the specification.
    #[test]
    fn the_values_of_the_specification() {
        for (byte, value) in [
            (0x7e, 448.0),
            (0x08, 0.015_625),
            (0x07, 0.013_671_875),
            (0x01, 0.001_953_125),
            (0x38, 1.0),
            (0x00, 0.0),
            (0xc4, -3.0),
        ] {
            assert_eq!(e4m3(byte), value, "{byte:08b}");
        }
        assert!(e4m3(0x80) == 0.0 && e4m3(0x80).is_sign_negative());
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
    }
}
