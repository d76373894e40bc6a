//! Rows of quantized activations times a band of quantized weights.
//!
//! A result is the sum, in order, of its chunks of 256 columns, then the bias. A chunk's sum is a chain over its groups:
//! the integer dot product, times the weights' scale, times the activations' scale, added; then the minimum's part is
//! taken away. Both ways of going about it below do just that, so they give the same bits.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use super::super::isa::{self, Dispatch, Dot, DotKernel, Simd, dot_quad};
use super::super::output::{Output, Turn};
use super::super::panel::LANES;
use super::super::pool::Pool;
use super::super::tile::with_rows;
use super::activations::{Rows, TileChunk, Wanted};
use super::layout::{
    CHUNK, Header, UNIT, UNITS, Unpacked, chunk_len, codes, header_len, panel_len, plain_nibbles, quads,
    unit_len,
};
use super::{Activations, Format, with_format};
use crate::{BlockType, KernelError};

/// Most rows whose products are taken straight from memory, without unpacking: one tile, where there are registers.
const FEW_ROWS: usize = 8;
/// Most rows in a tile where there are registers for two panels, where there are few, and where there are few but rows
/// are multiplied two at a time.
const WIDE_ROWS: usize = 6;
const NARROW_ROWS: usize = 3;
const PAIRED_ROWS: usize = 4;
/// Most tiles whose activations, all of them, are in the cache while weights stream by.
const TILES_IN_STREAM: usize = 8;
/// Tiles whose activations, a chunk of each, are in the cache together.
const TILES_IN_CACHE: usize = 32;

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
    let mut tile = 0;
    isa.run_dot(MostRows { rows, tile: &mut tile });
    with_format!(band.blocks, T => {
        let wanted = Wanted { group: T::GROUP, bias: T::BIAS, range: T::RANGE, tile };
        let x = activations.quantize((pool, isa), x, (rows, band.cols), wanted)?;
        let panels = output.outputs.div_ceil(LANES);
        let per_part = super::super::linear::panels_per_chunk(panels, pool.threads(), rows);
        pool.run(panels.div_ceil(per_part), &|_, part| {
            let first = part * per_part;
            let panels = first..panels.min(first + per_part);
            isa.run_dot(Part::<T> { output, x, band, panels, format: PhantomData });
        })
    })
}

/// Finds out how many of `rows` rows to put in a tile at most.
struct MostRows<'a> {
    rows: usize,
    tile: &'a mut usize,
}

impl DotKernel for MostRows<'_> {
    #[inline(always)]
    fn run<D: Dot>(self, _: D) {
        *self.tile = match (D::F::WIDE, D::COLUMNS) {
            (true, _) if self.rows <= FEW_ROWS => FEW_ROWS,
            (true, _) => WIDE_ROWS,
            (false, 8) => PAIRED_ROWS,
            (false, _) => NARROW_ROWS,
        };
    }
}

/// What one thread takes: all rows, some panels.
struct Part<'a, T> {
    output: &'a Output<'a>,
    x: Rows<'a>,
    band: Band<'a>,
    panels: Range<usize>,
    format: PhantomData<T>,
}

impl<T: Format> DotKernel for Part<'_, T> {
    #[inline(always)]
    fn run<D: Dot>(self, d: D) {
        match (self.x.tiles(), self.x.tile(0).1, D::F::WIDE) {
            (1, 1, _) => self.few::<D, 1>(d),
            (1, height, true) => with_rows!(height, R in 2, 3, 4, 5, 6, 7; 8 => self.few::<D, R>(d)),
            (_, _, true) => self.blocked::<D, 2>(d),
            (_, _, false) => self.blocked::<D, 1>(d),
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

    /// Fetches the chunks of `P` panels at `(panel, col)`, a part in each of `calls` calls.
    #[inline(always)]
    fn fetch<const P: usize>(&self, (panel, col): (usize, usize), calls: usize) -> Fetch<P> {
        let panel_len = panel_len::<T>(self.band.cols);
        let offset = panel * panel_len + col / CHUNK * chunk_len::<T>(UNITS);
        let lines = chunk_len::<T>(UNITS).div_ceil(64);
        let at = self.band.panels.as_ptr().wrapping_add(offset);
        Fetch { at, stride: panel_len, lines, step: lines.div_ceil(calls.max(1)) }
    }

    #[inline(always)]
    fn turn(&self, col: usize) -> Turn {
        Turn { first: col == 0, last: col + CHUNK >= self.band.cols }
    }

    /// One tile of few rows: bound by memory, which is read in one stream, as it lies.
    #[inline(always)]
    fn few<D: Dot, const R: usize>(&self, d: D) {
        for panel in self.panels.clone() {
            for col in (0..self.band.cols).step_by(CHUNK) {
                let (x, units) = (self.x.chunk::<R>(0, col), self.units(col));
                // A panel follows on the one before it.
                let mut fetch = self.fetch((panel, col + CHUNK), units);
                if T::BITS == 8 {
                    // There is so little to do for each byte that the processor is far ahead by itself.
                    fetch.lines = 0;
                }
                let sums = dot_chunk::<D, T, R>(d, self.chunk(panel, col), &x, units, fetch);
                // SAFETY: the rows exist; the panel is this part's alone.
                unsafe { self.output.add_tile(d.float(), (0, panel, 1), sums, self.turn(col)) };
            }
        }
    }

    /// Many rows: chunks are unpacked, `P` panels at a time, then multiplied with all tiles.
    #[inline(always)]
    fn blocked<D: Dot, const P: usize>(&self, d: D) {
        let mut unpacked = [const { Unpacked::EMPTY }; P];
        let tiles = self.x.tiles();
        if tiles <= TILES_IN_STREAM {
            // There is little to do for each byte: panels are read as they lie.
            for panel in self.panels.clone().step_by(P) {
                for col in (0..self.band.cols).step_by(CHUNK) {
                    let further = col + CHUNK < self.band.cols;
                    let next = if further { (panel, col + CHUNK) } else { (panel + P, 0) };
                    self.chunks(d, 0..tiles, (panel, &mut unpacked), col, next);
                }
            }
            return;
        }
        for col in (0..self.band.cols).step_by(CHUNK) {
            for first in (0..tiles).step_by(TILES_IN_CACHE) {
                let tiles = first..tiles.min(first + TILES_IN_CACHE);
                for panel in self.panels.clone().step_by(P) {
                    let further = panel + P < self.panels.end;
                    let next = if further { (panel + P, col) } else { (self.panels.start, col + CHUNK) };
                    self.chunks(d, tiles.clone(), (panel, &mut unpacked), col, next);
                }
            }
        }
    }

    /// The chunks at `col` of up to `P` panels, which are unpacked, with some tiles; meanwhile those at `next` are fetched.
    #[inline(always)]
    fn chunks<D: Dot, const P: usize>(
        &self,
        d: D,
        tiles: Range<usize>,
        (panel, unpacked): (usize, &mut [Unpacked; P]),
        col: usize,
        next: (usize, usize),
    ) {
        let (count, units) = (P.min(self.panels.end - panel), self.units(col));
        // Where there is one panel, it is multiplied in the others' places, too.
        let chunks: [_; P] = std::array::from_fn(|p| self.chunk(panel + p.min(count - 1), col));
        for (unpacked, chunk) in unpacked.iter_mut().zip(chunks) {
            unpacked.fill_scales::<D, T>(d, chunk, units);
        }
        let mut fetch = self.fetch::<P>(next, tiles.len() * units);
        if tiles.start > 0 {
            // The rows before these have fetched it already.
            fetch.lines = 0;
        }
        let packed = chunks.map(|chunk| codes::<T>(chunk, units).as_chunks().0);
        let mut product =
            Product::<T, P> { weights: unpacked, packed, units, unpack: true, format: PhantomData };
        for tile in tiles {
            let (row, height) = self.x.tile(tile);
            with_rows!(height, R in 1, 2, 3, 4, 5; 6 => {
                let sums = product.take(d, &self.x.chunk::<R>(tile, col), &mut fetch);
                product.unpack = false;
                // SAFETY: the rows exist; the panels exist and are this part's alone.
                unsafe { self.output.add_tile(d.float(), (row, panel, count), sums, self.turn(col)) };
            });
        }
    }
}

/// A few rows with one chunk, whose codes go from memory to registers; more than one only where [`Dot::COLUMNS`] is four.
// Counted loops unroll into registers, whatever iterators would do.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn dot_chunk<D: Dot, T: Format, const R: usize>(
    d: D,
    chunk: &[u8],
    x: &TileChunk<'_, R>,
    units: usize,
    mut fetch: Fetch<1>,
) -> [[<D::F as Simd>::V; 1]; R] {
    let s = d.float();
    let (header, codes) = chunk.split_at(header_len::<T>(units));
    let header = Header::new::<T>(d, header);
    let (parts, per_group) = (UNIT / T::GROUP, T::GROUP / 4);
    let mut sums = [s.splat(0.0); R];
    let codes = codes.chunks_exact(unit_len::<T>()).zip(x.codes.as_chunks::<8>().0);
    for (unit, ((unit_codes, x_codes), x_scales)) in codes.zip(x.scales).enumerate() {
        fetch.some(s);
        let quads = quads::<D, T>(d, unit_codes);
        for part in 0..parts {
            let group = unit * parts + part;
            let mut products = [d.splat_i32(0); R];
            if d.bias(T::BIAS, T::RANGE) != 0 {
                products = x.starts[group].map(|start| d.splat_i32(start));
            }
            for quad in part * per_group..(part + 1) * per_group {
                for r in 0..R {
                    products[r] = d.dot(products[r], quads[quad], d.splat4(&x_codes[quad][r]), T::RANGE);
                }
            }
            let (scale, min) = header.scales::<T>(group);
            for r in 0..R {
                let scaled = s.mul(d.to_f32(products[r]), scale);
                sums[r] = s.fma(scaled, s.splat(x_scales[r]), sums[r]);
            }
            if T::MIN {
                for r in 0..R {
                    sums[r] = s.nfma(min, s.splat(x.sums[group][r]), sums[r]);
                }
            }
        }
    }
    sums.map(|sum| [sum])
}

/// A chunk of `P` panels, to be multiplied with tiles, all sums in registers.
struct Product<'a, T, const P: usize> {
    weights: &'a mut [Unpacked; P],
    /// The codes as they are in memory.
    packed: [&'a [[u8; 64]]; P],
    units: usize,
    /// Whether nothing is unpacked yet: the first tile does that, unit by unit, while it multiplies. All at once, before it,
    /// the multipliers would stand idle.
    unpack: bool,
    format: PhantomData<T>,
}

impl<T: Format, const P: usize> Product<'_, T, P> {
    #[inline(always)]
    fn take<D: Dot, const R: usize>(
        &mut self,
        d: D,
        x: &TileChunk<'_, R>,
        fetch: &mut Fetch<P>,
    ) -> [[<D::F as Simd>::V; P]; R] {
        let mut sums = [[d.float().splat(0.0); P]; R];
        let per_unit = UNIT / T::GROUP;
        for unit in 0..self.units {
            fetch.some(d.float());
            if self.unpack && matches!(Codes::of::<D, T>(), Codes::Unpacked) {
                for (unpacked, packed) in self.weights.iter_mut().zip(self.packed) {
                    unpacked.fill_unit::<D, T>(d, packed, unit);
                }
            }
            for group in unit * per_unit..(unit + 1) * per_unit {
                let products = self.products::<D, R>(d, x, group);
                self.scale(d, &mut sums, products, x, (group, unit));
            }
        }
        sums
    }

    /// The integer dot products over `group`.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn products<D: Dot, const R: usize>(&self, d: D, x: &TileChunk<'_, R>, group: usize) -> [[D::I; P]; R] {
        let quads = T::GROUP / 4;
        let mut products = [[d.splat_i32(0); P]; R];
        if d.bias(T::BIAS, T::RANGE) != 0 {
            // SAFETY: a tile's chunk has as many groups as the weights' chunk.
            let starts = unsafe { x.starts.get_unchecked(group) };
            for r in 0..R {
                products[r] = [d.splat_i32(starts[r]); P];
            }
        }
        let codes = match Codes::of::<D, T>() {
            Codes::Nibbles => {
                let packed = self.packed.map(|codes| &codes[group * 4..][..4]);
                return nibbles(d, products, packed, &x.codes[group * quads..][..quads], T::RANGE);
            }
            Codes::AsStored => self.packed,
            Codes::Unpacked => self.weights.each_ref().map(|unpacked| &unpacked.codes[..]),
        };
        let first = group * quads;
        // SAFETY: a tile's chunk has as many quads as the weights' chunk, at most `8 * UNITS`.
        let (codes, x) = unsafe {
            let codes = codes.map(|codes| codes.get_unchecked(first..).get_unchecked(..quads));
            (codes, x.codes.get_unchecked(first..).get_unchecked(..quads))
        };
        d.dot_group(products, codes, x, T::RANGE)
    }

    /// `sums += scale * products * x_scale - min * x_sum`.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn scale<D: Dot, const R: usize>(
        &self,
        d: D,
        sums: &mut [[<D::F as Simd>::V; P]; R],
        products: [[D::I; P]; R],
        x: &TileChunk<'_, R>,
        (group, unit): (usize, usize),
    ) {
        let s = d.float();
        // SAFETY: a tile's chunk has as many units and groups as the weights' chunk.
        let (x_scales, x_sums) = unsafe { (x.scales.get_unchecked(unit), x.sums.get_unchecked(group)) };
        for p in 0..P {
            let scale = s.load(&self.weights[p].scales[group]);
            for r in 0..R {
                let scaled = s.mul(d.to_f32(products[r][p]), scale);
                sums[r][p] = s.fma(scaled, s.splat(x_scales[r]), sums[r][p]);
            }
            if T::MIN {
                let min = s.load(&self.weights[p].mins[group]);
                for r in 0..R {
                    sums[r][p] = s.nfma(min, s.splat(x_sums[r]), sums[r][p]);
                }
            }
        }
    }
}

/// Where tiles find their codes.
enum Codes {
    /// In memory, as they lie there.
    AsStored,
    /// There too, but two in a byte: they are unpacked anew for each tile, in registers, which takes half as long as to write
    /// them.
    Nibbles,
    /// In [`Unpacked`].
    Unpacked,
}

impl Codes {
    const fn of<D: Dot, T: Format>() -> Self {
        match (D::F::WIDE, D::COLUMNS) {
            (true, 4) if plain_nibbles::<T>() => Self::Nibbles,
            (_, 4) if T::BITS == 8 && D::SHIFT == 0 => Self::AsStored,
            _ => Self::Unpacked,
        }
    }
}

/// [`Dot::dot_group`] with the nibbles of a unit.
#[inline(always)]
fn nibbles<D: Dot, const R: usize, const P: usize>(
    d: D,
    mut sums: [[D::I; P]; R],
    packed: [&[[u8; 64]]; P],
    x: &[[[i8; 4]; R]],
    range: isa::Range,
) -> [[D::I; P]; R] {
    let low = d.splat1(15);
    for i in 0..4 {
        let both: [_; P] = std::array::from_fn(|p| d.load(&packed[p][i]));
        sums = dot_quad(d, sums, std::array::from_fn(|p| d.and(both[p], low)), &x[i], range);
        let high = std::array::from_fn(|p| d.and(d.down(both[p], 4), low));
        sums = dot_quad(d, sums, high, &x[i + 4], range);
    }
    sums
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
