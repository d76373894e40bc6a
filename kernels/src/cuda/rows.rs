//! Rows copied from where an index says (`csrc/rows.cu`).
#![allow(unsafe_code)]

use super::blocks;
use super::gpu::{Gpu, GpuMemory, Launch};
use super::kernel::Kernel;
use super::matrix::{CudaMatrix, Data};
use super::memory::{Bytes, CudaBuf, Scratch, kernel_args, size};
use super::step::{CudaStep, Part};
use crate::contract::{check_room, product, shape_error};
use crate::{DType, KernelError};

type Result<T> = std::result::Result<T, KernelError>;

kernel_args!(GatherRowsArgs { out: u64, x: u64, rows: u64, cols: u32 });
kernel_args!(EmbedArgs {
    out: u64,
    table: u64,
    ids: u64,
    first: u32,
    count: u32,
    cols: u32,
    stride: u32,
    scale: f32,
});

pub(super) fn gather_rows<G: Gpu>(
    (gpu, indices): (&G, &mut Scratch<G>),
    out: &mut CudaBuf<G>,
    x: &CudaBuf<G>,
    rows: &[u32],
    cols: usize,
) -> Result<()> {
    const OP: &str = "gather_rows";
    check_room(OP, "elements of out", product(&[rows.len(), cols]), out.len())?;
    let available = x.len() / cols.max(1);
    if let Some(&row) = rows.iter().find(|&&row| row as usize >= available) {
        return Err(shape_error(OP, "row", row as usize, available));
    }
    if rows.is_empty() || cols == 0 {
        return Ok(());
    }
    let indices = indices.fit(gpu, "row indices", size_of_val(rows))?;
    gpu.upload(indices, 0, rows.bytes())?;
    let args = GatherRowsArgs {
        out: out.address(),
        x: x.address(),
        rows: indices.address(),
        cols: size(OP, "columns", cols)?,
    };
    // SAFETY: the rows of `x` exist and `out` has room for them, checked above.
    unsafe { gpu.launch(Kernel::GatherRows, Launch::blocks(size(OP, "rows", rows.len())?), &args) }
}

/// `out[t] = table[ids[t]] * scale`.
pub(super) fn embed<G: Gpu>(
    gpu: &G,
    out: &mut CudaBuf<G>,
    table: &CudaMatrix<G>,
    step: &CudaStep<G>,
    scale: f32,
) -> Result<()> {
    const OP: &str = "embed";
    let cols = table.cols();
    check_room(OP, "elements of out", product(&[step.tokens, cols]), out.len())?;
    step.check_ids(OP, table.rows())?;
    if step.tokens == 0 {
        return Ok(());
    }
    let launch = Launch::blocks(size(OP, "tokens", step.tokens)?);
    let mut first = 0;
    for band in table.bands() {
        let (dtype, memory, stride) = match &band.data {
            Data::Floats { dtype, memory, stride } => (dtype, memory, stride),
            Data::Blocks(blocks) => {
                let place = (out.address(), step.address(Part::Ids), size(OP, "tokens", step.tokens)?);
                let range =
                    (size(OP, "rows of the table", first)?, size(OP, "rows of the table", band.rows)?);
                blocks::embed(gpu, place, blocks, range, scale)?;
                first += band.rows;
                continue;
            }
            Data::Scaled { .. } => {
                return Err(shape_error(OP, "rows with scales in the table", band.rows, 0));
            }
        };
        let args = EmbedArgs {
            out: out.address(),
            table: memory.address(),
            ids: step.address(Part::Ids),
            first: size(OP, "rows of the table", first)?,
            count: size(OP, "rows of the table", band.rows)?,
            cols: size(OP, "columns", cols)?,
            stride: size(OP, "columns", *stride)?,
            scale,
        };
        let kernel = match dtype {
            DType::F32 => Kernel::EmbedF32,
            DType::F16 => Kernel::EmbedF16,
            DType::BF16 => Kernel::EmbedBF16,
        };
        // SAFETY: every id names a row of the table, and `out` has room for all tokens, checked above.
        unsafe { gpu.launch(kernel, launch, &args)? };
        first += band.rows;
    }
    Ok(())
}
