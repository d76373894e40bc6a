//! Where the sums of a product go.
#![allow(unsafe_code)]

use super::isa::{Simd, load_part, store_part};
use super::panel::LANES;
use super::pool::Shards;

/// Columns `first..first + outputs` of a row-major matrix, which get the products with one band of weights.
pub(crate) struct Output<'a> {
    pub(crate) out: &'a Shards<'a, f32>,
    /// Columns of the matrix.
    pub(crate) width: usize,
    pub(crate) first: usize,
    pub(crate) outputs: usize,
    /// One value for each of the band's outputs.
    pub(crate) bias: Option<&'a [f32]>,
}

/// Which of the blocks of columns a sum runs over.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) first: bool,
    pub(crate) last: bool,
}

impl Output<'_> {
    /// Brings near what [`Output::add_tile`] will write. Else stores that miss the cache queue up behind each other at the
    /// end of each tile.
    #[inline(always)]
    pub(crate) fn expect<S: Simd, const R: usize, const P: usize>(&self, s: S, (row, panel): (usize, usize)) {
        for r in 0..R {
            for p in 0..P {
                s.prefetch(self.out.at((row + r) * self.width + self.first + (panel + p) * LANES));
            }
        }
    }

    /// [`Output::add`] for `R` rows from `row` on and the first `count` of `P` panels from `panel` on.
    ///
    /// # Safety
    /// The rows are below the matrix's rows, the panels below the band's, and nobody else has these outputs.
    // Counted loops unroll into registers, whatever iterators would do.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    pub(crate) unsafe fn add_tile<S: Simd, const R: usize, const P: usize>(
        &self,
        s: S,
        (row, panel, count): (usize, usize, usize),
        sums: [[S::V; P]; R],
        turn: Turn,
    ) {
        let output = panel * LANES;
        if count < P || output + P * LANES > self.outputs || turn.last && self.bias.is_some() {
            for r in 0..R {
                for p in 0..count {
                    // SAFETY: as the caller promises.
                    unsafe { self.add(s, (row + r, panel + p), sums[r][p], turn) };
                }
            }
            return;
        }
        let first = row * self.width + self.first + output;
        for r in 0..R {
            // SAFETY: inside the matrix, as all lanes are below `outputs`, and exclusive, as the caller promises.
            let out = unsafe { self.out.slice(first + r * self.width, P * LANES) };
            for (p, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
                let sum = if turn.first { sums[r][p] } else { s.add(s.load(out), sums[r][p]) };
                s.store(sum, out);
            }
        }
    }

    /// Sets (in the first turn, else adds) the results of sixteen outputs in one row; adds the bias in the last turn.
    ///
    /// # Safety
    /// `row` is below the matrix's rows, `panel` below the band's panels, and nobody else has these outputs.
    #[inline(always)]
    pub(crate) unsafe fn add<S: Simd>(&self, s: S, (row, panel): (usize, usize), mut sum: S::V, turn: Turn) {
        let output = panel * LANES;
        let len = LANES.min(self.outputs - output);
        // SAFETY: inside the matrix and exclusive, as the caller promises.
        let out = unsafe { self.out.slice(row * self.width + self.first + output, len) };
        if !turn.first {
            sum = s.add(load_part(s, out), sum);
        }
        if let (true, Some(bias)) = (turn.last, self.bias) {
            sum = s.add(sum, load_part(s, bias.get(output..output + len).unwrap_or_default()));
        }
        store_part(s, sum, out);
    }
}
