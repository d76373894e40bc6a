//! What adapters add: `out += scale · b · (a · x)`, each row with its own adapter's matrices or none.
//!
//! Two passes over the rows, adapter by adapter. The first takes every row down to the ranks of all parts at once, the
//! second brings each part up onto its columns of `out`. A sum over the columns of `a` is that over blocks of
//! [`BLOCK`] columns, each a chain of fused multiply-adds; a sum over the ranks is one chain. Which rows are together in
//! a tile changes neither.
#![allow(unsafe_code)]

use std::ops::Range;

use super::isa::{Dispatch, Kernel, Simd, load_part, store_part};
use super::matrix::{Band, Data, Matrix};
use super::memory::Memory;
use super::panel::{Element, LANES, panel_len, with_panels};
use super::pool::{Pool, Shards};
use super::step::Step;
use super::tile::{self, accumulate, with_rows};
use super::{check, check_room, product, shape_error};
use crate::{KernelError, LowRankView, WeightType};

const OP: &str = "add_low_rank";
const SET: &str = "set_low_rank";
/// Columns per partial sum. Part of the result's definition.
const BLOCK: usize = 256;
/// Rows that one thread takes at a time.
const ROWS_PER_CHUNK: usize = 48;
/// Panels that one thread takes at a time, on the way down and on the way up.
const PANELS_DOWN: usize = 2;
const PANELS_UP: usize = 32;

/// What the adapters add to one `[rows, cols]` matrix of the CPU device, by slot.
pub struct LowRanks {
    rows: usize,
    cols: usize,
    slots: Vec<Option<Change>>,
}

/// One adapter's.
struct Change {
    /// The first matrices of all parts, one below the other.
    down: Matrix,
    /// By row of `down`.
    scales: Vec<f32>,
    parts: Vec<Part>,
}

struct Part {
    /// Its first column of `out`, and its first row of `down`.
    first: usize,
    first_rank: usize,
    up: Matrix,
}

/// `scale · a · x` of the rows at hand, and the work that is left to do. Grows as it has to.
#[derive(Default)]
pub(crate) struct Lowered {
    values: Memory<f32>,
    jobs: Vec<Job>,
}

/// Some panels for some of a group's rows.
struct Job {
    group: usize,
    /// Which band of the first matrix, or which part.
    at: usize,
    panels: Range<usize>,
    rows: Range<usize>,
}

/// Rows of one adapter.
struct Group<'a> {
    change: &'a Change,
    /// `(slot, row)`.
    rows: &'a [(u32, u32)],
    /// Where its rows begin among those of all groups.
    start: usize,
}

impl LowRanks {
    pub(crate) fn new(rows: usize, cols: usize) -> Self {
        Self { rows, cols, slots: Vec::new() }
    }

    pub(crate) fn set(
        &mut self,
        pool: &Pool,
        slot: usize,
        parts: &[LowRankView<'_>],
    ) -> Result<(), KernelError> {
        let change = if parts.is_empty() { None } else { Some(self.pack(pool, parts)?) };
        if self.slots.len() <= slot {
            let more = slot + 1 - self.slots.len();
            let bytes = more * size_of::<Option<Change>>();
            let error = |_| KernelError::OutOfMemory { what: "adapters", bytes };
            self.slots.try_reserve(more).map_err(error)?;
            self.slots.resize_with(slot + 1, || None);
        }
        self.slots[slot] = change;
        Ok(())
    }

    fn pack(&self, pool: &Pool, parts: &[LowRankView<'_>]) -> Result<Change, KernelError> {
        let a: Vec<_> = parts.iter().map(|part| part.a).collect();
        let mut change = Change { down: Matrix::pack(pool, &a)?, scales: Vec::new(), parts: Vec::new() };
        check(SET, "columns of a", change.down.cols(), self.cols)?;
        let mut free = 0;
        for LowRankView { first, scale, a, b } in parts {
            for matrix in [a, b] {
                if let WeightType::Blocks(blocks) = matrix.dtype {
                    return Err(shape_error(SET, "elements of a block", blocks.elements(), 1));
                }
            }
            check(SET, "columns of b", b.cols, a.rows)?;
            let end = first.saturating_add(b.rows);
            check_room(SET, "rows", end, self.rows)?;
            // Each output is one job's.
            check_room(SET, "rows before a part", free, *first)?;
            free = end;
            let first_rank = change.scales.len();
            change.scales.resize(first_rank + a.rows, *scale);
            let up = Matrix::pack(pool, std::slice::from_ref(b))?;
            change.parts.push(Part { first: *first, first_rank, up });
        }
        Ok(change)
    }

    fn get(&self, slot: u32) -> Option<&Change> {
        self.slots.get(slot as usize)?.as_ref()
    }
}

/// See [`crate::Backend::add_low_rank`].
pub(crate) fn add(
    (pool, isa, lowered): (&Pool, Dispatch, &mut Lowered),
    out: &mut [f32],
    x: &[f32],
    changes: &LowRanks,
    step: &Step,
) -> Result<(), KernelError> {
    let tokens = step.tokens();
    check_room(OP, "elements of x", product(&[tokens, changes.cols]), x.len())?;
    check_room(OP, "elements of out", product(&[tokens, changes.rows]), out.len())?;
    let mut start = 0;
    let mut groups = Vec::new();
    for rows in step.adapted() {
        if let Some(change) = rows.first().and_then(|(slot, _)| changes.get(*slot)) {
            groups.push(Group { change, rows, start });
            start += rows.len();
        }
    }
    let width = groups.iter().map(|group| group.change.scales.len()).max().unwrap_or(0);
    if start * width == 0 {
        return Ok(());
    }
    if lowered.values.len() < start * width {
        lowered.values = Memory::zeroed("adapters' products", start * width)?;
    }
    let call = Call { x, cols: changes.cols, rows: changes.rows, groups: &groups, width };
    call.lower(pool, isa, lowered)?;
    call.raise(pool, isa, lowered, out)
}

/// One call, its shapes checked.
struct Call<'a> {
    x: &'a [f32],
    cols: usize,
    rows: usize,
    groups: &'a [Group<'a>],
    /// Elements of a row of lowered values.
    width: usize,
}

impl Call<'_> {
    /// `scale · a · x` of all rows.
    fn lower(&self, pool: &Pool, isa: Dispatch, lowered: &mut Lowered) -> Result<(), KernelError> {
        let Lowered { values, jobs } = lowered;
        jobs.clear();
        for (index, group) in self.groups.iter().enumerate() {
            for (at, band) in group.change.down.bands().iter().enumerate() {
                cut(jobs, (index, at), (band.rows, PANELS_DOWN), group.rows.len());
            }
        }
        let values = Shards::new(values);
        pool.run(jobs.len(), &|_, chunk| {
            let job = &jobs[chunk];
            let Group { change, rows, start } = &self.groups[job.group];
            let (before, band) = change.down.bands().split_at(job.at);
            let first: usize = before.iter().map(|band| band.rows).sum();
            Tiles {
                inputs: self.x,
                from: &|row| rows[row].1 as usize * self.cols,
                cols: self.cols,
                outputs: &values,
                to: &|row| (start + row) * self.width + first,
                scales: Some(&change.scales[first..]),
                job,
            }
            .run(isa, &band[0]);
        })
    }

    /// `out += b · lowered` of all rows and parts.
    fn raise(
        &self,
        pool: &Pool,
        isa: Dispatch,
        lowered: &mut Lowered,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let Lowered { values, jobs } = lowered;
        jobs.clear();
        for (index, group) in self.groups.iter().enumerate() {
            for (at, part) in group.change.parts.iter().enumerate() {
                cut(jobs, (index, at), (part.up.rows(), PANELS_UP), group.rows.len());
            }
        }
        let out = Shards::new(out);
        pool.run(jobs.len(), &|_, chunk| {
            let job = &jobs[chunk];
            let Group { change, rows, start } = &self.groups[job.group];
            let part = &change.parts[job.at];
            Tiles {
                inputs: values,
                from: &|row| (start + row) * self.width + part.first_rank,
                cols: part.up.cols(),
                outputs: &out,
                to: &|row| rows[row].1 as usize * self.rows + part.first,
                scales: None,
                job,
            }
            // One part's matrix is of one type.
            .run(isa, &part.up.bands()[0]);
        })
    }
}

/// Adds the jobs of one matrix of `outputs` rows.
fn cut(jobs: &mut Vec<Job>, (group, at): (usize, usize), (outputs, per_job): (usize, usize), rows: usize) {
    let panels = outputs.div_ceil(LANES);
    for first in (0..panels).step_by(per_job) {
        for row in (0..rows).step_by(ROWS_PER_CHUNK) {
            jobs.push(Job {
                group,
                at,
                panels: first..panels.min(first + per_job),
                rows: row..rows.min(row + ROWS_PER_CHUNK),
            });
        }
    }
}

/// The products of a job.
struct Tiles<'a> {
    inputs: &'a [f32],
    /// Where the `cols` inputs of a row begin, and its outputs of this matrix.
    from: &'a (dyn Fn(usize) -> usize + Sync),
    cols: usize,
    outputs: &'a Shards<'a, f32>,
    to: &'a (dyn Fn(usize) -> usize + Sync),
    /// `Some`: the outputs are set, multiplied by these; `None`: they are added to what is there.
    scales: Option<&'a [f32]>,
    job: &'a Job,
}

impl Tiles<'_> {
    fn run(&self, isa: Dispatch, band: &Band) {
        if let Data::Floats(panels) = &band.data {
            with_panels!(panels, data => isa.run(OfBand { tiles: self, w: data, rows: band.rows }));
        }
    }
}

struct OfBand<'a, W> {
    tiles: &'a Tiles<'a>,
    w: &'a [W],
    /// Of the band.
    rows: usize,
}

impl<W: Element> Kernel for OfBand<'_, W> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Job { panels, rows, .. } = self.tiles.job;
        let mut panel = panels.start;
        while panel < panels.end {
            let two = panels.end - panel >= 2 && S::WIDE;
            for (row, count) in tile::row_groups(rows.len(), tile::MAX_ROWS) {
                let at = (rows.start + row, panel);
                if two {
                    with_rows!(count, R => self.tile::<S, R, 2>(s, at));
                } else {
                    with_rows!(count, R => self.tile::<S, R, 1>(s, at));
                }
            }
            panel += if two { 2 } else { 1 };
        }
    }
}

impl<W: Element> OfBand<'_, W> {
    /// `R` rows and `P` panels.
    // Counted loops unroll into registers, whatever iterators would do.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const P: usize>(&self, s: S, (row, panel): (usize, usize)) {
        let Tiles { inputs, from, cols, .. } = self.tiles;
        let mut sums = [[s.splat(0.0); P]; R];
        for col in (0..*cols).step_by(BLOCK) {
            let len = BLOCK.min(cols - col);
            // SAFETY: `add` checked that the inputs have all rows, `w` has whole panels, and blocks start at even
            // columns.
            let block = unsafe {
                let a = std::array::from_fn(|r| inputs.as_ptr().add(from(row + r) + col));
                let b = std::array::from_fn(|p| {
                    self.w.as_ptr().add((panel + p) * panel_len(*cols) + col * LANES)
                });
                accumulate::<S, W, R, P, 0>(s, [[s.splat(0.0); P]; R], (a, b), len, [])
            };
            for r in 0..R {
                for p in 0..P {
                    sums[r][p] = s.add(sums[r][p], block[r][p]);
                }
            }
        }
        for r in 0..R {
            for p in 0..P {
                self.write(s, row + r, panel + p, sums[r][p]);
            }
        }
    }

    #[inline(always)]
    fn write<S: Simd>(&self, s: S, row: usize, panel: usize, sum: S::V) {
        let first = panel * LANES;
        let len = LANES.min(self.rows - first);
        // SAFETY: `add` checked that the outputs have all rows, and the matrix has these; each is written by one job.
        let out = unsafe { self.tiles.outputs.slice((self.tiles.to)(row) + first, len) };
        let value = match self.tiles.scales {
            Some(scales) => s.mul(sum, load_part(s, &scales[first..first + len])),
            None => s.add(load_part(s, out), sum),
        };
        store_part(s, value, out);
    }
}
