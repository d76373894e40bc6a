//! Activations in int8: for each 32 columns of a row a scale, the largest magnitude over 127.

use super::super::isa::{Dot, DotKernel, Simd};
use super::super::memory::{Memory, Plain};
use super::super::panel::LANES;
use super::super::pool::{Pool, Shards};
use super::layout::{CHUNK, UNIT};
use crate::KernelError;

/// What a block type wants to know of the activations.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// Columns per sum.
    pub(crate) group: usize,
    pub(crate) bias: u8,
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
    cols: usize,
    group: usize,
    codes: &'a [i8],
    scales: &'a [f32],
    starts: &'a [i32],
    sums: &'a [f32],
}

/// One chunk of columns of one row.
#[derive(Clone, Copy)]
pub(crate) struct RowChunk<'a> {
    /// Quad by quad.
    pub(crate) codes: &'a [[i8; 4]],
    /// One for each unit.
    pub(crate) scales: &'a [f32],
    /// One for each group: minus the bias times the sum of the codes.
    pub(crate) starts: &'a [i32],
    /// One for each group: the scale times the sum of the codes.
    pub(crate) sums: &'a [f32],
}

impl<'a> Rows<'a> {
    /// The columns of `row` from `col` on, a multiple of [`CHUNK`], to the end of the chunk.
    #[inline(always)]
    pub(crate) fn chunk(&self, row: usize, col: usize) -> RowChunk<'a> {
        let len = CHUNK.min(self.cols - col);
        let (first, per) = (row * self.cols + col, self.group);
        RowChunk {
            codes: self.codes[first..][..len].as_chunks().0,
            scales: &self.scales[first / UNIT..][..len / UNIT],
            starts: &self.starts[first / per..][..len / per],
            sums: &self.sums[first / per..][..len / per],
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
    #[allow(unsafe_code)]
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
        let grain = pool.grain(rows, cols / 2).max(1);
        let (codes, scales) =
            (Shards::new(&mut self.codes[..len]), Shards::new(&mut self.scales[..len / UNIT]));
        let (starts, sums) = (Shards::new(&mut self.starts[..groups]), Shards::new(&mut self.sums[..groups]));
        pool.run(rows.div_ceil(grain), &|_, piece| {
            let first = piece * grain * cols;
            let len = len.min(first + grain * cols) - first;
            let (unit, group) = (first / UNIT, first / wanted.group);
            // SAFETY: each piece is run once, and pieces are whole rows, so no two overlap.
            let kernel = unsafe {
                Quantize {
                    x: &x[first..][..len],
                    codes: codes.slice(first, len),
                    scales: scales.slice(unit, len / UNIT),
                    starts: starts.slice(group, len / wanted.group),
                    sums: sums.slice(group, len / wanted.group),
                    wanted,
                }
            };
            isa.run_dot(kernel);
        })?;
        let Self { codes, scales, starts, sums } = &*self;
        Ok(Rows { cols, group: wanted.group, codes, scales, starts, sums })
    }
}

struct Quantize<'a> {
    x: &'a [f32],
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    starts: &'a mut [i32],
    sums: &'a mut [f32],
    wanted: Wanted,
}

impl DotKernel for Quantize<'_> {
    #[inline(always)]
    fn run<D: Dot>(self, d: D) {
        let Wanted { group, bias } = self.wanted;
        let per_unit = UNIT / group;
        let units = self.x.as_chunks::<UNIT>().0.iter().zip(self.codes.as_chunks_mut::<UNIT>().0);
        for (unit, (x, codes)) in units.enumerate() {
            let scale = quantize_unit(d, x, codes);
            self.scales[unit] = scale;
            for (i, codes) in codes.chunks_exact(group).enumerate() {
                let sum: i32 = codes.iter().map(|&code| i32::from(code)).sum();
                self.starts[unit * per_unit + i] = -(i32::from(bias) * sum);
                self.sums[unit * per_unit + i] = scale * sum as f32;
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
