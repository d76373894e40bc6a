//! The paged KV cache on the device.
#![allow(unsafe_code)]

use super::gpu::{Gpu, GpuMemory, Launch};
use super::kernel::Kernel;
use super::memory::{CudaBuf, kernel_args, size};
use super::step::{CudaStep, Part};
use crate::contract::{check_room, product, qkv_width, shape_error};
use crate::{DType, HeadCounts, KernelError, KvShape, KvType, SmallFloat};

type Result<T> = std::result::Result<T, KernelError>;

kernel_args!(CopyBlockArgs { cache: u64, blocks: u32, packs: u32, from: u32, to: u32 });
kernel_args!(RopeArgs {
    qkv: u64,
    keys: u64,
    values: u64,
    slots: u64,
    cosine: u64,
    sine: u64,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    stride: u32,
    half: u32,
    block_size: u32,
    block_stride: u32,
});

/// Elements that a lane loads at once, and bytes that are copied at once; heads are padded to multiples of both.
const PART: usize = 8;
const PACK: usize = 16;
/// The largest head that the kernels of attention take.
const MAX_HEAD_DIM: usize = 256;

/// Keys, then values, of each layer: `[layers, 2, blocks]` blocks, as `csrc/rope.cu` describes them.
pub struct CudaKvCache<G: Gpu> {
    memory: G::Memory,
    shape: KvShape,
}

impl<G: Gpu> CudaKvCache<G> {
    pub(super) fn new(gpu: &G, shape: KvShape) -> Result<Self> {
        const OP: &str = "kv_cache";
        for (what, size) in
            [("block_size", shape.block_size), ("kv_heads", shape.kv_heads), ("head_dim", shape.head_dim)]
        {
            if size == 0 {
                return Err(shape_error(OP, what, 0, 1));
            }
        }
        check_room(OP, "head_dim", shape.head_dim, MAX_HEAD_DIM)?;
        let bytes = product(&[2, shape.layers, shape.blocks, block_bytes(&shape)]);
        Ok(Self { memory: gpu.allocate("KV cache", bytes)?, shape })
    }

    pub(super) fn shape(&self) -> KvShape {
        self.shape
    }

    /// Elements from one position's head to the next.
    pub(super) fn stride(&self) -> usize {
        stride(&self.shape)
    }

    /// Elements from one block's keys, or values, in one layer to the next.
    pub(super) fn block_stride(&self) -> usize {
        block_bytes(&self.shape) / self.shape.dtype.size()
    }

    /// Where a layer's keys and values lie.
    pub(super) fn layer(&self, op: &'static str, layer: usize) -> Result<(u64, u64)> {
        if layer >= self.shape.layers {
            return Err(shape_error(op, "layer", layer, self.shape.layers));
        }
        let half = self.shape.blocks * block_bytes(&self.shape);
        let keys = self.memory.address() + (2 * layer * half) as u64;
        Ok((keys, keys + half as u64))
    }

    pub(super) fn copy_blocks(&self, gpu: &G, pairs: &[(u32, u32)]) -> Result<()> {
        const OP: &str = "copy_blocks";
        for block in pairs.iter().flat_map(|&(from, to)| [from as usize, to as usize]) {
            if block >= self.shape.blocks {
                return Err(shape_error(OP, "block", block, self.shape.blocks));
            }
        }
        let packs = size(OP, "bytes of a block", block_bytes(&self.shape) / PACK)?;
        let halves = size(OP, "layers", 2 * self.shape.layers)?;
        let blocks = size(OP, "blocks", self.shape.blocks)?;
        let launch = Launch::grid(packs.div_ceil(4 * Kernel::CopyBlock.threads()), halves, 1);
        for &(from, to) in pairs {
            let args = CopyBlockArgs { cache: self.memory.address(), blocks, packs, from, to };
            // SAFETY: whole blocks of every layer; both were checked.
            unsafe { gpu.launch(Kernel::CopyBlock, launch, &args)? };
        }
        Ok(())
    }
}

fn stride(shape: &KvShape) -> usize {
    shape.head_dim.next_multiple_of(PART.max(PACK / shape.dtype.size()))
}

/// Bytes of one block's keys, or values, in one layer; too large to be had where that overflows.
fn block_bytes(shape: &KvShape) -> usize {
    let per_head = stride(shape).saturating_mul(shape.dtype.size()).saturating_add(shape.dtype.scale_size());
    let bytes = product(&[shape.kv_heads, shape.block_size, per_head]);
    bytes.checked_next_multiple_of(PACK).unwrap_or(usize::MAX)
}

/// See [`crate::Backend::rope_and_store`]; `heads` counts the query heads.
pub(super) fn rope_and_store<G: Gpu>(
    gpu: &G,
    qkv: &mut CudaBuf<G>,
    cache: &mut CudaKvCache<G>,
    step: &CudaStep<G>,
    (layer, heads, rope): (usize, usize, usize),
) -> Result<()> {
    const OP: &str = "rope_and_store";
    let shape = cache.shape();
    let (keys, values) = cache.layer(OP, layer)?;
    step.check_slots(OP, &shape)?;
    let rotary = step.rope(OP, rope)?;
    check_room(OP, "rotary_dim", 2 * rotary.half, shape.head_dim)?;
    let width = qkv_width(HeadCounts { q: heads, kv: shape.kv_heads }, shape.head_dim);
    check_room(OP, "elements of qkv", product(&[step.tokens, width]), qkv.len())?;
    if step.tokens == 0 {
        return Ok(());
    }
    let args = RopeArgs {
        qkv: qkv.address(),
        keys,
        values,
        slots: step.address(Part::Slots),
        cosine: rotary.cosine,
        sine: rotary.sine,
        heads: size(OP, "query heads", heads)?,
        kv_heads: size(OP, "kv_heads", shape.kv_heads)?,
        head_dim: size(OP, "head_dim", shape.head_dim)?,
        stride: size(OP, "head_dim", cache.stride())?,
        half: size(OP, "rotary_dim", rotary.half)?,
        block_size: size(OP, "block_size", shape.block_size)?,
        block_stride: size(OP, "elements of a block", cache.block_stride())?,
    };
    let kernel = match shape.dtype {
        KvType::Float(DType::F32) => Kernel::RopeAndStoreF32,
        KvType::Float(DType::F16) => Kernel::RopeAndStoreF16,
        KvType::Float(DType::BF16) => Kernel::RopeAndStoreBF16,
        KvType::Small(SmallFloat::E4M3) => Kernel::RopeAndStoreE4M3,
        KvType::Small(SmallFloat::E5M2) => Kernel::RopeAndStoreE5M2,
    };
    let launch = Launch::grid(size(OP, "tokens", step.tokens)?, args.heads + 2 * args.kv_heads, 1);
    // SAFETY: `tokens` rows of `qkv`, slots of the cache, and angles for every token, all checked.
    unsafe { gpu.launch(kernel, launch, &args) }
}
