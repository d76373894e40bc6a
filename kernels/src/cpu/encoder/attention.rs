//! Bidirectional attention over packed sequences.
//!
//! One piece of work is one head of one sequence. Its keys and values are first brought into panels (see
//! [`crate::cpu::panel`]): keys with sixteen positions side by side, values with sixteen dimensions. Then a few queries at
//! a time: all their scores, the softmax over them, and their product with the values. A position that a query does
//! not see gets an exponential of exactly zero, which changes nothing; so how queries are grouped does not show.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::packed::Packed;
use crate::contract::{check_room, product, shape_error};
use crate::cpu::CpuBuf;
use crate::cpu::isa::{Dispatch, Kernel, Simd, load_part, store_part};
use crate::cpu::math::exp;
use crate::cpu::memory::Memory;
use crate::cpu::panel::{LANES, panel_len};
use crate::cpu::pool::{Pool, Shards};
use crate::cpu::tile::{self, MAX_ROWS, accumulate, with_rows};
use crate::{BidirectionalParams, KernelError, PackedLimits};

const OP: &str = "attend";
/// Tokens whose keys and values are brought near before they are needed.
const AHEAD: usize = 8;

/// One thread's panels and scores.
#[derive(Default)]
pub(crate) struct EncoderScratch {
    keys: Memory<f32>,
    values: Memory<f32>,
    /// `[MAX_ROWS, seq_len in whole panels]`.
    scores: Memory<f32>,
}

impl EncoderScratch {
    /// Another one with the same room.
    pub(crate) fn alike(&self) -> Result<Self, KernelError> {
        let like = |memory: &Memory<f32>| Memory::zeroed("attention scratch", memory.len());
        Ok(Self { keys: like(&self.keys)?, values: like(&self.values)?, scores: like(&self.scores)? })
    }

    /// Makes room for what `limits` allow.
    pub(crate) fn fit(&mut self, limits: &PackedLimits) -> Result<(), KernelError> {
        let panels = limits.seq_len.div_ceil(LANES);
        let fit = |memory: &mut Memory<f32>, len: usize| -> Result<(), KernelError> {
            if memory.len() < len {
                *memory = Memory::zeroed("attention scratch", len)?;
            }
            Ok(())
        };
        fit(&mut self.keys, panels.saturating_mul(panel_len(limits.head_dim)))?;
        fit(&mut self.values, limits.head_dim.div_ceil(LANES).saturating_mul(panel_len(limits.seq_len)))?;
        fit(&mut self.scores, panels.saturating_mul(MAX_ROWS * LANES))
    }
}

/// One call, its shapes checked.
struct Attention<'a> {
    out: Shards<'a, f32>,
    qkv: &'a [f32],
    heads: usize,
    head_dim: usize,
    scale: f32,
    window: usize,
    bias: Option<Bias<'a>>,
}

#[derive(Clone, Copy)]
struct Bias<'a> {
    table: &'a [f32],
    stride: usize,
    center: usize,
}

pub(super) fn attend(
    (pool, isa, scratch): (&Pool, Dispatch, &[Mutex<EncoderScratch>]),
    out: &mut [f32],
    qkv: &[f32],
    packed: &Packed,
    params: &BidirectionalParams<'_, CpuBuf>,
) -> Result<(), KernelError> {
    let BidirectionalParams { heads, head_dim, scale, window, ref bias } = *params;
    let (tokens, limits) = (packed.tokens(), packed.limits());
    check_room(OP, "elements of qkv", product(&[tokens, 3, heads, head_dim]), qkv.len())?;
    check_room(OP, "elements of out", product(&[tokens, heads, head_dim]), out.len())?;
    check_room(OP, "head_dim", head_dim, limits.head_dim)?;
    check_room(OP, "threads", pool.threads(), scratch.len())?;
    if heads == 0 || head_dim == 0 {
        return Err(shape_error(OP, "heads or head_dim", 0, 1));
    }
    let bias = bias.as_ref().map(|bias| Bias { table: bias.table, stride: bias.stride, center: bias.center });
    if let Some(Bias { table, stride, center }) = bias {
        check_room(OP, "elements of the bias table", product(&[heads, stride]), table.len())?;
        check_room(OP, "distances before the center", limits.seq_len - 1, center)?;
        check_room(
            OP,
            "distances after the center",
            limits.seq_len + LANES - 1,
            stride.saturating_sub(center),
        )?;
    }
    let window = window.map_or(usize::MAX, |window| window as usize);
    let out = Shards::new(out);
    let job = Attention { out, qkv, heads, head_dim, scale, window, bias };
    pool.run(packed.seqs() * heads, &|participant, chunk| {
        let Some(scratch) = scratch.get(participant) else { return };
        let mut scratch = scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens = packed.tokens_of(chunk / heads);
        isa.run(Head { job: &job, head: chunk % heads, tokens: tokens.0..tokens.1, scratch: &mut scratch });
    })
}

/// One head of one sequence.
struct Head<'a> {
    job: &'a Attention<'a>,
    head: usize,
    tokens: Range<usize>,
    scratch: &'a mut EncoderScratch,
}

impl Kernel for Head<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        self.pack(s);
        for (row, count) in tile::row_groups(self.tokens.len(), MAX_ROWS) {
            with_rows!(count, R => self.rows::<S, R>(s, row));
        }
    }
}

impl<'a> Head<'a> {
    /// The query (0), key (1) or value (2) of the sequence's `i`-th token.
    #[inline(always)]
    fn part(&self, which: usize, i: usize) -> &'a [f32] {
        let Attention { qkv, heads, head_dim, .. } = *self.job;
        let row = (self.tokens.start + i) * 3 * heads * head_dim;
        &qkv[row + (which * heads + self.head) * head_dim..][..head_dim]
    }

    /// Brings keys and values into panels. What lies beyond the sequence's end is old, and numbers all the same.
    #[inline(always)]
    fn pack<S: Simd>(&mut self, s: S) {
        let (len, head_dim) = (self.tokens.len(), self.job.head_dim);
        let (key_panel, value_panel) = (panel_len(head_dim), panel_len(len));
        for i in 0..len {
            let (key, value) = (self.part(1, i), self.part(2, i));
            // Tokens are too far apart for the processor to see what comes next.
            for part in [key, value] {
                let ahead = part.as_ptr().wrapping_add(AHEAD * 3 * self.job.heads * head_dim);
                (0..head_dim).step_by(LANES).for_each(|dim| s.prefetch(ahead.wrapping_add(dim)));
            }
            let EncoderScratch { keys, values, .. } = &mut *self.scratch;
            let keys = &mut keys[i / LANES * key_panel..][..key_panel];
            for (column, &key) in keys.as_chunks_mut::<LANES>().0.iter_mut().zip(key) {
                column[i % LANES] = key;
            }
            for (part, value) in value.chunks(LANES).enumerate() {
                if let Some(to) = values[part * value_panel + i * LANES..].first_chunk_mut() {
                    s.store(load_part(s, value), to);
                }
            }
        }
        if len % 2 == 1 {
            // The column that completes the last pair is loaded, and its product is not taken.
            for part in 0..head_dim.div_ceil(LANES) {
                self.scratch.values[part * value_panel + len * LANES..][..LANES].fill(0.0);
            }
        }
    }

    /// The keys that token `row` sees.
    #[inline(always)]
    fn seen(&self, row: usize) -> Range<usize> {
        let window = self.job.window;
        row.saturating_sub(window)..self.tokens.len().min(row.saturating_add(window).saturating_add(1))
    }

    /// `R` queries from `row` on.
    #[inline(always)]
    fn rows<S: Simd, const R: usize>(&mut self, s: S, row: usize) {
        let seen = self.seen(row).start..self.seen(row + R - 1).end;
        let panels = seen.start / LANES..seen.end.div_ceil(LANES);
        let mut panel = panels.start;
        while panel < panels.end {
            if S::WIDE && panels.end - panel >= 4 {
                self.scores::<S, R, 4>(s, row, panel);
                panel += 4;
            } else {
                self.scores::<S, R, 1>(s, row, panel);
                panel += 1;
            }
        }
        let mut inverse = [0.0; R];
        for (r, inverse) in inverse.iter_mut().enumerate() {
            *inverse = self.softmax(s, row + r, r, panels.clone());
        }
        let parts = self.job.head_dim.div_ceil(LANES);
        let mut part = 0;
        while part < parts {
            if S::WIDE && parts - part >= 4 {
                self.outputs::<S, R, 4>(s, (row, part), &seen, &inverse);
                part += 4;
            } else if S::WIDE && parts - part >= 2 {
                self.outputs::<S, R, 2>(s, (row, part), &seen, &inverse);
                part += 2;
            } else {
                self.outputs::<S, R, 1>(s, (row, part), &seen, &inverse);
                part += 1;
            }
        }
    }

    /// Scores in a row of the scratch.
    #[inline(always)]
    fn width(&self) -> usize {
        self.tokens.len().div_ceil(LANES) * LANES
    }

    /// `q · k` of `R` queries and `P` panels of keys.
    #[inline(always)]
    fn scores<S: Simd, const R: usize, const P: usize>(&mut self, s: S, row: usize, panel: usize) {
        let head_dim = self.job.head_dim;
        let q = std::array::from_fn(|r| self.part(0, row + r).as_ptr());
        let len = panel_len(head_dim);
        let k = std::array::from_fn(|p| self.scratch.keys[(panel + p) * len..][..len].as_ptr());
        // SAFETY: queries of `head_dim` elements and whole panels, both taken by checked slicing.
        let acc = unsafe { accumulate::<S, f32, R, P, 0>(s, [[s.splat(0.0); P]; R], (q, k), head_dim, []) };
        let width = self.width();
        for (r, acc) in acc.iter().enumerate() {
            let (to, _) = self.scratch.scores[r * width + panel * LANES..][..P * LANES].as_chunks_mut();
            for (to, &acc) in to.iter_mut().zip(acc) {
                s.store(acc, to);
            }
        }
    }

    /// Turns the scores of token `row`, the `r`-th of its group, into exponentials; one over their sum.
    #[inline(always)]
    fn softmax<S: Simd>(&mut self, s: S, row: usize, r: usize, panels: Range<usize>) -> f32 {
        let Attention { scale, bias, .. } = *self.job;
        let (seen, width) = (self.seen(row), self.width());
        let hidden = s.splat(f32::NEG_INFINITY);
        let bias = bias.map(|bias| &bias.table[self.head * bias.stride + bias.center - row..]);
        let (scores, _) = self.scratch.scores[r * width..][..width].as_chunks_mut::<LANES>();
        let mut largest = hidden;
        for panel in panels.clone() {
            let at = panel * LANES;
            let mut v = s.mul(s.load(&scores[panel]), s.splat(scale));
            if let Some(bias) = bias {
                v = s.add(v, load_part(s, &bias[at..][..LANES]));
            }
            if at < seen.start || at + LANES > seen.end {
                v = s.keep(v, seen.start.saturating_sub(at), seen.end.saturating_sub(at), hidden);
            }
            largest = s.max(largest, v);
            s.store(v, &mut scores[panel]);
        }
        let max = s.splat(s.max_lane(largest).max(f32::MIN));
        let mut sum = s.splat(0.0);
        for scores in &mut scores[panels] {
            let p = exp(s, s.sub(s.load(scores), max));
            sum = s.add(sum, p);
            s.store(p, scores);
        }
        1.0 / s.sum_lanes(sum)
    }

    /// The weighted sums of `P` panels of dimensions.
    #[inline(always)]
    fn outputs<S: Simd, const R: usize, const P: usize>(
        &mut self,
        s: S,
        (row, part): (usize, usize),
        seen: &Range<usize>,
        inverse: &[f32; R],
    ) {
        let Attention { heads, head_dim, .. } = *self.job;
        let (len, width) = (self.tokens.len(), self.width());
        // Whole pairs, as they are stored.
        let from = seen.start / 2 * 2;
        let count = seen.end - from;
        let weights = std::array::from_fn(|r| self.scratch.scores[r * width + from..][..count].as_ptr());
        let values = std::array::from_fn(|p| {
            let start = (part + p) * panel_len(len) + from * LANES;
            self.scratch.values[start..][..count.next_multiple_of(2) * LANES].as_ptr()
        });
        // SAFETY: `count` weights and that many columns of each panel, both taken by checked slicing.
        let acc =
            unsafe { accumulate::<S, f32, R, P, 0>(s, [[s.splat(0.0); P]; R], (weights, values), count, []) };
        for (r, acc) in acc.iter().enumerate() {
            let inverse = s.splat(inverse[r]);
            let start = ((self.tokens.start + row + r) * heads + self.head) * head_dim + part * LANES;
            let room = (head_dim - part * LANES).min(P * LANES);
            // SAFETY: `attend` checked that `out` has this row; no other piece has this (token, head).
            let to = unsafe { self.job.out.slice(start, room) };
            for (to, &acc) in to.chunks_mut(LANES).zip(acc) {
                store_part(s, s.mul(acc, inverse), to);
            }
        }
    }
}
