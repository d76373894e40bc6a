//! Activations in int8: for each 32 columns of a row a scale, the largest magnitude over 127.
//!
//! They lie as they are multiplied: chunk by chunk of columns, in each tile by tile of a few rows, in each of these quad
//! by quad (scale by scale, …), row beside row; where [`Dot::COLUMNS`] is eight, two quads by two quads. What a tile needs
//! is one piece of memory, and the next tile's follows.
#![allow(unsafe_code)]

use std::ops::Range;

use super::super::isa::{self, Dot, DotKernel, Simd};
use super::super::memory::{Memory, Plain};
use super::super::panel::LANES;
use super::super::pool::{Pool, Shards};
use super::super::tile::{group_count, row_group};
use super::layout::{CHUNK, UNIT};
use crate::KernelError;

/// What a block type wants to know of the activations.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// Columns per sum.
    pub(crate) group: usize,
    pub(crate) bias: u8,
    /// How large the codes are.
    pub(crate) range: isa::Range,
    /// Most rows in a tile.
    pub(crate) tile: usize,
}

/// Room for the activations of one product, kept from one to the next.
#[derive(Default)]
pub(crate) struct Activations {
    codes: Memory<i8>,
    scales: Memory<f32>,
    starts: Memory<i32>,
    sums: Memory<f32>,
}

/// Quantized rows.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    place: Place,
    codes: &'a [i8],
    scales: &'a [f32],
    starts: &'a [i32],
    sums: &'a [f32],
}

/// One chunk of columns of a tile of `R` rows.
#[derive(Clone, Copy)]
pub(crate) struct TileChunk<'a, const R: usize> {
    /// Quad by quad, as [`Dot::dot_group`] takes them.
    pub(crate) codes: &'a [[[i8; 4]; R]],
    /// One for each unit.
    pub(crate) scales: &'a [[f32; R]],
    /// One for each group: minus the bias times the sum of the codes.
    pub(crate) starts: &'a [[i32; R]],
    /// One for each group: the scale times the sum of the codes.
    pub(crate) sums: &'a [[f32; R]],
}

/// Where things lie.
#[derive(Clone, Copy)]
struct Place {
    rows: usize,
    cols: usize,
    /// Tiles in all.
    tiles: usize,
    /// Columns per sum.
    group: usize,
}

impl Place {
    /// The elements of the chunk from `col` on of `tile`.
    #[inline(always)]
    fn of(&self, tile: usize, col: usize) -> Range<usize> {
        let len = CHUNK.min(self.cols - col);
        let (first, height) = row_group(self.rows, self.tiles, tile);
        let start = self.rows * col + first * len;
        start..start + height * len
    }
}

impl<'a> Rows<'a> {
    /// Tiles in all.
    #[inline(always)]
    pub(crate) fn tiles(&self) -> usize {
        self.place.tiles
    }

    /// First row and height of a tile.
    #[inline(always)]
    pub(crate) fn tile(&self, tile: usize) -> (usize, usize) {
        row_group(self.place.rows, self.place.tiles, tile)
    }

    /// The columns of `tile`, which is `R` rows high, from `col` on, a multiple of [`CHUNK`], to the end of the chunk.
    #[inline(always)]
    pub(crate) fn chunk<const R: usize>(&self, tile: usize, col: usize) -> TileChunk<'a, R> {
        let Range { start, end } = self.place.of(tile, col);
        let group = self.place.group;
        TileChunk {
            codes: self.codes[start..end].as_chunks().0.as_chunks().0,
            scales: self.scales[start / UNIT..end / UNIT].as_chunks().0,
            starts: self.starts[start / group..end / group].as_chunks().0,
            sums: self.sums[start / group..end / group].as_chunks().0,
        }
    }
}

/// At least `len` elements; allocates only where more are wanted than ever before.
fn fit<T: Plain>(memory: &mut Memory<T>, len: usize) -> Result<(), KernelError> {
    if memory.len() < len {
        *memory = Memory::zeroed("quantized activations", len)?;
    }
    Ok(())
}

impl Activations {
    /// Quantizes `rows` rows of `x`, `cols` columns each, whole units.
    pub(crate) fn quantize(
        &mut self,
        (pool, isa): (&Pool, super::Dispatch),
        x: &[f32],
        (rows, cols): (usize, usize),
        wanted: Wanted,
    ) -> Result<Rows<'_>, KernelError> {
        let (len, groups) = (rows * cols, rows * cols / wanted.group);
        fit(&mut self.codes, len)?;
        fit(&mut self.scales, len / UNIT)?;
        fit(&mut self.starts, groups)?;
        fit(&mut self.sums, groups)?;
        let place = Place { rows, cols, tiles: group_count(rows, wanted.tile), group: wanted.group };
        let (codes, scales) =
            (Shards::new(&mut self.codes[..len]), Shards::new(&mut self.scales[..len / UNIT]));
        let (starts, sums) = (Shards::new(&mut self.starts[..groups]), Shards::new(&mut self.sums[..groups]));
        // A piece of work is a chunk of a tile.
        let pieces = place.tiles * cols.div_ceil(CHUNK);
        let grain = pool.grain(pieces, len / 2 / pieces.max(1)).max(1);
        pool.run(pieces.div_ceil(grain), &|_, part| {
            for piece in part * grain..pieces.min((part + 1) * grain) {
                let (tile, col) = (piece % place.tiles, piece / place.tiles * CHUNK);
                let (first, height) = row_group(rows, place.tiles, tile);
                let Range { start, end } = place.of(tile, col);
                let len = end - start;
                // SAFETY: each piece is run once, and no two pieces have elements in common.
                let kernel = unsafe {
                    Quantize {
                        x: &x[first * cols + col..],
                        stride: cols,
                        height,
                        codes: codes.slice(start, len).as_chunks_mut().0,
                        scales: scales.slice(start / UNIT, len / UNIT),
                        starts: starts.slice(start / wanted.group, len / wanted.group),
                        sums: sums.slice(start / wanted.group, len / wanted.group),
                        wanted,
                    }
                };
                isa.run_dot(kernel);
            }
        })?;
        let Self { codes, scales, starts, sums } = &*self;
        Ok(Rows { place, codes, scales, starts, sums })
    }
}

/// A chunk of a tile.
struct Quantize<'a> {
    /// From the chunk's first element on.
    x: &'a [f32],
    /// From one row to the next.
    stride: usize,
    height: usize,
    codes: &'a mut [[i8; 4]],
    scales: &'a mut [f32],
    starts: &'a mut [i32],
    sums: &'a mut [f32],
    wanted: Wanted,
}

impl DotKernel for Quantize<'_> {
    #[inline(always)]
    fn run<D: Dot>(self, d: D) {
        let Wanted { group, bias, range, .. } = self.wanted;
        let bias = d.bias(bias, range);
        let (per_unit, height) = (UNIT / group, self.height);
        let together = D::COLUMNS / 4;
        let cols = 4 * self.codes.len() / height;
        let mut unit_codes = [0; UNIT];
        for row in 0..height {
            let x = self.x[row * self.stride..][..cols].as_chunks::<UNIT>().0;
            for (unit, x) in x.iter().enumerate() {
                let scale = quantize_unit(d, x, &mut unit_codes);
                self.scales[unit * height + row] = scale;
                for (quad, codes) in unit_codes.as_chunks().0.iter().enumerate() {
                    let quad = unit * UNIT / 4 + quad;
                    let (pack, rest) = (quad / together, quad % together);
                    self.codes[(pack * height + row) * together + rest] = *codes;
                }
                for (i, codes) in unit_codes.chunks_exact(group).enumerate() {
                    let sum: i32 = codes.iter().map(|&code| i32::from(code)).sum();
                    let at = (unit * per_unit + i) * height + row;
                    self.starts[at] = -(i32::from(bias) * sum);
                    self.sums[at] = scale * sum as f32;
                }
            }
        }
    }
}

/// Below this, 127 over the largest magnitude might overflow; such elements count as zero.
const NEGLIGIBLE: f32 = 1e-30;

/// Returns the scale: not a number where an element is infinite or not a number.
#[inline(always)]
fn quantize_unit<D: Dot>(d: D, x: &[f32; UNIT], codes: &mut [i8; UNIT]) -> f32 {
    let s = d.float();
    let zero = s.splat(0.0);
    let (parts, out) = (x.as_chunks::<LANES>().0, codes.as_chunks_mut::<LANES>().0);
    let (mut largest, mut bad) = (zero, zero);
    for part in parts {
        let v = s.load(part);
        largest = s.max(largest, s.max(v, s.sub(zero, v)));
        bad = s.fma(v, zero, bad);
    }
    let largest = s.max_lane(largest);
    let inverse = s.splat(if largest >= NEGLIGIBLE { 127.0 / largest } else { 0.0 });
    for (part, out) in parts.iter().zip(out) {
        d.narrow_i8(s.mul(s.load(part), inverse), out);
    }
    largest / 127.0 + s.sum_lanes(bad)
}
