//! `out = x · wᵀ + bias`, for one row (decoding, bound by memory) to hundreds (prompts, bound by arithmetic).
//!
//! A result is the sum, in order, of the dot products over blocks of [`BLOCK`] columns, each a chain of fused
//! multiply-adds over its columns ([`tile`]), then the bias. Everything else here is the order in which results are
//! visited: with few rows, each group of panels runs through all columns, so weights stream from memory; with many
//! rows, a block of weights and a block of `x` stay in the cache while their tiles are computed.
#![allow(unsafe_code)]

use std::array::from_fn;
use std::ops::Range;

use super::activation::Activate;
use super::isa::{Dispatch, Kernel, Simd};
use super::matrix::{Data, Matrix};
use super::output::{Output, Turn};
use super::panel::{Element, LANES, Panels, panel_len, with_panels};
use super::pool::{Pool, Shards};
use super::quant::{self, Activations};
use super::tile::{self, accumulate, with_rows};
use super::{check, check_room, product};
use crate::{Activation, KernelError};

/// Columns per partial sum. Part of the result's definition.
const BLOCK: usize = 256;
/// Rows of `x` that are in the cache together, `BLOCK` columns of each.
const ROWS_IN_CACHE: usize = 192;
/// Rows that are worth cutting a call between threads by rows, for each of them.
const ROWS_PER_THREAD: usize = 32;
/// Panels whose blocks are in the cache together.
const PANELS_IN_CACHE: usize = 32;
/// With few rows, prefetch this many bytes ahead in each panel.
const AHEAD: usize = 512;

/// One band's product, its shapes checked.
struct Linear<'a> {
    output: &'a Output<'a>,
    x: &'a [f32],
    rows: usize,
    cols: usize,
    act: Option<Activation>,
}

/// `out = act(x · wᵀ + bias)`; `x` is `[rows, w.cols]`, `out` `[rows, w.rows]`, `bias` `[w.rows]`.
pub(crate) fn linear(
    (pool, isa, activations): (&Pool, Dispatch, &mut Activations),
    out: &mut [f32],
    x: &[f32],
    w: &Matrix,
    (bias, act): (Option<&[f32]>, Option<Activation>),
    rows: usize,
) -> Result<(), KernelError> {
    const OP: &str = "linear";
    let (width, cols) = (w.rows(), w.cols());
    check_room(OP, "elements of x", product(&[rows, cols]), x.len())?;
    check_room(OP, "elements of out", product(&[rows, width]), out.len())?;
    if let Some(bias) = bias {
        check(OP, "elements of bias", bias.len(), width)?;
    }
    if rows == 0 {
        return Ok(());
    }
    let out = Shards::new(out);
    let mut first = 0;
    for band in w.bands() {
        let outputs = band.rows;
        let bias = bias.and_then(|bias| bias.get(first..first + outputs));
        let output = Output { out: &out, width, first, outputs, bias };
        match &band.data {
            Data::Floats(panels) => {
                floats(pool, isa, Linear { output: &output, x, rows, cols, act }, panels)?;
            }
            Data::Blocks(blocks, panels) => {
                let band = quant::Band { blocks: *blocks, panels, cols };
                quant::multiply((pool, isa), activations, &output, (x, rows), band)?;
                if let Some(act) = act {
                    pool.run(rows, &|_, row| activate(isa, &output, row..row + 1, 0..outputs, act))?;
                }
            }
        }
        first += outputs;
    }
    Ok(())
}

fn floats(pool: &Pool, isa: Dispatch, job: Linear<'_>, panels: &Panels) -> Result<(), KernelError> {
    let count = job.output.outputs.div_ceil(LANES);
    let row_blocks = row_blocks(job.rows, pool.threads());
    let per_chunk = panels_per_chunk(count * row_blocks, pool.threads(), job.rows);
    let chunks = count.div_ceil(per_chunk);
    with_panels!(panels, data => pool.run(row_blocks * chunks, &|_, chunk| {
        let first = chunk % chunks * per_chunk;
        let panels = first..count.min(first + per_chunk);
        let (row, rows) = tile::row_group(job.rows, row_blocks, chunk / chunks);
        let rows = row..row + rows;
        isa.run(Chunk { job: &job, w: data, rows: rows.clone(), panels: panels.clone() });
        if let Some(act) = job.act {
            // While the results are in the cache.
            let outputs = panels.start * LANES..job.output.outputs.min(panels.end * LANES);
            activate(isa, job.output, rows, outputs, act);
        }
    }))
}

/// `act` of the results of some rows and of some of the band's outputs, which nobody else has.
fn activate(isa: Dispatch, output: &Output<'_>, rows: Range<usize>, outputs: Range<usize>, act: Activation) {
    for row in rows {
        let start = row * output.width + output.first + outputs.start;
        // SAFETY: `linear` checked that the rows and the outputs exist; only this piece of work has them.
        let x = unsafe { output.out.slice(start, outputs.len()) };
        isa.run(Activate { x, act });
    }
}

/// Into how many blocks to cut many rows, each of which fits the cache. If possible every thread has as many, so that it has
/// much the same rows in the ops before and after.
fn row_blocks(rows: usize, threads: usize) -> usize {
    let blocks = tile::group_count(rows, ROWS_IN_CACHE);
    if rows < threads * ROWS_PER_THREAD { blocks } else { blocks.next_multiple_of(threads) }
}

/// Enough chunks to keep all threads busy to the end, yet whole tiles in each.
pub(crate) fn panels_per_chunk(panels: usize, threads: usize, rows: usize) -> usize {
    let most = if rows <= 4 { 64 } else { PANELS_IN_CACHE };
    (panels / (threads * 8) / 4 * 4).clamp(4, most)
}

/// The part of a call that one thread takes: some rows, some panels.
struct Chunk<'a, W> {
    job: &'a Linear<'a>,
    w: &'a [W],
    rows: Range<usize>,
    panels: Range<usize>,
}

impl<W: Element> Kernel for Chunk<'_, W> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.job.rows {
            1 => self.stream::<S, 1>(s),
            2 => self.stream::<S, 2>(s),
            3 => self.stream::<S, 3>(s),
            4 => self.stream::<S, 4>(s),
            _ => self.blocked(s),
        }
    }
}

impl<W: Element> Chunk<'_, W> {
    /// Few rows: every group of panels through all columns, prefetched a little ahead.
    #[inline(always)]
    fn stream<S: Simd, const R: usize>(&self, s: S) {
        let mut panel = self.panels.start;
        while panel < self.panels.end {
            let four = (S::WIDE || R == 1) && self.panels.end - panel >= 4;
            for col in (0..self.job.cols).step_by(BLOCK) {
                if four {
                    let ahead = |p| self.weights(panel + p, col).wrapping_byte_add(AHEAD);
                    let zero = [[s.splat(0.0); 4]; R];
                    let sums = self.dot(s, zero, (0, panel), self.block(col), from_fn::<_, 4, _>(ahead));
                    self.finish(s, sums, (0, panel), col);
                } else {
                    let sums = self.dot(s, [[s.splat(0.0)]; R], (0, panel), self.block(col), []);
                    self.finish(s, sums, (0, panel), col);
                }
            }
            panel += if four { 4 } else { 1 };
        }
    }

    /// Many rows: block by block. While the first rows go through one block of weights, the next one is prefetched.
    #[inline(always)]
    fn blocked<S: Simd>(&self, s: S) {
        for col in (0..self.job.cols).step_by(BLOCK) {
            let mut panel = self.panels.start;
            while panel < self.panels.end {
                let four = S::WIDE && self.panels.end - panel >= 4;
                let after = panel + if four { 4 } else { 1 };
                let next = if after < self.panels.end {
                    (after, col)
                } else if col + BLOCK < self.job.cols {
                    (self.panels.start, col + BLOCK)
                } else {
                    // What this thread is likely to have next.
                    (after % self.job.output.outputs.div_ceil(LANES), 0)
                };
                self.rows(s, (panel, four), col, next);
                panel = after;
            }
        }
    }

    /// One block of columns of one panel, or four, for all rows. Meanwhile the block at `next` is fetched: a panel of it
    /// with each of the first groups of rows, or more where there are fewer groups.
    #[inline(always)]
    fn rows<S: Simd>(&self, s: S, (panel, four): (usize, bool), col: usize, next: (usize, usize)) {
        let groups = tile::row_groups(self.rows.len(), tile::MAX_ROWS);
        let count = groups.len();
        let next = |p: usize| self.weights(next.0 + p, next.1);
        for (group, (row, rows)) in groups.enumerate() {
            let at = (self.rows.start + row, panel);
            // What this group has to fetch, or else the block itself, which is in the cache.
            let fetch = |panels: usize, p: usize| {
                let p = group * panels + p;
                if p < if four { 4 } else { 1 } { next(p) } else { self.weights(panel, col) }
            };
            match count {
                _ if !four => with_rows!(rows, R => self.tile::<S, R, 1, 1>(s, at, col, [fetch(1, 0)])),
                1 => with_rows!(rows, R => self.tile::<S, R, 4, 4>(s, at, col, from_fn(next))),
                2 | 3 => with_rows!(rows, R => self.tile::<S, R, 4, 2>(s, at, col, from_fn(|p| fetch(2, p)))),
                _ => with_rows!(rows, R => self.tile::<S, R, 4, 1>(s, at, col, [fetch(1, 0)])),
            }
        }
    }

    /// One block of columns of `R` rows and `P` panels.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const P: usize, const N: usize>(
        &self,
        s: S,
        at: (usize, usize),
        col: usize,
        next: [*const W; N],
    ) {
        self.job.output.expect::<S, R, P>(s, at);
        let sums = self.dot(s, [[s.splat(0.0); P]; R], at, self.block(col), next);
        self.finish(s, sums, at, col);
    }

    /// The block of columns that starts at `col`.
    #[inline(always)]
    fn block(&self, col: usize) -> Range<usize> {
        col..self.job.cols.min(col + BLOCK)
    }

    /// Where column `col` of panel `panel` lies, or would lie.
    #[inline(always)]
    fn weights(&self, panel: usize, col: usize) -> *const W {
        self.w.as_ptr().wrapping_add(panel * panel_len(self.job.cols) + col * LANES)
    }

    /// Adds the dot products over `cols`, which start at an even one, to `sums`.
    #[inline(always)]
    fn dot<S: Simd, const R: usize, const P: usize, const N: usize>(
        &self,
        s: S,
        sums: [[S::V; P]; R],
        (row, panel): (usize, usize),
        cols: Range<usize>,
        next: [*const W; N],
    ) -> [[S::V; P]; R] {
        let job = self.job;
        // SAFETY: `linear` checked that `x` has `rows * cols` elements, and `w` has whole panels; all callers stay
        // within the rows, the chunk's panels and the columns, and start at even columns.
        unsafe {
            let a = from_fn(|r| job.x.as_ptr().add((row + r) * job.cols + cols.start));
            let b = from_fn(|p| self.weights(panel + p, cols.start));
            accumulate::<S, W, R, P, N>(s, sums, (a, b), cols.len(), next)
        }
    }

    /// Adds the sums over the block of columns at `col` to `out`, and the bias with the last block.
    #[inline(always)]
    fn finish<S: Simd, const R: usize, const P: usize>(
        &self,
        s: S,
        sums: [[S::V; P]; R],
        (row, panel): (usize, usize),
        col: usize,
    ) {
        let turn = Turn { first: col == 0, last: self.block(col).end == self.job.cols };
        // SAFETY: the rows and the panels exist; only this chunk has these outputs.
        unsafe { self.job.output.add_tile(s, (row, panel, P), sums, turn) };
    }
}
