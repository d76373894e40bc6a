//! Ops whose every element depends on the same elements of the inputs alone: sums, gates, caps, row copies.

use super::activation::{Unary, with_activation};
use super::isa::{Dispatch, Kernel, Simd, load_part, store_part};
use super::math::tanh;
use super::panel::LANES;
use super::pool::Pool;
use super::{check_room, product, shape_error};
use crate::{Activation, KernelError};

/// `acc += x` over `len` elements.
pub(crate) fn add(pool: &Pool, acc: &mut [f32], x: &[f32], len: usize) -> Result<(), KernelError> {
    check_room("add", "elements of acc", len, acc.len())?;
    check_room("add", "elements of x", len, x.len())?;
    pool.for_rows(&mut acc[..len], 1, pool.grain(len, 1), |_, first, acc| {
        for (a, &x) in acc.iter_mut().zip(&x[first..]) {
            *a += x;
        }
    })
}

/// `out[i] = x[rows[i]]`, rows of `cols` elements.
pub(crate) fn gather_rows(out: &mut [f32], x: &[f32], rows: &[u32], cols: usize) -> Result<(), KernelError> {
    const OP: &str = "gather_rows";
    check_room(OP, "elements of out", product(&[rows.len(), cols]), out.len())?;
    let available = x.len() / cols.max(1);
    if let Some(&row) = rows.iter().find(|&&row| row as usize >= available) {
        return Err(shape_error(OP, "row", row as usize, available));
    }
    for (out, &row) in out.chunks_exact_mut(cols.max(1)).zip(rows) {
        out.copy_from_slice(&x[row as usize * cols..][..cols]);
    }
    Ok(())
}

/// `out = act(gate) * up`; `gate_up` is `[rows, 2 * width]`.
pub(crate) fn gated(
    pool: &Pool,
    isa: Dispatch,
    out: &mut [f32],
    gate_up: &[f32],
    act: Activation,
    (rows, width): (usize, usize),
) -> Result<(), KernelError> {
    const OP: &str = "gated";
    check_room(OP, "elements of out", product(&[rows, width]), out.len())?;
    check_room(OP, "elements of gate_up", product(&[2, rows, width]), gate_up.len())?;
    pool.for_rows(&mut out[..rows * width], width, pool.grain(rows, 2 * width), |_, first, rows| {
        for (i, out) in rows.chunks_exact_mut(width.max(1)).enumerate() {
            let (gate, up) = gate_up[(first + i) * 2 * width..][..2 * width].split_at(width);
            isa.run(GatedRow { out, gate, up, act });
        }
    })
}

struct GatedRow<'a> {
    out: &'a mut [f32],
    gate: &'a [f32],
    up: &'a [f32],
    act: Activation,
}

impl Kernel for GatedRow<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        with_activation!(self.act, A => {
            let inputs = self.gate.chunks(LANES).zip(self.up.chunks(LANES));
            for (out, (gate, up)) in self.out.chunks_mut(LANES).zip(inputs) {
                store_part(s, s.mul(A::of(s, load_part(s, gate)), load_part(s, up)), out);
            }
        });
    }
}

/// `x = cap * tanh(x / cap)` over `len` elements.
pub(crate) fn softcap(
    pool: &Pool,
    isa: Dispatch,
    x: &mut [f32],
    cap: f32,
    len: usize,
) -> Result<(), KernelError> {
    check_room("softcap", "elements of x", len, x.len())?;
    pool.for_rows(&mut x[..len], 1, pool.grain(len, 1), |_, _, x| isa.run(Softcap { x, cap }))
}

struct Softcap<'a> {
    x: &'a mut [f32],
    cap: f32,
}

impl Kernel for Softcap<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cap = s.splat(self.cap);
        for x in self.x.chunks_mut(LANES) {
            store_part(s, s.mul(cap, tanh(s, s.div(load_part(s, x), cap))), x);
        }
    }
}
