//! `out = x · wᵀ + bias`, for one row (decoding, bound by memory) to hundreds (prompts, bound by arithmetic).
//!
//! A result is the sum, in order, of the dot products over blocks of [`BLOCK`] columns, each a chain of fused
//! multiply-adds over its columns ([`tile`]), then the bias. Everything else here is the order in which results are
//! visited: with few rows, each group of panels runs through all columns, so weights stream from memory; with many
//! rows, a block of weights and a block of `x` stay in the cache while their tiles are computed.
#![allow(unsafe_code)]

use std::ops::Range;

use super::isa::{Dispatch, Kernel, Simd, load_part, store_part};
use super::matrix::Matrix;
use super::panel::{Element, LANES, panel_len, with_panels};
use super::pool::{Pool, Shards};
use super::tile::{self, MAX_ROWS, accumulate, with_rows};
use super::{check, check_room};
use crate::KernelError;

/// Columns per partial sum. Part of the result's definition.
const BLOCK: usize = 256;
/// Rows of `x` that are in the cache together, `BLOCK` columns of each.
const ROWS_IN_CACHE: usize = 192;
/// Panels whose blocks are in the cache together.
const PANELS_IN_CACHE: usize = 32;

/// One call, its shapes checked.
struct Linear<'a> {
    out: Shards<'a, f32>,
    x: &'a [f32],
    bias: Option<&'a [f32]>,
    rows: usize,
    cols: usize,
    /// Rows of the weight matrix, columns of `out`.
    outputs: usize,
}

/// `out = x · wᵀ + bias`; `x` is `[rows, w.cols]`, `out` `[rows, w.rows]`, `bias` `[w.rows]`.
pub(crate) fn linear(
    (pool, isa): (&Pool, Dispatch),
    out: &mut [f32],
    x: &[f32],
    w: &Matrix,
    bias: Option<&[f32]>,
    rows: usize,
) -> Result<(), KernelError> {
    const OP: &str = "linear";
    let (outputs, cols) = (w.rows(), w.cols());
    check_room(OP, "elements of x", rows * cols, x.len())?;
    check_room(OP, "elements of out", rows * outputs, out.len())?;
    if let Some(bias) = bias {
        check(OP, "elements of bias", bias.len(), outputs)?;
    }
    if rows == 0 {
        return Ok(());
    }
    let panels = outputs.div_ceil(LANES);
    let per_chunk = panels_per_chunk(panels, pool.threads(), rows);
    let job = Linear { out: Shards::new(out), x, bias, rows, cols, outputs };
    with_panels!(w.data(), data => pool.run(panels.div_ceil(per_chunk), &|_, chunk| {
        let first = chunk * per_chunk;
        isa.run(Chunk { job: &job, w: data, panels: first..panels.min(first + per_chunk) });
    }))
}

/// Enough chunks to keep all threads busy to the end, yet whole tiles in each.
fn panels_per_chunk(panels: usize, threads: usize, rows: usize) -> usize {
    let (tile, most) = if rows <= MAX_ROWS { (8, 64) } else { (4, PANELS_IN_CACHE) };
    let share = panels / (threads * 8);
    if share < tile { 4 } else { (share / tile * tile).min(most) }
}

/// The part of a call that one thread takes: all rows, some panels.
struct Chunk<'a, W> {
    job: &'a Linear<'a>,
    w: &'a [W],
    panels: Range<usize>,
}

impl<W: Element> Kernel for Chunk<'_, W> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.job.rows;
        if rows <= MAX_ROWS {
            with_rows!(rows, R => self.stream::<S, R>(s));
        } else {
            self.blocked(s);
        }
    }
}

impl<W: Element> Chunk<'_, W> {
    /// Few rows: every group of panels through all columns.
    #[inline(always)]
    fn stream<S: Simd, const R: usize>(&self, s: S) {
        let mut panel = self.panels.start;
        while panel < self.panels.end {
            let left = self.panels.end - panel;
            let step = if S::WIDE && R <= 2 && left >= 8 {
                self.columns::<S, R, 8>(s, panel);
                8
            } else if (S::WIDE || R == 1) && left >= 4 {
                self.columns::<S, R, 4>(s, panel);
                4
            } else {
                self.columns::<S, R, 1>(s, panel);
                1
            };
            panel += step;
        }
    }

    #[inline(always)]
    fn columns<S: Simd, const R: usize, const P: usize>(&self, s: S, panel: usize) {
        for col in (0..self.job.cols).step_by(BLOCK) {
            self.tile::<S, R, P, true>(s, 0, panel, col);
        }
    }

    /// Many rows: block by block.
    #[inline(always)]
    fn blocked<S: Simd>(&self, s: S) {
        for col in (0..self.job.cols).step_by(BLOCK) {
            for first_row in (0..self.job.rows).step_by(ROWS_IN_CACHE) {
                let rows = ROWS_IN_CACHE.min(self.job.rows - first_row);
                let mut panel = self.panels.start;
                while panel < self.panels.end {
                    let whole = S::WIDE && self.panels.end - panel >= 4;
                    for (row, count) in tile::row_groups(rows) {
                        let row = first_row + row;
                        if whole {
                            with_rows!(count, R => self.tile::<S, R, 4, false>(s, row, panel, col));
                        } else {
                            with_rows!(count, R => self.tile::<S, R, 1, false>(s, row, panel, col));
                        }
                    }
                    panel += if whole { 4 } else { 1 };
                }
            }
        }
    }

    /// One block of columns of `R` rows and `P` panels, added to `out`.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const P: usize, const STREAM: bool>(
        &self,
        s: S,
        row: usize,
        panel: usize,
        col: usize,
    ) {
        let job = self.job;
        let len = BLOCK.min(job.cols - col);
        // SAFETY: `linear` is called with `x` of `rows * cols` elements and `w` of whole panels; `row + R <= rows`,
        // `panel + P <= self.panels.end` and `col + len <= cols`; `BLOCK` is even, so `col` starts a pair.
        let acc = unsafe {
            let a = std::array::from_fn(|r| job.x.as_ptr().add((row + r) * job.cols + col));
            let b =
                std::array::from_fn(|p| self.w.as_ptr().add((panel + p) * panel_len(job.cols) + col * LANES));
            accumulate::<S, W, R, P, STREAM>(s, [[s.splat(0.0); P]; R], a, b, len)
        };
        let last = col + len == job.cols;
        for (r, acc) in acc.iter().enumerate() {
            for (p, &acc) in acc.iter().enumerate() {
                self.finish(s, acc, row + r, (panel + p) * LANES, (col == 0, last));
            }
        }
    }

    /// Adds one vector of partial sums to `out`: stores the `first`, adds the bias to the `last`.
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, sum: S::V, row: usize, output: usize, (first, last): (bool, bool)) {
        let job = self.job;
        let len = LANES.min(job.outputs - output);
        // SAFETY: `row < rows` and `output + len <= outputs`; only this chunk has these outputs.
        let out = unsafe { job.out.slice(row * job.outputs + output, len) };
        let mut sum = sum;
        if !first {
            sum = s.add(load_part(s, out), sum);
        }
        if let (true, Some(bias)) = (last, job.bias) {
            sum = s.add(sum, load_part(s, bias.get(output..output + len).unwrap_or_default()));
        }
        store_part(s, sum, out);
    }
}
