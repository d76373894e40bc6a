//! Causal attention over the paged cache, for decoding and for prompts alike.
//!
//! What one (query, head) computes depends on positions alone. The sequence's positions fall into panels of up to
//! sixteen (see [`super::kv`]) and the panels into tiles of [`TILE`], counted from position 0. Tile by tile, in order:
//! scores, their maximum, exponentials, and the running sum and output rescaled to the new maximum (online softmax).
//! A position the query cannot see gets an exponential of exactly zero, which changes nothing; so it makes no difference
//! whether a panel is skipped, or visited for the sake of another query.
//!
//! Queries share the work of loading: the rows of one piece of work are the heads of a group, for a few tokens of one
//! sequence, and each tile of keys and values is applied to all of them while it is in the cache.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::isa::{Dispatch, Kernel, Simd, store_part};
use super::kv::{KvCache, KvLayout};
use super::math::{exp, tanh};
use super::memory::Memory;
use super::panel::{Element, LANES, panel_len, with_panels};
use super::pool::{Pool, Shards};
use super::step::Step;
use super::tile::{self, MAX_ROWS, accumulate, with_rows};
use super::{check, check_room, product, qkv_width, shape_error};
use crate::{AttentionParams, HeadCounts, KernelError, KvShape};

const OP: &str = "attention";
/// Panels per tile.
const TILE: usize = 4;
/// Most (token, head) rows in one piece of work.
const PIECE: usize = 128;

/// The running state of one piece of work.
pub(crate) struct Scratch {
    /// Largest score so far.
    max: [f32; PIECE],
    /// Sum of exponentials, by lane.
    sum: [[f32; LANES]; PIECE],
    /// Scores, then exponentials, of one tile.
    scores: [[[f32; LANES]; TILE]; MAX_ROWS],
    /// `[PIECE, head_dim / LANES]`, not yet divided by the sum.
    out: Memory<f32>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            max: [0.0; PIECE],
            sum: [[0.0; LANES]; PIECE],
            scores: [[[0.0; LANES]; TILE]; MAX_ROWS],
            out: Memory::default(),
        }
    }
}

impl Scratch {
    /// Another one with the same room.
    pub(crate) fn alike(&self) -> Result<Self, KernelError> {
        Ok(Self { out: Memory::zeroed("attention scratch", self.out.len())?, ..Self::default() })
    }

    /// Makes room for heads of `head_dim`.
    pub(crate) fn fit(&mut self, head_dim: usize) -> Result<(), KernelError> {
        let len = head_dim.div_ceil(LANES).saturating_mul(LANES * PIECE);
        if self.out.len() < len {
            self.out = Memory::zeroed("attention scratch", len)?;
        }
        Ok(())
    }
}

/// One call, its shapes checked.
struct Attention<'a> {
    out: Shards<'a, f32>,
    qkv: &'a [f32],
    step: &'a Step,
    params: &'a AttentionParams,
    shape: KvShape,
    layout: KvLayout,
    layer: usize,
}

/// See [`crate::Backend::attention`]. `scratch` has one entry per participant of the pool, fit for the cache.
pub(crate) fn attention(
    (pool, isa, scratch): (&Pool, Dispatch, &[Mutex<Scratch>]),
    out: &mut [f32],
    qkv: &[f32],
    (cache, layer): (&KvCache, usize),
    step: &Step,
    params: &AttentionParams,
) -> Result<(), KernelError> {
    let shape = cache.shape();
    cache.check_layer(OP, layer)?;
    cache.check_tables(OP, step)?;
    check(OP, "query heads beyond a multiple of kv_heads", params.heads % shape.kv_heads, 0)?;
    if params.heads == 0 || params.window == Some(0) {
        return Err(shape_error(OP, "query heads or window", 0, 1));
    }
    let tokens = step.tokens();
    let heads = HeadCounts { q: params.heads, kv: shape.kv_heads };
    check_room(OP, "elements of qkv", product(&[tokens, qkv_width(heads, shape.head_dim)]), qkv.len())?;
    check_room(OP, "elements of out", product(&[tokens, params.heads, shape.head_dim]), out.len())?;
    check_room(OP, "threads", pool.threads(), scratch.len())?;
    let layout = KvLayout::new(shape);
    let job = Attention { out: Shards::new(out), qkv, step, params, shape, layout, layer };
    let group = params.heads / shape.kv_heads;
    let per_piece = tokens.div_ceil(4 * pool.threads()).clamp(1, (PIECE / group).max(1));
    let pieces = tokens.div_ceil(per_piece);
    with_panels!(cache.data(), data => pool.run(pieces * shape.kv_heads, &|participant, chunk| {
        let Some(scratch) = scratch.get(participant) else { return };
        let mut scratch = scratch.lock().unwrap_or_else(PoisonError::into_inner);
        // Late tokens see the most; they go first so that no thread ends with a long piece.
        let first = (pieces - 1 - chunk / shape.kv_heads) * per_piece;
        let (keys, values) = data.split_at(cache.values_at());
        isa.run(Piece {
            job: &job,
            keys,
            values,
            head: chunk % shape.kv_heads,
            tokens: first..tokens.min(first + per_piece),
            scratch: &mut scratch,
        });
    }))
}

/// Some consecutive tokens (perhaps of several sequences) and the query heads of one key-value head.
struct Piece<'a, W> {
    job: &'a Attention<'a>,
    keys: &'a [W],
    values: &'a [W],
    head: usize,
    tokens: Range<usize>,
    scratch: &'a mut Scratch,
}

impl<W: Element> Kernel for Piece<'_, W> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let step = self.job.step;
        let group = self.job.params.heads / self.job.shape.kv_heads;
        let mut token = self.tokens.start;
        while token < self.tokens.end {
            let seq = step.seq_of(token);
            let end = step.tokens_of(seq).1.min(self.tokens.end);
            let (mut row, rows) = (0, (end - token) * group);
            while row < rows {
                let count = PIECE.min(rows - row);
                let rows = Rows { table: step.table(seq), first: token * group + row, count, group };
                self.sequence(s, &rows);
                row += count;
            }
            token = end;
        }
    }
}

/// Rows of one sequence: row `i` is head `(first + i) % group` of token `(first + i) / group`.
struct Rows<'a> {
    table: &'a [u32],
    first: usize,
    count: usize,
    group: usize,
}

/// Up to sixteen positions whose keys lie in one panel.
#[derive(Clone, Copy, Default)]
struct Segment {
    start: usize,
    end: usize,
    /// Where the panel of keys starts.
    keys: usize,
    /// Where the values of the first position start, in the first panel of dimensions.
    values: usize,
}

impl<W: Element> Piece<'_, W> {
    /// All tiles, in order, for all rows.
    #[inline(always)]
    fn sequence<S: Simd>(&mut self, s: S, rows: &Rows<'_>) {
        let dims = self.job.shape.head_dim.next_multiple_of(LANES);
        self.scratch.max[..rows.count].fill(f32::NEG_INFINITY);
        self.scratch.sum[..rows.count].fill([0.0; LANES]);
        self.scratch.out[..rows.count * dims].fill(0.0);
        let all = self.visible(rows, 0, rows.count);
        let (first, last) = (self.panel_of(all.start), self.panel_of(all.end - 1));
        for tile in first / TILE..=last / TILE {
            let panels = first.max(tile * TILE)..(last + 1).min((tile + 1) * TILE);
            let mut segments = [Segment::default(); TILE];
            let mut count = 0;
            for panel in panels {
                segments[count] = self.segment(rows.table, panel);
                count += 1;
            }
            for (row, n) in tile::row_groups(rows.count, MAX_ROWS) {
                let seen = self.visible(rows, row, n);
                let from = segments[..count].iter().take_while(|g| g.end <= seen.start).count();
                let to = count - segments[..count].iter().rev().take_while(|g| g.start >= seen.end).count();
                if from < to {
                    with_rows!(n, R => self.tile::<S, R>(s, rows, row, &segments[from..to]));
                }
            }
        }
        self.write(s, rows);
    }

    /// The positions that any of `n` rows from `row` on sees.
    #[inline(always)]
    fn visible(&self, rows: &Rows<'_>, row: usize, n: usize) -> Range<usize> {
        self.visible_to(rows, row).start..self.visible_to(rows, row + n - 1).end
    }

    #[inline(always)]
    fn visible_to(&self, rows: &Rows<'_>, row: usize) -> Range<usize> {
        let end = self.job.step.position((rows.first + row) / rows.group) + 1;
        let start = self.job.params.window.map_or(0, |window| end.saturating_sub(window as usize));
        start..end
    }

    /// Panels are counted over the sequence's blocks, each of which starts a new one.
    #[inline(always)]
    fn panel_of(&self, position: usize) -> usize {
        let size = self.job.shape.block_size;
        position / size * size.div_ceil(LANES) + position % size / LANES
    }

    #[inline(always)]
    fn segment(&self, table: &[u32], panel: usize) -> Segment {
        let KvShape { block_size, head_dim, .. } = self.job.shape;
        let per_block = block_size.div_ceil(LANES);
        let (index, in_block) = (panel / per_block, panel % per_block);
        let offset = in_block * LANES;
        let block = table[index] as usize;
        let head = self.job.layout.head(self.job.layer, block, self.head);
        Segment {
            start: index * block_size + offset,
            end: index * block_size + block_size.min(offset + LANES),
            keys: head * self.job.layout.keys + in_block * panel_len(head_dim),
            values: head * self.job.layout.values + offset * LANES,
        }
    }

    /// One tile for `R` rows from `row` on.
    #[inline(always)]
    fn tile<S: Simd, const R: usize>(&mut self, s: S, rows: &Rows<'_>, row: usize, segments: &[Segment]) {
        self.scores::<S, R>(s, rows, row, segments);
        for r in 0..R {
            self.softmax(s, row + r, r, self.visible_to(rows, row + r), segments);
        }
        let seen = self.visible(rows, row, R);
        let panels = self.job.shape.head_dim.div_ceil(LANES);
        let mut panel = 0;
        while panel < panels {
            if S::WIDE && panels - panel >= 4 {
                self.outputs::<S, R, 4>(s, row, panel, &seen, segments);
                panel += 4;
            } else {
                self.outputs::<S, R, 1>(s, row, panel, &seen, segments);
                panel += 1;
            }
        }
    }

    #[inline(always)]
    fn scores<S: Simd, const R: usize>(&mut self, s: S, rows: &Rows<'_>, row: usize, segments: &[Segment]) {
        let head_dim = self.job.shape.head_dim;
        let heads = self.job.params.heads + 2 * self.job.shape.kv_heads;
        let q = std::array::from_fn(|r| {
            let (token, head) = ((rows.first + row + r) / rows.group, (rows.first + row + r) % rows.group);
            self.job.qkv[(token * heads + self.head * rows.group + head) * head_dim..][..head_dim].as_ptr()
        });
        if let (true, Ok(whole)) = (S::WIDE, <&[Segment; TILE]>::try_from(segments)) {
            self.products::<S, R, TILE>(s, q, whole, 0);
        } else {
            for (i, segment) in segments.iter().enumerate() {
                self.products::<S, R, 1>(s, q, std::array::from_ref(segment), i);
            }
        }
    }

    /// `q · k` of `R` queries and `P` panels of keys, the first of which is the tile's `at`-th.
    #[inline(always)]
    fn products<S: Simd, const R: usize, const P: usize>(
        &mut self,
        s: S,
        q: [*const f32; R],
        segments: &[Segment; P],
        at: usize,
    ) {
        let head_dim = self.job.shape.head_dim;
        let panel = panel_len(head_dim);
        let keys = segments.map(|segment| self.keys[segment.keys..][..panel].as_ptr());
        // SAFETY: queries of `head_dim` elements and whole panels, both taken by checked slicing.
        let acc = unsafe { accumulate::<S, W, R, P, 0>(s, [[s.splat(0.0); P]; R], (q, keys), head_dim, []) };
        for (scores, acc) in self.scratch.scores.iter_mut().zip(acc) {
            for (scores, acc) in scores[at..].iter_mut().zip(acc) {
                s.store(acc, scores);
            }
        }
    }

    /// Turns one row's scores into exponentials and rescales its state.
    #[inline(always)]
    fn softmax<S: Simd>(&mut self, s: S, row: usize, r: usize, seen: Range<usize>, segments: &[Segment]) {
        let AttentionParams { scale, softcap, .. } = *self.job.params;
        let scores = &mut self.scratch.scores[r];
        let hidden = s.splat(f32::NEG_INFINITY);
        let mut largest = hidden;
        for (scores, segment) in scores.iter_mut().zip(segments) {
            let mut v = s.mul(s.load(scores), s.splat(scale));
            if let Some(cap) = softcap {
                v = s.mul(s.splat(cap), tanh(s, s.div(v, s.splat(cap))));
            }
            let from = seen.start.saturating_sub(segment.start);
            let to = seen.end.min(segment.end).saturating_sub(segment.start);
            if from > 0 || to < LANES {
                v = s.keep(v, from, to, hidden);
            }
            largest = s.max(largest, v);
            s.store(v, scores);
        }
        let before = self.scratch.max[row];
        // Finite even when the row has seen nothing yet, so that no difference below is of infinities.
        let max = s.max_lane(largest).max(before).max(f32::MIN);
        let mut sum = s.load(&self.scratch.sum[row]);
        if max > before {
            let rescale = exp(s, s.splat(before - max));
            let dims = self.job.shape.head_dim.next_multiple_of(LANES);
            let (out, _) = self.scratch.out[row * dims..][..dims].as_chunks_mut::<LANES>();
            for out in out {
                s.store(s.mul(s.load(out), rescale), out);
            }
            sum = s.mul(sum, rescale);
            self.scratch.max[row] = max;
        }
        for scores in &mut scores[..segments.len()] {
            let p = exp(s, s.sub(s.load(scores), s.splat(max)));
            sum = s.add(sum, p);
            s.store(p, scores);
        }
        s.store(sum, &mut self.scratch.sum[row]);
    }

    /// Adds the tile's values to `P` panels of dimensions of `R` rows.
    #[inline(always)]
    fn outputs<S: Simd, const R: usize, const P: usize>(
        &mut self,
        s: S,
        row: usize,
        panel: usize,
        seen: &Range<usize>,
        segments: &[Segment],
    ) {
        let dims = self.job.shape.head_dim.next_multiple_of(LANES);
        let values_panel = panel_len(self.job.shape.block_size);
        let Scratch { scores, out, .. } = &mut *self.scratch;
        let (out, _) = out.as_chunks_mut::<LANES>();
        let at = |r: usize, p: usize| (row + r) * (dims / LANES) + panel + p;
        let mut acc = std::array::from_fn(|r| std::array::from_fn(|p| s.load(&out[at(r, p)])));
        for (i, segment) in segments.iter().enumerate() {
            // Only positions that some row sees: what else is in the cache may not even be a number. Whole pairs, as
            // they are stored.
            let from = seen.start.saturating_sub(segment.start) / 2 * 2;
            let to = seen.end.min(segment.end) - segment.start;
            let weights = std::array::from_fn(|r| scores[r][i][from..to].as_ptr());
            let columns = (to - from).next_multiple_of(2) * LANES;
            let values = std::array::from_fn(|p| {
                let start = segment.values + (panel + p) * values_panel + from * LANES;
                self.values[start..][..columns].as_ptr()
            });
            // SAFETY: `to - from` weights and that many columns of each panel, both taken by checked slicing.
            acc = unsafe { accumulate::<S, W, R, P, 0>(s, acc, (weights, values), to - from, []) };
        }
        for (r, acc) in acc.iter().enumerate() {
            for (p, &acc) in acc.iter().enumerate() {
                s.store(acc, &mut out[at(r, p)]);
            }
        }
    }

    /// Divides by the sums and writes the heads' outputs.
    #[inline(always)]
    fn write<S: Simd>(&self, s: S, rows: &Rows<'_>) {
        let head_dim = self.job.shape.head_dim;
        let dims = head_dim.next_multiple_of(LANES);
        for row in 0..rows.count {
            let (token, head) = ((rows.first + row) / rows.group, (rows.first + row) % rows.group);
            let start = (token * self.job.params.heads + self.head * rows.group + head) * head_dim;
            // SAFETY: `attention` checked that `out` has this row; no other piece has this (token, head).
            let to = unsafe { self.job.out.slice(start, head_dim) };
            let inverse = s.splat(1.0 / s.sum_lanes(s.load(&self.scratch.sum[row])));
            let (from, _) = self.scratch.out[row * dims..][..dims].as_chunks::<LANES>();
            for (from, to) in from.iter().zip(to.chunks_mut(LANES)) {
                // Plus zero: the sign of a zero is the one trace a position of weight zero can leave.
                store_part(s, s.fma(s.load(from), inverse, s.splat(0.0)), to);
            }
        }
    }
}
