//! Rows of quantized activations times a band of quantized weights.
//!
//! A result is the sum, in order, of its chunks of 256 columns, then the bias. A chunk's sum is a chain over its groups:
//! the integer dot product, times the weights' scale, times the activations' scale, added; then the minimum's part is
//! taken away. Both ways of going about it below do just that, so they give the same bits.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use super::super::isa::{self, Dispatch, Dot, DotKernel, Simd};
use super::super::output::{Output, Turn};
use super::super::panel::LANES;
use super::super::pool::Pool;
use super::super::tile::{row_groups, with_rows};
use super::activations::{RowChunk, Rows, Wanted};
use super::layout::{
    CHUNK, Header, UNIT, UNITS, Unpacked, chunk_len, header_len, panel_len, quads, unit_len,
};
use super::{Activations, Format, with_format};
use crate::{BlockType, KernelError};

/// Rows whose activations, a chunk of each, are in the cache together.
const ROWS_IN_CACHE: usize = 192;
/// Panels that one row is multiplied with in turn: so many streams of memory are read at once.
const STREAMS: usize = 4;
/// Most rows in a tile where there are registers for two panels, and where there are few.
const WIDE_ROWS: usize = 6;
const NARROW_ROWS: usize = 3;

/// Consecutive rows of a matrix that are of one block type.
#[derive(Clone, Copy)]
pub(crate) struct Band<'a> {
    pub(crate) blocks: BlockType,
    pub(crate) panels: &'a [u8],
    pub(crate) cols: usize,
}

/// `output = x · bandᵀ`; `x` is `[rows, band.cols]`.
pub(crate) fn multiply(
    (pool, isa): (&Pool, Dispatch),
    activations: &mut Activations,
    output: &Output<'_>,
    (x, rows): (&[f32], usize),
    band: Band<'_>,
) -> Result<(), KernelError> {
    with_format!(band.blocks, T => {
        let wanted = Wanted { group: T::GROUP, bias: T::BIAS };
        let x = activations.quantize((pool, isa), x, (rows, band.cols), wanted)?;
        let panels = output.outputs.div_ceil(LANES);
        let per_part = super::super::linear::panels_per_chunk(panels, pool.threads(), rows);
        pool.run(panels.div_ceil(per_part), &|_, part| {
            let first = part * per_part;
            let panels = first..panels.min(first + per_part);
            isa.run_dot(Part::<T> { output, x, rows, band, panels, format: PhantomData });
        })
    })
}

/// What one thread takes: all rows, some panels.
struct Part<'a, T> {
    output: &'a Output<'a>,
    x: Rows<'a>,
    rows: usize,
    band: Band<'a>,
    panels: Range<usize>,
    format: PhantomData<T>,
}

impl<T: Format> DotKernel for Part<'_, T> {
    #[inline(always)]
    fn run<D: Dot>(self, d: D) {
        match (self.rows, D::F::WIDE) {
            (1, _) => self.stream(d),
            (_, true) => self.blocked::<D, 2>(d, WIDE_ROWS),
            (_, false) => self.blocked::<D, 1>(d, NARROW_ROWS),
        }
    }
}

impl<T: Format> Part<'_, T> {
    /// The chunk of `panel` that starts at `col`.
    #[inline(always)]
    fn chunk(&self, panel: usize, col: usize) -> &[u8] {
        let start = panel * panel_len::<T>(self.band.cols) + col / CHUNK * chunk_len::<T>(UNITS);
        &self.band.panels[start..][..chunk_len::<T>(self.units(col))]
    }

    /// Units in the chunk that starts at `col`.
    #[inline(always)]
    fn units(&self, col: usize) -> usize {
        CHUNK.min(self.band.cols - col) / UNIT
    }

    /// Fetches what is needed after the chunks of `P` panels at `(panel, col)`, a part in each of `calls` calls.
    #[inline(always)]
    fn fetch<const P: usize>(&self, next: (usize, usize), calls: usize) -> Fetch<P> {
        let panel_len = panel_len::<T>(self.band.cols);
        let offset = next.0 * panel_len + next.1 / CHUNK * chunk_len::<T>(UNITS);
        let lines = chunk_len::<T>(UNITS).div_ceil(64);
        let at = self.band.panels.as_ptr().wrapping_add(offset);
        Fetch { at, stride: panel_len, lines, step: lines.div_ceil(calls.max(1)) }
    }

    #[inline(always)]
    fn turn(&self, col: usize) -> Turn {
        Turn { first: col == 0, last: col + CHUNK >= self.band.cols }
    }

    /// One row: bound by memory. A few panels at a time, chunk by chunk; each fetches its next chunk meanwhile.
    #[inline(always)]
    fn stream<D: Dot>(&self, d: D) {
        for first in self.panels.clone().step_by(STREAMS) {
            for col in (0..self.band.cols).step_by(CHUNK) {
                let (x, units) = (self.x.chunk(0, col), self.units(col));
                let last = self.turn(col).last;
                for panel in first..self.panels.end.min(first + STREAMS) {
                    let next = if last { (panel + STREAMS, 0) } else { (panel, col + CHUNK) };
                    let sum =
                        dot_chunk::<D, T>(d, self.chunk(panel, col), &x, units, self.fetch(next, units));
                    // SAFETY: row 0 exists; the panel is this part's alone.
                    unsafe { self.output.add(d.float(), (0, panel), sum, self.turn(col)) };
                }
            }
        }
    }

    /// Several rows: chunks are unpacked, `P` panels at a time, then multiplied with all rows.
    #[inline(always)]
    fn blocked<D: Dot, const P: usize>(&self, d: D, most_rows: usize) {
        let mut unpacked = [const { Unpacked::EMPTY }; P];
        for col in (0..self.band.cols).step_by(CHUNK) {
            for first_row in (0..self.rows).step_by(ROWS_IN_CACHE) {
                let rows = first_row..self.rows.min(first_row + ROWS_IN_CACHE);
                for panel in self.panels.clone().step_by(P) {
                    let count = P.min(self.panels.end - panel);
                    for (p, unpacked) in unpacked.iter_mut().enumerate().take(count) {
                        unpacked.fill::<D, T>(d, self.chunk(panel + p, col), self.units(col));
                    }
                    self.rows(d, (rows.clone(), most_rows), (panel, count, &unpacked), col);
                }
            }
        }
    }

    /// The chunks at `col` of `count` panels with `rows`, at most `most` at a time.
    #[inline(always)]
    fn rows<D: Dot, const P: usize>(
        &self,
        d: D,
        (rows, most): (Range<usize>, usize),
        (panel, count, weights): (usize, usize, &[Unpacked; P]),
        col: usize,
    ) {
        let groups = row_groups(rows.len(), most);
        let after = panel + P;
        let next = if after < self.panels.end { (after, col) } else { (self.panels.start, col + CHUNK) };
        let mut fetch = self.fetch::<P>(next, groups.len() * self.units(col));
        if rows.start > 0 {
            // The rows before these have fetched it already.
            fetch.lines = 0;
        }
        let tile =
            Tile { weights, units: self.units(col), group: T::GROUP, minimum: T::MIN, range: T::RANGE };
        for (row, height) in groups {
            let row = rows.start + row;
            with_rows!(height, R => {
                let x: [RowChunk<'_>; R] = std::array::from_fn(|r| self.x.chunk(row + r, col));
                let sums = tile.multiply(d, &x, &mut fetch);
                for (r, sums) in sums.into_iter().enumerate() {
                    for (p, sum) in sums.into_iter().enumerate().take(count) {
                        // SAFETY: the row exists; the panel exists and is this part's alone.
                        unsafe { self.output.add(d.float(), (row + r, panel + p), sum, self.turn(col)) };
                    }
                }
            });
        }
    }
}

/// One row with one chunk, whose codes go from memory to registers.
#[inline(always)]
fn dot_chunk<D: Dot, T: Format>(
    d: D,
    chunk: &[u8],
    x: &RowChunk<'_>,
    units: usize,
    mut fetch: Fetch<1>,
) -> <D::F as Simd>::V {
    let s = d.float();
    let (header, codes) = chunk.split_at(header_len::<T>(units));
    let header = Header::new::<T>(d, header);
    let mut sum = s.splat(0.0);
    let parts = codes.chunks_exact(unit_len::<T>()).zip(x.codes.as_chunks::<8>().0);
    for (unit, ((unit_codes, x_codes), &x_scale)) in parts.zip(x.scales).enumerate() {
        fetch.some(s);
        let quads = quads::<D, T>(d, unit_codes);
        let per_group = T::GROUP / 4;
        for part in 0..8 / per_group {
            let group = unit * (8 / per_group) + part;
            let mut products = d.splat_i32(x.starts[group]);
            for quad in part * per_group..(part + 1) * per_group {
                products = d.dot(products, quads[quad], d.splat4(&x_codes[quad]), T::RANGE);
            }
            let (scale, min) = header.scales::<T>(group);
            let scaled = s.mul(d.to_f32(products), scale);
            sum = s.fma(scaled, s.splat(x_scale), sum);
            if T::MIN {
                sum = s.nfma(min, s.splat(x.sums[group]), sum);
            }
        }
    }
    sum
}

/// A few rows with a chunk of `P` panels, all sums kept in registers.
struct Tile<'a, const P: usize> {
    weights: &'a [Unpacked; P],
    units: usize,
    /// As in [`Format`].
    group: usize,
    minimum: bool,
    range: isa::Range,
}

impl<const P: usize> Tile<'_, P> {
    #[inline(always)]
    fn multiply<D: Dot, const R: usize>(
        &self,
        d: D,
        x: &[RowChunk<'_>; R],
        fetch: &mut Fetch<P>,
    ) -> [[<D::F as Simd>::V; P]; R] {
        let mut sums = [[d.float().splat(0.0); P]; R];
        let per_unit = UNIT / self.group;
        for group in 0..self.units * per_unit {
            fetch.some(d.float());
            // The number of quads is a constant in either call.
            let products = match per_unit {
                1 => self.products::<D, R, 8>(d, x, group),
                _ => self.products::<D, R, 4>(d, x, group),
            };
            self.scale(d, &mut sums, products, x, (group, group / per_unit));
        }
        sums
    }

    /// The integer dot products over `group`, of `Q` quads.
    // Counted loops unroll into registers, whatever iterators would do.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn products<D: Dot, const R: usize, const Q: usize>(
        &self,
        d: D,
        x: &[RowChunk<'_>; R],
        group: usize,
    ) -> [[D::I; P]; R] {
        let mut products = [[d.splat_i32(0); P]; R];
        for r in 0..R {
            // SAFETY: a row's chunk has as many groups as the weights' chunk.
            products[r] = [d.splat_i32(unsafe { *x[r].starts.get_unchecked(group) }); P];
        }
        for quad in group * Q..(group + 1) * Q {
            let mut codes = [d.splat1(0); P];
            for p in 0..P {
                // SAFETY: a chunk has at most `8 * UNITS` quads.
                codes[p] = d.load(unsafe { self.weights[p].codes.get_unchecked(quad) });
            }
            for r in 0..R {
                // SAFETY: a row's chunk has as many quads as the weights' chunk.
                let four = d.splat4(unsafe { x[r].codes.get_unchecked(quad) });
                for p in 0..P {
                    products[r][p] = d.dot(products[r][p], codes[p], four, self.range);
                }
            }
        }
        products
    }

    /// `sums += scale * products * x_scale - min * x_sum`.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn scale<D: Dot, const R: usize>(
        &self,
        d: D,
        sums: &mut [[<D::F as Simd>::V; P]; R],
        products: [[D::I; P]; R],
        x: &[RowChunk<'_>; R],
        (group, unit): (usize, usize),
    ) {
        let s = d.float();
        for p in 0..P {
            let scale = s.load(&self.weights[p].scales[group]);
            for r in 0..R {
                // SAFETY: a row's chunk has as many units as the weights' chunk.
                let x_scale = s.splat(unsafe { *x[r].scales.get_unchecked(unit) });
                let scaled = s.mul(d.to_f32(products[r][p]), scale);
                sums[r][p] = s.fma(scaled, x_scale, sums[r][p]);
            }
            if self.minimum {
                let min = s.load(&self.weights[p].mins[group]);
                for r in 0..R {
                    // SAFETY: a row's chunk has as many groups as the weights' chunk.
                    let x_sum = s.splat(unsafe { *x[r].sums.get_unchecked(group) });
                    sums[r][p] = s.nfma(min, x_sum, sums[r][p]);
                }
            }
        }
    }
}

/// Brings one chunk of each of `P` panels nearer, little by little.
struct Fetch<const P: usize> {
    /// The next cache line, of any address.
    at: *const u8,
    /// From one panel to the next.
    stride: usize,
    /// How many lines are left, and how many of them to fetch at a time.
    lines: usize,
    step: usize,
}

impl<const P: usize> Fetch<P> {
    #[inline(always)]
    fn some<S: Simd>(&mut self, s: S) {
        for _ in 0..self.step.min(self.lines) {
            for p in 0..P {
                s.prefetch(self.at.wrapping_add(p * self.stride));
            }
            self.at = self.at.wrapping_add(64);
        }
        self.lines = self.lines.saturating_sub(self.step);
    }
}
