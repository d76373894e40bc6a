//! RMSNorm (`csrc/norm.cu`).
#![allow(unsafe_code)]

use super::gpu::{Gpu, Launch};
use super::kernel::Kernel;
use super::memory::{CudaBuf, kernel_args, size};
use crate::contract::{check, check_room, product, qkv_width};
use crate::{HeadCounts, KernelError};

type Result<T> = std::result::Result<T, KernelError>;

kernel_args!(RmsNormArgs { out: u64, x: u64, weight: u64, cols: u32, eps: f32 });
kernel_args!(NormHeadsArgs {
    qkv: u64,
    q_weight: u64,
    k_weight: u64,
    rows: u32,
    q: u32,
    kv: u32,
    head_dim: u32,
    eps: f32,
});

pub(super) fn rms_norm<G: Gpu>(
    gpu: &G,
    out: &mut CudaBuf<G>,
    x: &CudaBuf<G>,
    (weight, eps): (&CudaBuf<G>, f32),
    rows: usize,
) -> Result<()> {
    const OP: &str = "rms_norm";
    let cols = weight.len();
    check_room(OP, "elements of out", product(&[rows, cols]), out.len())?;
    check_room(OP, "elements of x", product(&[rows, cols]), x.len())?;
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    let args = RmsNormArgs {
        out: out.address(),
        x: x.address(),
        weight: weight.address(),
        cols: size(OP, "columns", cols)?,
        eps,
    };
    let launch = Launch::blocks(size(OP, "rows", rows)?);
    // SAFETY: `rows * cols` elements of both buffers, checked above.
    unsafe { gpu.launch(Kernel::RmsNorm, launch, &args) }
}

pub(super) fn norm_heads<G: Gpu>(
    gpu: &G,
    qkv: &mut CudaBuf<G>,
    (q_weight, k_weight, eps): (&CudaBuf<G>, &CudaBuf<G>, f32),
    heads: HeadCounts,
    rows: usize,
) -> Result<()> {
    const OP: &str = "norm_heads";
    let head_dim = q_weight.len();
    check(OP, "elements of k_weight", k_weight.len(), head_dim)?;
    check_room(OP, "elements of qkv", product(&[rows, qkv_width(heads, head_dim)]), qkv.len())?;
    let normed = size(OP, "heads", product(&[rows, heads.q + heads.kv]))?;
    if normed == 0 || head_dim == 0 {
        return Ok(());
    }
    let args = NormHeadsArgs {
        qkv: qkv.address(),
        q_weight: q_weight.address(),
        k_weight: k_weight.address(),
        rows: size(OP, "rows", rows)?,
        q: size(OP, "query heads", heads.q)?,
        kv: size(OP, "key heads", heads.kv)?,
        head_dim: size(OP, "head_dim", head_dim)?,
        eps,
    };
    let launch = Launch::blocks(normed.div_ceil(Kernel::NormHeads.threads() / 32));
    // SAFETY: `rows` rows of queries, keys and values, checked above.
    unsafe { gpu.launch(Kernel::NormHeads, launch, &args) }
}
