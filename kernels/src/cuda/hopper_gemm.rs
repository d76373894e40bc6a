//! Dense products of many rows where warpgroups multiply (`csrc/hopper_gemm.cu`).
#![allow(unsafe_code)]

use super::dense::DenseProduct;
use super::gpu::{Gpu, Launch};
use super::kernel::Kernel;
use super::memory::kernel_args;
use super::tensor_map::{Boxes, Half, TensorMap};
use crate::KernelError;

type Result<T> = std::result::Result<T, KernelError>;

kernel_args!(GemmArgs {
    out: u64,
    scales: u64,
    bias: u64,
    rows: u32,
    count: u32,
    stride: u32,
    width: u32,
    reserved: [u32; 6],
    x: TensorMap,
    w: TensorMap,
});

/// Rows of x in a tile.
const ROWS: u32 = 128;
/// The stages, and what it may take to where their pattern begins.
const SHARED: u32 = (192 << 10) + 1024;

/// `product`, whose factors are of type `half`, its rows times `scales`, and the bias (null: none).
///
/// # Safety
/// As for [`Gpu::multiply`]; `scales` is f32 `[rows]`, `bias` f32 `[count]`; the matrices' addresses are multiples of 16,
/// and `stride` is one of 64.
pub(super) unsafe fn multiply<G: Gpu>(
    gpu: &G,
    (product, half): (&DenseProduct, Half),
    (scales, bias): (u64, u64),
) -> Result<()> {
    let &DenseProduct { w, x, out, rows, count, stride, width, .. } = product;
    let multiprocessors = gpu.info().multiprocessors;
    let outputs = outputs(rows, count, multiprocessors);
    let boxes = |address, of: u32, tall| Boxes::whole(half, address, (of.into(), stride.into()), tall);
    let args = GemmArgs {
        out,
        scales,
        bias,
        rows,
        count,
        stride,
        width,
        reserved: [0; 6],
        x: gpu.tensor_map(&boxes(x, rows, ROWS))?,
        w: gpu.tensor_map(&boxes(w, count, outputs))?,
    };
    let kernel = match (half, outputs) {
        (Half::F16, 128) => Kernel::HopperGemmF16x128,
        (Half::F16, _) => Kernel::HopperGemmF16x256,
        (Half::BF16, 128) => Kernel::HopperGemmBF16x128,
        (Half::BF16, _) => Kernel::HopperGemmBF16x256,
    };
    let blocks = tiles(rows, count, outputs).min(multiprocessors.into());
    let launch = Launch::blocks(blocks as u32).with_shared(SHARED);
    // SAFETY: the caller's promise.
    unsafe { gpu.launch(kernel, launch, &args) }
}

fn tiles(rows: u32, count: u32, outputs: u32) -> u64 {
    u64::from(rows.div_ceil(ROWS)) * u64::from(count.div_ceil(outputs))
}

/// Outputs of a tile. Tiles of 256 read less for the same products; smaller ones are taken where they keep so many more
/// multiprocessors busy that all are done a quarter sooner.
fn outputs(rows: u32, count: u32, multiprocessors: u32) -> u32 {
    let time = |outputs: u32| {
        tiles(rows, count, outputs).div_ceil(multiprocessors.max(1).into()) * u64::from(outputs)
    };
    if 4 * time(256) > 5 * time(128) { 128 } else { 256 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_tiles_are_for_products_that_leave_multiprocessors_idle() {
        for (rows, count, expected) in
            [(128, 4096, 128), (512, 4096, 128), (1024, 4096, 256), (2048, 4096, 256), (8192, 14336, 256)]
        {
            assert_eq!(outputs(rows, count, 132), expected, "{rows} x {count}");
        }
        assert_eq!(tiles(129, 257, 256), 4);
    }
}
