//! Matrices of integers with scales and zero points, from the layouts they are published in to blocks that every
//! device multiplies with.
//!
//! A weight is `scale * (code - zero)`; codes and zero points have four or eight bits, unsigned. Blocks of 32 columns
//! express that exactly, with the scale in f16: Q4_0 where every zero point is 8, Q5_0 for all other ones of four bits,
//! Q8_0 where every zero point is 128. What blocks cannot express becomes f16 (f32 where it is too large for that):
//! eight bits with other zero points, groups whose columns are not neighbours, and scales too small for an f16.

use std::num::NonZero;

use half::f16;

use super::share_rows;
use crate::DType;
use crate::gguf::put_nibbles;

/// Columns of a block.
const UNIT: usize = 32;
/// Rows that are unpacked together: those of a word of AWQ.
const TILE: usize = 8;
/// Rows whose blocks of the same columns follow each other, so that words of neighbouring rows are used while cached.
const BAND: usize = 64;
/// Which of its eight rows each nibble of a word of AWQ is, from the lowest nibble on.
pub(super) const AWQ_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Little-endian words of 32 bits, wherever they lie.
pub(super) type Words<'a> = &'a [[u8; 4]];

/// A `[rows, cols]` matrix of integers.
pub(super) struct Integers<'a> {
    pub rows: usize,
    pub cols: usize,
    /// 4 or 8.
    pub bits: usize,
    pub codes: Codes<'a>,
    pub groups: Groups,
    /// `[rows, groups]`.
    pub scales: Vec<f32>,
    /// `[rows, groups]`, below `1 << bits`.
    pub zeros: Vec<u8>,
}

/// Where the codes lie.
pub(super) enum Codes<'a> {
    /// AWQ: `[cols, rows / 8]`, a word is eight rows of a column in the order of [`AWQ_ORDER`].
    RowWords(Words<'a>),
    /// GPTQ: `[cols * bits / 32, rows]`, a word is neighbouring columns of a row, from the lowest bits on.
    ColumnWordsByColumn(Words<'a>),
    /// compressed-tensors: `[rows, ⌈cols * bits / 32⌉]`, words as GPTQ's.
    ColumnWordsByRow(Words<'a>),
    /// `[rows, cols]`, signed: the code less 128.
    Bytes(&'a [u8]),
}

/// Which columns are under one scale.
pub(super) enum Groups {
    /// Neighbours, `size` at a time, `count` times.
    Even { count: usize, size: usize },
    /// The group of each column, below `count`.
    Listed { count: usize, of: Vec<u32> },
}

impl Groups {
    pub fn count(&self) -> usize {
        match self {
            Groups::Even { count, .. } | Groups::Listed { count, .. } => *count,
        }
    }

    fn of(&self, col: usize) -> usize {
        match self {
            Groups::Even { size, .. } => col / size,
            Groups::Listed { of, .. } => of.get(col).map_or(0, |group| *group as usize),
        }
    }

    /// Whether the columns of every block are in one group.
    fn hold_units(&self) -> bool {
        match self {
            Groups::Even { count, size } => *count == 1 || size.is_multiple_of(UNIT),
            Groups::Listed { of, .. } => {
                of.chunks(UNIT).all(|unit| unit.iter().all(|group| Some(group) == unit.first()))
            }
        }
    }
}

/// The codes of some columns of a few rows.
type Tile = [[u8; UNIT]; TILE];

impl Integers<'_> {
    /// What to make of it.
    pub fn dtype(&self) -> DType {
        let middle = 1 << (self.bits - 1);
        let symmetric = self.zeros.iter().all(|zero| *zero == middle);
        let exact = self.cols.is_multiple_of(UNIT)
            && self.groups.hold_units()
            && self.scales.iter().all(|scale| is_half(*scale));
        match (exact, self.bits, symmetric) {
            (true, 4, true) => DType::Q4_0,
            (true, 4, false) => DType::Q5_0,
            (true, 8, true) => DType::Q8_0,
            _ => super::float_type(&self.scales, (1 << self.bits) as f32),
        }
    }

    /// The matrix in `dtype`, which is what [`Integers::dtype`] says.
    pub fn encode(&self, dtype: DType, threads: NonZero<usize>) -> Vec<u8> {
        let block = dtype.bytes_of(UNIT).unwrap_or_default();
        let size = (self.rows, dtype.bytes_of(self.cols).unwrap_or_default());
        share_rows(size, BAND, threads, |first, band, row_bytes| {
            let mut tile: Tile = [[0; UNIT]; TILE];
            for unit in 0..self.cols.div_ceil(UNIT) {
                for (index, rows) in band.chunks_mut(TILE * row_bytes).enumerate() {
                    let row = first + index * TILE;
                    self.unpack((row, unit * UNIT), &mut tile);
                    for (lane, (out, codes)) in rows.chunks_exact_mut(row_bytes).zip(&tile).enumerate() {
                        let end = row_bytes.min((unit + 1) * block);
                        if let Some(out) = out.get_mut(unit * block..end) {
                            self.put(dtype, (row + lane, unit * UNIT), codes, out);
                        }
                    }
                }
            }
        })
    }

    /// The codes of the rows and columns from `(row, col)` on, multiples of [`TILE`] and [`UNIT`]; anything past the
    /// matrix.
    fn unpack(&self, (row, col): (usize, usize), tile: &mut Tile) {
        let per_word = 32 / self.bits;
        let mask = if self.bits == 4 { 15 } else { 255 };
        match self.codes {
            Codes::RowWords(words) => {
                for (c, col) in (col..col + UNIT).enumerate() {
                    let word = word(words, col * (self.rows / TILE) + row / TILE);
                    for (i, lane) in AWQ_ORDER.into_iter().enumerate() {
                        tile[lane][c] = (word >> (4 * i)) as u8 & 15;
                    }
                }
            }
            Codes::ColumnWordsByColumn(words) => {
                for w in 0..UNIT / per_word {
                    let first = (col / per_word + w) * self.rows + row;
                    for (lane, codes) in tile.iter_mut().enumerate() {
                        let word = word(words, first + lane);
                        for j in 0..per_word {
                            codes[w * per_word + j] = (word >> (self.bits * j)) as u8 & mask;
                        }
                    }
                }
            }
            Codes::ColumnWordsByRow(words) => {
                let per_row = self.cols.div_ceil(per_word);
                for (lane, codes) in tile.iter_mut().enumerate() {
                    let first = (row + lane) * per_row + col / per_word;
                    for w in 0..UNIT / per_word {
                        let word = word(words, first + w);
                        for j in 0..per_word {
                            codes[w * per_word + j] = (word >> (self.bits * j)) as u8 & mask;
                        }
                    }
                }
            }
            Codes::Bytes(bytes) => {
                for (lane, codes) in tile.iter_mut().enumerate() {
                    let first = (row + lane) * self.cols + col;
                    for (code, byte) in codes.iter_mut().zip(bytes.get(first..).unwrap_or_default()) {
                        *code = byte ^ 128;
                    }
                }
            }
        }
    }

    /// Scale and zero point at `(row, col)`.
    fn grid(&self, row: usize, col: usize) -> (f32, i16) {
        let at = row * self.groups.count() + self.groups.of(col);
        let (scale, zero) = (self.scales.get(at).copied(), self.zeros.get(at).copied());
        (scale.unwrap_or(0.0), i16::from(zero.unwrap_or(0)))
    }

    /// A block, or what there is of its columns as floats.
    fn put(&self, dtype: DType, (row, col): (usize, usize), codes: &[u8; UNIT], out: &mut [u8]) {
        let (scale, zero) = self.grid(row, col);
        match dtype {
            DType::Q4_0 => put_block(out, scale, |out: &mut [u8; 16]| put_nibbles(out, codes)),
            DType::Q8_0 => put_block(out, scale, |out: &mut [u8; UNIT]| *out = codes.map(|code| code ^ 128)),
            DType::Q5_0 => put_block(out, scale, |out: &mut [u8; 20]| {
                let codes = codes.map(|code| (i16::from(code) - zero + 16) as u8);
                let top =
                    codes.iter().enumerate().fold(0u32, |top, (i, code)| top | u32::from(code >> 4 & 1) << i);
                if let Some((bits, nibbles)) = out.split_first_chunk_mut::<4>() {
                    *bits = top.to_le_bytes();
                    put_nibbles(nibbles, &codes);
                }
            }),
            _ => {
                let value = |i: usize, code: u8| {
                    let (scale, zero) = self.grid(row, col + i);
                    scale * f32::from(i16::from(code) - zero)
                };
                let values = codes.iter().enumerate().map(|(i, code)| value(i, *code));
                if dtype == DType::F16 {
                    let halves = out.as_chunks_mut::<2>().0.iter_mut();
                    halves.zip(values).for_each(|(out, value)| *out = f16::from_f32(value).to_le_bytes());
                } else {
                    let floats = out.as_chunks_mut::<4>().0.iter_mut();
                    floats.zip(values).for_each(|(out, value)| *out = value.to_le_bytes());
                }
            }
        }
    }
}

/// Whether an f16 has `scale` with all the digits that an f16 can have.
fn is_half(scale: f32) -> bool {
    let normal = f16::MIN_POSITIVE.to_f32()..=f16::MAX.to_f32();
    normal.contains(&scale.abs()) || f16::from_f32(scale).to_f32() == scale
}

/// The scale in f16, then what `put` makes of the rest.
fn put_block<const N: usize>(out: &mut [u8], scale: f32, put: impl FnOnce(&mut [u8; N])) {
    if let Some((half, rest)) = out.split_first_chunk_mut::<2>()
        && let Some(rest) = rest.first_chunk_mut()
    {
        *half = f16::from_f32(scale).to_le_bytes();
        put(rest);
    }
}

/// Word `at`; zeros where there is none.
pub(super) fn word(words: Words<'_>, at: usize) -> u32 {
    words.get(at).map_or(0, |word| u32::from_le_bytes(*word))
}
