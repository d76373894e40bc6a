//! The one multiplication there is: a few rows against a few panels, all sums kept in registers.
//!
//! Lane `i` of `acc[r][p]` runs over the columns in order, `acc = a[r][col] * b[p][col][i] + acc`. That chain is the
//! whole of a result's reduction order, so how rows and panels are grouped into tiles cannot change a bit of it.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::sync::atomic::{Ordering, compiler_fence};

use super::isa::Simd;
use super::panel::{Element, LANES};

/// Most rows in a tile. With four panels their sums take 24 of 32 vector registers (a panel of NEON, or of AVX2, is several
/// registers, but there it is one panel); a column of each panel and one element of a row take five more.
pub(crate) const MAX_ROWS: usize = 6;

/// `acc[r][p] += a[r][..len] · b[p][..len]` for sixteen rows of each panel. Meanwhile as many columns from each of
/// `next` on are brought nearer; those are addresses of any kind.
///
/// # Safety
/// Every `a` can be read for `len` elements, every `b` for `len` rounded up to even columns of a panel.
// Counted loops unroll into registers, whatever iterators would do.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
pub(crate) unsafe fn accumulate<S: Simd, W: Element, const R: usize, const P: usize, const N: usize>(
    s: S,
    mut acc: [[S::V; P]; R],
    (a, b): ([*const f32; R], [*const W; P]),
    len: usize,
    next: [*const W; N],
) -> [[S::V; P]; R] {
    // Else the compiler, which sees that nobody writes to `a`, loads both columns' elements first, and has no registers left
    // for the sums; they are spilled in the innermost loop.
    let a = a.map(black_box);
    let load = |p: usize, pair: usize, which: usize| {
        // SAFETY: `pair` is below `len / 2` rounded up; the caller vouches for that many columns.
        W::load(s, unsafe { &*b[p].cast::<[[W; LANES]; 2]>().add(pair) }, which)
    };
    // SAFETY: `col` is below `len`.
    let splat = |r: usize, col: usize| s.splat(unsafe { *a[r].add(col) });
    for pair in 0..len / 2 {
        for next in next {
            let pair = next.wrapping_add(pair * 2 * LANES);
            s.prefetch(pair);
            if size_of::<W>() == 4 {
                s.prefetch(pair.wrapping_add(LANES));
            }
        }
        for which in 0..2 {
            // As above.
            compiler_fence(Ordering::AcqRel);
            let mut columns = [s.splat(0.0); P];
            for p in 0..P {
                columns[p] = load(p, pair, which);
            }
            for r in 0..R {
                let x = splat(r, 2 * pair + which);
                for p in 0..P {
                    acc[r][p] = s.fma(x, columns[p], acc[r][p]);
                }
            }
        }
    }
    if len % 2 == 1 {
        for p in 0..P {
            let column = load(p, len / 2, 0);
            for r in 0..R {
                acc[r][p] = s.fma(splat(r, len - 1), column, acc[r][p]);
            }
        }
    }
    acc
}

/// Cuts `0..rows` into as few groups of at most `most` as possible, of even sizes: `(first row, rows)`.
#[inline(always)]
pub(crate) fn row_groups(rows: usize, most: usize) -> impl ExactSizeIterator<Item = (usize, usize)> {
    let groups = group_count(rows, most);
    (0..groups).map(move |g| row_group(rows, groups, g))
}

/// How many groups that makes.
#[inline(always)]
pub(crate) fn group_count(rows: usize, most: usize) -> usize {
    rows.div_ceil(most).max(1)
}

/// Group `g` of so many.
#[inline(always)]
pub(crate) fn row_group(rows: usize, groups: usize, g: usize) -> (usize, usize) {
    let first = g * rows / groups;
    (first, (g + 1) * rows / groups - first)
}

/// Evaluates an expression with the number of rows as a constant, `$R`; it is one of those listed, or up to [`MAX_ROWS`].
macro_rules! with_rows {
    ($rows:expr, $R:ident => $body:expr) => {
        with_rows!($rows, $R in 1, 2, 3, 4, 5; 6 => $body)
    };
    ($rows:expr, $R:ident in $($n:literal),*; $last:literal => $body:expr) => {
        match $rows {
            $($n => {
                const $R: usize = $n;
                $body
            })*
            rows => {
                debug_assert_eq!(rows, $last, "rows in a tile");
                const $R: usize = $last;
                $body
            }
        }
    };
}
pub(crate) use with_rows;
