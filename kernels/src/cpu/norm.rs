//! RMSNorm: of whole rows, and of each query and key head.

use super::isa::{Dispatch, Kernel, Simd, load_part};
use super::panel::LANES;
use super::pool::Pool;
use super::{check, check_room, product, qkv_width};
use crate::{HeadCounts, KernelError};

/// `out = x / rms(x) * weight` for rows of `weight.len()` elements.
pub(crate) fn rms_norm(
    pool: &Pool,
    isa: Dispatch,
    out: &mut [f32],
    x: &[f32],
    (weight, eps): (&[f32], f32),
    rows: usize,
) -> Result<(), KernelError> {
    const OP: &str = "rms_norm";
    let cols = weight.len();
    check_room(OP, "elements of out", product(&[rows, cols]), out.len())?;
    check_room(OP, "elements of x", product(&[rows, cols]), x.len())?;
    let out = &mut out[..rows * cols];
    pool.for_rows(out, cols, pool.grain(rows, cols), |_, first, rows| {
        rows.copy_from_slice(&x[first * cols..][..rows.len()]);
        isa.run(NormRows { rows, weight, eps });
    })
}

/// RMSNorm of each query and key head of `qkv`, in place.
pub(crate) fn norm_heads(
    pool: &Pool,
    isa: Dispatch,
    qkv: &mut [f32],
    (q_weight, k_weight, eps): (&[f32], &[f32], f32),
    heads: HeadCounts,
    rows: usize,
) -> Result<(), KernelError> {
    const OP: &str = "norm_heads";
    let head_dim = q_weight.len();
    check(OP, "elements of k_weight", k_weight.len(), head_dim)?;
    let width = qkv_width(heads, head_dim);
    check_room(OP, "elements of qkv", product(&[rows, width]), qkv.len())?;
    pool.for_rows(&mut qkv[..rows * width], width, pool.grain(rows, width), |_, _, rows| {
        for row in rows.chunks_exact_mut(width.max(1)) {
            let (queries, rest) = row.split_at_mut(heads.q * head_dim);
            isa.run(NormRows { rows: queries, weight: q_weight, eps });
            isa.run(NormRows { rows: &mut rest[..heads.kv * head_dim], weight: k_weight, eps });
        }
    })
}

/// Normalises `rows` of `weight.len()` elements in place.
struct NormRows<'a> {
    rows: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
}

impl Kernel for NormRows<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.weight.len();
        for row in self.rows.chunks_exact_mut(cols.max(1)) {
            let mut squares = s.splat(0.0);
            for part in row.chunks(LANES) {
                let v = load_part(s, part);
                squares = s.fma(v, v, squares);
            }
            let mean = s.sum_lanes(squares) / cols as f32;
            let scale = 1.0 / (mean + self.eps).sqrt();
            for (value, &weight) in row.iter_mut().zip(self.weight) {
                *value = *value * scale * weight;
            }
        }
    }
}
