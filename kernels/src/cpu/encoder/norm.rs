//! LayerNorm of whole rows, alone and of a sum.

use crate::contract::{check, check_room, product};
use crate::cpu::CpuBuf;
use crate::cpu::isa::{Dispatch, Kernel, Simd, load_part, store_part};
use crate::cpu::panel::LANES;
use crate::cpu::pool::Pool;
use crate::{KernelError, LayerNorm};

/// The parameters of a checked call.
#[derive(Clone, Copy)]
pub(super) struct Norm<'a> {
    pub weight: &'a [f32],
    pub bias: Option<&'a [f32]>,
    pub eps: f32,
}

impl<'a> Norm<'a> {
    pub fn checked(op: &'static str, norm: &LayerNorm<'a, CpuBuf>) -> Result<Self, KernelError> {
        let weight: &[f32] = norm.weight;
        let bias = norm.bias.map(|bias| &**bias);
        if let Some(bias) = bias {
            check(op, "elements of bias", bias.len(), weight.len())?;
        }
        Ok(Self { weight, bias, eps: norm.eps })
    }
}

pub(super) fn layer_norm(
    (pool, isa): (&Pool, Dispatch),
    out: &mut [f32],
    x: &[f32],
    norm: &LayerNorm<'_, CpuBuf>,
    rows: usize,
) -> Result<(), KernelError> {
    const OP: &str = "layer_norm";
    let norm = Norm::checked(OP, norm)?;
    let cols = norm.weight.len();
    check_room(OP, "elements of out", product(&[rows, cols]), out.len())?;
    check_room(OP, "elements of x", product(&[rows, cols]), x.len())?;
    pool.for_rows(&mut out[..rows * cols], cols, pool.grain(rows, cols), |_, first, rows| {
        rows.copy_from_slice(&x[first * cols..][..rows.len()]);
        isa.run(NormRows { rows, delta: None, norm });
    })
}

pub(super) fn add_layer_norm(
    (pool, isa): (&Pool, Dispatch),
    hidden: &mut [f32],
    delta: &[f32],
    norm: &LayerNorm<'_, CpuBuf>,
    rows: usize,
) -> Result<(), KernelError> {
    const OP: &str = "add_layer_norm";
    let norm = Norm::checked(OP, norm)?;
    let cols = norm.weight.len();
    check_room(OP, "elements of hidden", product(&[rows, cols]), hidden.len())?;
    check_room(OP, "elements of delta", product(&[rows, cols]), delta.len())?;
    pool.for_rows(&mut hidden[..rows * cols], cols, pool.grain(rows, cols), |_, first, rows| {
        let delta = Some(&delta[first * cols..][..rows.len()]);
        isa.run(NormRows { rows, delta, norm });
    })
}

/// Normalises rows of `norm.weight.len()` elements in place, `delta` added first.
pub(super) struct NormRows<'a> {
    pub rows: &'a mut [f32],
    pub delta: Option<&'a [f32]>,
    pub norm: Norm<'a>,
}

impl Kernel for NormRows<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.norm.weight.len().max(1);
        for (i, row) in self.rows.chunks_exact_mut(cols).enumerate() {
            let mut sum = s.splat(0.0);
            match self.delta.map(|delta| &delta[i * cols..][..cols]) {
                Some(delta) => {
                    for (x, delta) in row.chunks_mut(LANES).zip(delta.chunks(LANES)) {
                        let v = s.add(load_part(s, x), load_part(s, delta));
                        store_part(s, v, x);
                        sum = s.add(sum, v);
                    }
                }
                None => {
                    for x in row.chunks(LANES) {
                        sum = s.add(sum, load_part(s, x));
                    }
                }
            }
            self.norm.normalise(s, row, s.sum_lanes(sum) / cols as f32);
        }
    }
}

impl Norm<'_> {
    /// Of a row whose mean is known.
    #[inline(always)]
    fn normalise<S: Simd>(&self, s: S, row: &mut [f32], mean: f32) {
        let mean = s.splat(mean);
        let mut squares = s.splat(0.0);
        for x in row.chunks(LANES) {
            // Lanes beyond the row count for nothing.
            let v = s.keep(s.sub(load_part(s, x), mean), 0, x.len(), s.splat(0.0));
            squares = s.fma(v, v, squares);
        }
        let variance = s.sum_lanes(squares) / row.len() as f32;
        let scale = s.splat(1.0 / (variance + self.eps).sqrt());
        match self.bias {
            Some(bias) => {
                let parameters = self.weight.chunks(LANES).zip(bias.chunks(LANES));
                for (x, (weight, bias)) in row.chunks_mut(LANES).zip(parameters) {
                    let v = s.mul(s.sub(load_part(s, x), mean), scale);
                    store_part(s, s.fma(v, load_part(s, weight), load_part(s, bias)), x);
                }
            }
            None => {
                for (x, weight) in row.chunks_mut(LANES).zip(self.weight.chunks(LANES)) {
                    let v = s.mul(s.sub(load_part(s, x), mean), scale);
                    store_part(s, s.mul(v, load_part(s, weight)), x);
                }
            }
        }
    }
}
