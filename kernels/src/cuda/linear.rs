//! Products with weight matrices (`csrc/linear.cu`, `csrc/gemm.cu`, `csrc/hopper_gemm.cu`).
#![allow(unsafe_code)]

use super::blocks::{Blocks, Multiply};
use super::dense::{DenseGemm, DenseProduct, FactorType, MANY_ROWS};
use super::gpu::{Gpu, GpuMemory, Launch};
use super::hopper_gemm;
use super::kernel::Kernel;
use super::matrix::{COLUMNS, CudaMatrix, Data};
use super::memory::{CudaBuf, Scratch, kernel_args, size};
use crate::contract::{check, check_room, product};
use crate::{DType, KernelError};

type Result<T> = std::result::Result<T, KernelError>;

const OP: &str = "linear";
/// Rows of weights that a block takes.
const OUTPUTS: u32 = 16;

kernel_args!(SplitArgs { x: u64, high: u64, low: u64, scales: u64, cols: u32, stride: u32 });
kernel_args!(RoundArgs { x: u64, out: u64, scales: u64, cols: u32, stride: u32 });
kernel_args!(FinishArgs {
    out: u64,
    w_scales: u64,
    scales: u64,
    bias: u64,
    count: u32,
    width: u32,
    first: u32
});
kernel_args!(LinearArgs {
    out: u64,
    w: u64,
    w_scales: u64,
    high: u64,
    low: u64,
    scales: u64,
    bias: u64,
    rows: u32,
    count: u32,
    stride: u32,
    width: u32,
    first: u32,
});

kernel_args!(GemmArgs {
    out: u64,
    w: u64,
    w_scales: u64,
    x: u64,
    scales: u64,
    bias: u64,
    rows: u32,
    count: u32,
    stride: u32,
    width: u32,
    first: u32,
});

/// Both sides of a tile for many rows, and the shared memory for its stages.
const TILE: u32 = 128;
const TILE_SHARED: u32 = 64 << 10;

/// Bytes of unpacked weights at a time: little enough to stay in the cache of a large GPU.
const UNPACKED: usize = 32 << 20;

/// Bytes of an activation in two planes of 16 bits.
const SPLIT: usize = 4;

/// Bytes of rows of `element` bytes each column, and of a scale for each row.
fn plane_bytes((rows, stride): (u32, u32), element: usize) -> usize {
    let plane = product(&[rows as usize, stride as usize, element]);
    plane.saturating_add(product(&[rows as usize, size_of::<f32>()]))
}

/// Work space of products.
pub(super) struct Planes<'a, G: Gpu> {
    /// Activations as the product at hand wants them.
    pub(super) activations: &'a mut Scratch<G>,
    /// Unpacked weights.
    pub(super) weights: &'a mut Scratch<G>,
}

/// One call, its shapes checked.
struct Product<'a, G: Gpu> {
    gpu: &'a G,
    /// Whether a row's product must not depend on how many rows there are.
    deterministic: bool,
    x: &'a CudaBuf<G>,
    rows: u32,
    cols: u32,
}

/// `out = x · wᵀ + bias`; `x` is `[rows, w.cols]`, `out` `[rows, w.rows]`, `bias` `[w.rows]`.
pub(super) fn linear<G: Gpu>(
    (gpu, mut scratch, deterministic): (&G, Planes<'_, G>, bool),
    out: &mut CudaBuf<G>,
    x: &CudaBuf<G>,
    w: &CudaMatrix<G>,
    bias: Option<&CudaBuf<G>>,
    rows: usize,
) -> Result<()> {
    let (width, cols) = (w.rows(), w.cols());
    check_room(OP, "elements of x", product(&[rows, cols]), x.len())?;
    check_room(OP, "elements of out", product(&[rows, width]), out.len())?;
    if let Some(bias) = bias {
        check(OP, "elements of bias", bias.len(), width)?;
    }
    if rows == 0 {
        return Ok(());
    }
    let product =
        Product { gpu, deterministic, x, rows: size(OP, "rows", rows)?, cols: size(OP, "columns", cols)? };
    let mut first = 0;
    for band in w.bands() {
        let args = LinearArgs {
            out: out.address(),
            w: 0,
            w_scales: 0,
            high: x.address(),
            low: 0,
            scales: 0,
            bias: bias.map_or(0, |bias| bias.address() + 4 * first as u64),
            rows: product.rows,
            count: size(OP, "rows of weights", band.rows)?,
            stride: product.cols,
            width: size(OP, "rows of weights", width)?,
            first: size(OP, "rows of weights", first)?,
        };
        match &band.data {
            Data::Floats { dtype: DType::F32, memory, .. } => {
                product.floats(LinearArgs { w: memory.address(), ..args })?;
            }
            Data::Floats { dtype, memory, stride } => {
                let factors = if *dtype == DType::BF16 { FactorType::BF16 } else { FactorType::F16 };
                let args = LinearArgs { w: memory.address(), stride: size(OP, "columns", *stride)?, ..args };
                product.tensor_cores(scratch.activations, factors, args)?;
            }
            Data::Scaled { codes, scales, stride } => {
                let (w, w_scales) = (codes.address(), scales.address());
                let args = LinearArgs { w, w_scales, stride: size(OP, "columns", *stride)?, ..args };
                product.tensor_cores(scratch.activations, FactorType::E4M3, args)?;
            }
            Data::Blocks(blocks) => product.blocks(&mut scratch, blocks, args)?,
        }
        first += band.rows;
    }
    Ok(())
}

impl<G: Gpu> Product<'_, G> {
    fn floats(&self, args: LinearArgs) -> Result<()> {
        let launch = Launch::grid(args.count.div_ceil(8), self.rows.div_ceil(8), 1);
        // SAFETY: `linear` checked the buffers; the weights are `[count, stride]`.
        unsafe { self.gpu.launch(Kernel::LinearF32, launch, &args) }
    }

    fn blocks(&self, scratch: &mut Planes<'_, G>, blocks: &Blocks<G>, args: LinearArgs) -> Result<()> {
        if self.gemm(args.count) != DenseGemm::Few {
            return self.many_blocks(scratch, blocks, args);
        }
        let LinearArgs { out, bias, rows, count, width, first, .. } = args;
        let multiply = Multiply { gpu: self.gpu, x: self.x, out, bias, rows, count, width, first };
        multiply.run(scratch.activations, blocks)
    }

    /// Unpacks as many rows of weights at a time as a cache holds, and multiplies them in large tiles.
    fn many_blocks(&self, scratch: &mut Planes<'_, G>, blocks: &Blocks<G>, args: LinearArgs) -> Result<()> {
        let stride = blocks.cols().next_multiple_of(COLUMNS);
        let args = LinearArgs { stride: size(OP, "columns", stride)?, ..args };
        let args = self.round(scratch.activations, FactorType::F16, args)?;
        let per_piece = size(OP, "rows of weights", (UNPACKED / (2 * stride)).max(1))?.next_multiple_of(TILE);
        let bytes = product(&[per_piece.min(args.count) as usize, stride, 2]);
        let unpacked = scratch.weights.fit(self.gpu, "unpacked weights", bytes)?.address();
        for from in (0..args.count).step_by(per_piece as usize) {
            let count = per_piece.min(args.count - from);
            blocks.unpack(self.gpu, unpacked, (from, count), args.stride)?;
            let bias = if args.bias == 0 { 0 } else { args.bias + 4 * u64::from(from) };
            self.many(
                FactorType::F16,
                LinearArgs { w: unpacked, bias, count, first: args.first + from, ..args },
            )?;
        }
        Ok(())
    }

    fn gemm(&self, count: u32) -> DenseGemm {
        DenseGemm::choose(self.rows, count, self.deterministic)
    }

    /// The activations as one plane (`high`), and what they were divided by.
    fn round(&self, scratch: &mut Scratch<G>, factors: FactorType, args: LinearArgs) -> Result<LinearArgs> {
        let plane = product(&[self.rows as usize, args.stride as usize, factors.size()]);
        // Fewer rows may want more, as they are split: who began with the most rows shall have that, too.
        let bytes = plane_bytes((self.rows, args.stride), factors.size());
        let bytes = bytes.max(plane_bytes((MANY_ROWS - 1, args.stride), SPLIT));
        let high = scratch.fit(self.gpu, "rounded activations", bytes)?.address();
        let scales = high + plane as u64;
        let round =
            RoundArgs { x: self.x.address(), out: high, scales, cols: self.cols, stride: args.stride };
        let kernel = match factors {
            FactorType::F16 => Kernel::RoundF16,
            FactorType::BF16 => Kernel::RoundBF16,
            FactorType::E4M3 => Kernel::RoundE4M3,
        };
        // SAFETY: the plane is `[rows, stride]`, with a scale for each row behind it.
        unsafe { self.gpu.launch(kernel, Launch::blocks(self.rows), &round)? };
        Ok(LinearArgs { high, scales, ..args })
    }

    /// The activations as two planes of 16 bits, and what they were divided by.
    fn split(&self, scratch: &mut Scratch<G>, factors: FactorType, args: LinearArgs) -> Result<LinearArgs> {
        let plane = product(&[self.rows as usize, args.stride as usize, 2]);
        let bytes = plane_bytes((self.rows, args.stride), SPLIT);
        let high = scratch.fit(self.gpu, "split activations", bytes)?.address();
        let (low, scales) = (high + plane as u64, high + 2 * plane as u64);
        let split =
            SplitArgs { x: self.x.address(), high, low, scales, cols: self.cols, stride: args.stride };
        let kernel = match factors {
            // Weights in E4M3 become f16 on the way.
            FactorType::F16 | FactorType::E4M3 => Kernel::SplitF16,
            FactorType::BF16 => Kernel::SplitBF16,
        };
        // SAFETY: both planes are `[rows, stride]`, with a scale for each row behind them.
        unsafe { self.gpu.launch(kernel, Launch::blocks(self.rows), &split)? };
        Ok(LinearArgs { high, low, scales, ..args })
    }

    /// Weights in `factors`, of which [`FactorType::E4M3`] has scales.
    fn tensor_cores(&self, scratch: &mut Scratch<G>, factors: FactorType, args: LinearArgs) -> Result<()> {
        if self.gemm(args.count) != DenseGemm::Few {
            let args = self.round(scratch, factors, args)?;
            return self.many(factors, args);
        }
        let args = self.split(scratch, factors, args)?;
        let (per_block, [f16, bf16, e4m3]) = match self.rows {
            ..=8 => (8, [Kernel::LinearF16x8, Kernel::LinearBF16x8, Kernel::LinearE4M3x8]),
            9..=16 => (16, [Kernel::LinearF16x16, Kernel::LinearBF16x16, Kernel::LinearE4M3x16]),
            17..=32 => (32, [Kernel::LinearF16x32, Kernel::LinearBF16x32, Kernel::LinearE4M3x32]),
            _ => (64, [Kernel::LinearF16x64, Kernel::LinearBF16x64, Kernel::LinearE4M3x64]),
        };
        let kernel = match factors {
            FactorType::F16 => f16,
            FactorType::BF16 => bf16,
            FactorType::E4M3 => e4m3,
        };
        let launch = Launch::grid(args.count.div_ceil(OUTPUTS), self.rows.div_ceil(per_block), 1);
        // SAFETY: `linear` checked the buffers; both planes are `[rows, stride]`, the weights `[count, stride]`, with a scale
        // for each of their rows where they have scales.
        unsafe { self.gpu.launch(kernel, launch, &args) }
    }

    fn many(&self, factors: FactorType, args: LinearArgs) -> Result<()> {
        if self.gemm(args.count) == DenseGemm::Library && self.by_library(factors, &args)? {
            return Ok(());
        }
        if let Some(half) = factors.half().filter(|_| self.gpu.info().has_warpgroups()) {
            let product = (&dense(factors, &args), half);
            // SAFETY: as for few rows; both matrices begin where memory does, or so many whole rows further.
            return unsafe { hopper_gemm::multiply(self.gpu, product, (args.scales, args.bias)) };
        }
        let LinearArgs { out, w, w_scales, high, scales, bias, rows, count, stride, width, first, .. } = args;
        let args = GemmArgs { out, w, w_scales, x: high, scales, bias, rows, count, stride, width, first };
        let launch = Launch::grid(count.div_ceil(TILE), rows.div_ceil(TILE), 1).with_shared(TILE_SHARED);
        let kernel = match factors {
            FactorType::F16 => Kernel::GemmF16,
            FactorType::BF16 => Kernel::GemmBF16,
            FactorType::E4M3 => Kernel::GemmE4M3,
        };
        // SAFETY: as for few rows.
        unsafe { self.gpu.launch(kernel, launch, &args) }
    }

    /// Whether a library made the product.
    fn by_library(&self, factors: FactorType, args: &LinearArgs) -> Result<bool> {
        // SAFETY: as for few rows.
        if !unsafe { self.gpu.multiply(&dense(factors, args))? } {
            return Ok(false);
        }
        let &LinearArgs { w_scales, scales, bias, rows, count, width, first, .. } = args;
        // In bf16 every scale is one.
        if factors != FactorType::BF16 || bias != 0 {
            let finish = FinishArgs { out: args.out, w_scales, scales, bias, count, width, first };
            // SAFETY: the same rows and columns of `out`.
            unsafe { self.gpu.launch(Kernel::FinishRows, Launch::blocks(rows), &finish)? };
        }
        Ok(true)
    }
}

/// The product of one plane alone.
fn dense(factors: FactorType, args: &LinearArgs) -> DenseProduct {
    let &LinearArgs { w, high, rows, count, stride, width, first, .. } = args;
    DenseProduct { factors, w, x: high, out: args.out + 4 * u64::from(first), rows, count, stride, width }
}
