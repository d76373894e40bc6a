//! Causal attention over the paged cache (`csrc/attention.cu`, `csrc/prefill.cu`, `csrc/hopper_prefill.cu`).
#![allow(unsafe_code)]

use super::gpu::{Gpu, GpuMemory, Launch};
use super::kernel::Kernel;
use super::kv::CudaKvCache;
use super::memory::{CudaBuf, Scratch, kernel_args, size};
use super::step::{CudaStep, Part};
use super::tensor_map::{Boxes, Half, TensorMap};
use crate::contract::{check, check_room, product, qkv_width, shape_error};
use crate::{AttentionParams, DType, HeadCounts, KernelError, KvShape, KvType, SmallFloat};

type Result<T> = std::result::Result<T, KernelError>;

const OP: &str = "attention";
/// Positions that a block takes at least; `SPLIT` of the kernel.
const SPLIT: usize = 256;

kernel_args!(AttentionArgs {
    out: u64,
    partial: u64,
    qkv: u64,
    keys: u64,
    values: u64,
    rows: u64,
    positions: u64,
    seq_of: u64,
    block_offsets: u64,
    block_tables: u64,
    tokens: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    stride: u32,
    block_size: u32,
    window: u32,
    splits: u32,
    block_stride: u32,
    scale: f32,
    softcap: f32,
});
kernel_args!(PrefillArgs {
    out: u64,
    qkv: u64,
    keys: u64,
    values: u64,
    tiles: u64,
    positions: u64,
    seq_of: u64,
    block_offsets: u64,
    block_tables: u64,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    stride: u32,
    block_size: u32,
    window: u32,
    heads_together: u32,
    block_stride: u32,
    scale: f32,
    softcap: f32,
});
kernel_args!(HopperPrefillArgs {
    out: u64,
    qkv: u64,
    tiles: u64,
    positions: u64,
    seq_of: u64,
    block_offsets: u64,
    block_tables: u64,
    heads: u32,
    kv_heads: u32,
    block_size: u32,
    window: u32,
    heads_together: u32,
    scale: f32,
    softcap: f32,
    reserved: [u32; 11],
    keys: TensorMap,
    values: TensorMap,
});

/// See [`crate::Backend::attention`]. Where `deterministic`, every token is worked on by itself.
pub(super) fn attention<G: Gpu>(
    (gpu, scratch, deterministic): (&G, &mut Scratch<G>, bool),
    out: &mut CudaBuf<G>,
    qkv: &CudaBuf<G>,
    (cache, layer): (&CudaKvCache<G>, usize),
    step: &CudaStep<G>,
    params: &AttentionParams,
) -> Result<()> {
    let shape = cache.shape();
    let (keys, values) = cache.layer(OP, layer)?;
    step.check_tables(OP, &shape)?;
    check(OP, "query heads beyond a multiple of kv_heads", params.heads % shape.kv_heads, 0)?;
    if params.heads == 0 || params.window == Some(0) {
        return Err(shape_error(OP, "query heads or window", 0, 1));
    }
    let (tokens, head_dim) = (step.tokens, shape.head_dim);
    let counts = HeadCounts { q: params.heads, kv: shape.kv_heads };
    check_room(OP, "elements of qkv", product(&[tokens, qkv_width(counts, head_dim)]), qkv.len())?;
    check_room(OP, "elements of out", product(&[tokens, params.heads, head_dim]), out.len())?;
    if tokens == 0 {
        return Ok(());
    }
    let args = AttentionArgs {
        out: out.address(),
        partial: 0,
        qkv: qkv.address(),
        keys,
        values,
        rows: 0,
        positions: step.address(Part::Positions),
        seq_of: step.address(Part::SeqOf),
        block_offsets: step.address(Part::BlockOffsets),
        block_tables: step.address(Part::BlockTables),
        tokens: size(OP, "tokens", tokens)?,
        heads: size(OP, "query heads", params.heads)?,
        kv_heads: size(OP, "kv_heads", shape.kv_heads)?,
        head_dim: size(OP, "head_dim", head_dim)?,
        stride: size(OP, "head_dim", cache.stride())?,
        block_size: size(OP, "block_size", shape.block_size)?,
        window: params.window.unwrap_or(0),
        splits: 0,
        block_stride: size(OP, "elements of a block", cache.block_stride())?,
        scale: params.scale,
        softcap: params.softcap.unwrap_or(0.0),
    };
    let tiled = if deterministic { None } else { prefill_kernel(shape.dtype, head_dim) };
    let few = match tiled {
        Some(_) => step.few(),
        None => tokens,
    };
    if few > 0 {
        let rows = if few < tokens { step.address(Part::Few) } else { 0 };
        let args = AttentionArgs { rows, tokens: size(OP, "tokens", few)?, ..args };
        one_by_one((gpu, scratch), shape.dtype, (step.longest, step.room()), args)?;
    }
    match tiled {
        Some(kernel) if few < tokens => match hopper_kernel(gpu, &shape, params.scale) {
            Some(kernel) => tile_by_warpgroups(gpu, kernel, step, (&args, shape.blocks)),
            None => tile_by_tile(gpu, kernel, step, &args),
        },
        _ => Ok(()),
    }
}

/// `args.tokens` tokens of at most `room`, each by itself.
fn one_by_one<G: Gpu>(
    (gpu, scratch): (&G, &mut Scratch<G>),
    dtype: KvType,
    (longest, room): (usize, usize),
    args: AttentionArgs,
) -> Result<()> {
    let (tokens, heads, head_dim) = (args.tokens as usize, args.heads as usize, args.head_dim as usize);
    let (kernel, together) = kernel(dtype, head_dim, (args.heads / args.kv_heads) as usize);
    let tiles = (args.heads / args.kv_heads).div_ceil(together) * args.kv_heads;
    let splits = splits(gpu, tokens * tiles as usize, longest);
    // As much as any step of these splits takes, so that it grows no more once the longest sequence was there.
    let most = tokens.max(room.min(few_rows(gpu) / tiles as usize));
    let bytes = product(&[most, heads, splits, head_dim + 2, size_of::<f32>()]);
    let partial = scratch.fit(gpu, "attention", bytes.max(16))?.address();
    let args = AttentionArgs { partial, splits: size(OP, "splits", splits)?, ..args };
    // SAFETY: the step's positions lie in its block tables, those in the cache, and all buffers are long enough: checked
    // by `attention`, or sized above.
    unsafe {
        gpu.launch(kernel, Launch::grid(args.tokens, tiles, args.splits.max(1)), &args)?;
        if splits > 0 {
            gpu.launch(Kernel::AttendCombine, Launch::grid(args.tokens, args.heads, 1), &args)?;
        }
    }
    Ok(())
}

/// The step's long stretches.
fn tile_by_tile<G: Gpu>(
    gpu: &G,
    (kernel, shared): (Kernel, u32),
    step: &CudaStep<G>,
    args: &AttentionArgs,
) -> Result<()> {
    let group = args.heads / args.kv_heads;
    // Four warps with sixteen tokens of a head each.
    let heads_together = match group {
        1 => 1,
        2 | 3 => 2,
        _ => 4,
    };
    let (at, count) = step.tiles(64 / heads_together as usize);
    let tiles = PrefillArgs {
        out: args.out,
        qkv: args.qkv,
        keys: args.keys,
        values: args.values,
        tiles: at,
        positions: args.positions,
        seq_of: args.seq_of,
        block_offsets: args.block_offsets,
        block_tables: args.block_tables,
        heads: args.heads,
        kv_heads: args.kv_heads,
        head_dim: args.head_dim,
        stride: args.stride,
        block_size: args.block_size,
        window: args.window,
        heads_together,
        block_stride: args.block_stride,
        scale: args.scale,
        softcap: args.softcap,
    };
    let launch = Launch::grid(size(OP, "tiles", count)?, group.div_ceil(heads_together) * args.kv_heads, 1)
        .with_shared(shared);
    // SAFETY: as for `one_by_one`; the tiles are stretches of the step's sequences.
    unsafe { gpu.launch(kernel, launch, &tiles) }
}

/// The same by warpgroups, over a cache of so many blocks.
fn tile_by_warpgroups<G: Gpu>(
    gpu: &G,
    (kernel, half): (Kernel, Half),
    step: &CudaStep<G>,
    (args, blocks): (&AttentionArgs, usize),
) -> Result<()> {
    // Two warpgroups with 64 tokens of a head each.
    let heads_together = if (args.heads / args.kv_heads).is_multiple_of(2) { 2 } else { 1 };
    let (tiles, count) = step.tiles(128 / heads_together as usize);
    let rows = product(&[blocks, args.kv_heads as usize, args.block_size as usize]) as u64;
    let boxes = |address| Boxes::whole(half, address, (rows, args.head_dim.into()), args.block_size);
    let launch = Launch::grid(size(OP, "tiles", count)?, args.heads / heads_together, 1);
    // Queries, and stages of keys and values of 128 KiB together; and what it may take to where their pattern begins.
    let launch = launch.with_shared(256 * args.head_dim + (128 << 10) + 1024);
    let args = HopperPrefillArgs {
        out: args.out,
        qkv: args.qkv,
        tiles,
        positions: args.positions,
        seq_of: args.seq_of,
        block_offsets: args.block_offsets,
        block_tables: args.block_tables,
        heads: args.heads,
        kv_heads: args.kv_heads,
        block_size: args.block_size,
        window: args.window,
        heads_together,
        scale: args.scale,
        softcap: args.softcap,
        reserved: [0; 11],
        keys: gpu.tensor_map(&boxes(args.keys))?,
        values: gpu.tensor_map(&boxes(args.values))?,
    };
    // SAFETY: as for `one_by_one`; the tiles are stretches of the step's sequences, and the maps are of the layer's cache.
    unsafe { gpu.launch(kernel, launch, &args) }
}

/// The kernel for stretches of prompts where warpgroups multiply. It takes heads that are whole tiles, and pages that fill
/// tiles of 128 positions and whole patterns of eight.
fn hopper_kernel<G: Gpu>(gpu: &G, shape: &KvShape, scale: f32) -> Option<(Kernel, Half)> {
    use Kernel::*;
    let fits = matches!(shape.block_size, 8 | 16 | 32 | 64 | 128) && scale > 0.0;
    if !gpu.info().has_warpgroups() || !fits {
        return None;
    }
    match (shape.dtype, shape.head_dim) {
        (KvType::Float(DType::F16), 64) => Some((HopperPrefillF16x64, Half::F16)),
        (KvType::Float(DType::F16), 128) => Some((HopperPrefillF16x128, Half::F16)),
        (KvType::Float(DType::BF16), 64) => Some((HopperPrefillBF16x64, Half::BF16)),
        (KvType::Float(DType::BF16), 128) => Some((HopperPrefillBF16x128, Half::BF16)),
        _ => None,
    }
}

/// The kernel for stretches of prompts and its shared memory: queries, and two stages of keys and values; of small floats
/// one, and two stages of codes. Tensor cores take no f32.
fn prefill_kernel(dtype: KvType, head_dim: usize) -> Option<(Kernel, u32)> {
    use Kernel::*;
    let [small, middle, large, largest] = match dtype {
        KvType::Float(DType::F32) => return None,
        KvType::Float(DType::F16) => [PrefillF16x64, PrefillF16x96, PrefillF16x128, PrefillF16x256],
        KvType::Float(DType::BF16) => [PrefillBF16x64, PrefillBF16x96, PrefillBF16x128, PrefillBF16x256],
        KvType::Small(SmallFloat::E4M3) => [PrefillE4M3x64, PrefillE4M3x96, PrefillE4M3x128, PrefillE4M3x256],
        KvType::Small(SmallFloat::E5M2) => [PrefillE5M2x64, PrefillE5M2x96, PrefillE5M2x128, PrefillE5M2x256],
    };
    let (kernel, dims, keys) = match head_dim {
        0..=64 => (small, 64, 64),
        65..=96 => (middle, 96, 64),
        97..=128 => (large, 128, 64),
        _ => (largest, 256, 32),
    };
    let (stages, codes) = match dtype {
        KvType::Float(_) => (2, 0),
        KvType::Small(_) => (1, 2 * 2 * keys * dims),
    };
    Some((kernel, 2 * (dims + 8) * (64 + stages * 2 * keys) + codes))
}

/// Into how many splits the longest sequence of a step falls, or a few more: a power of two, so that most steps are
/// launched as the ones before them.
pub(super) fn split_count(longest: usize) -> usize {
    longest.div_ceil(SPLIT).next_power_of_two()
}

/// More (token, heads) rows than this keep the GPU busy by themselves.
fn few_rows<G: Gpu>(gpu: &G) -> usize {
    (4 * gpu.info().multiprocessors as usize).saturating_sub(1)
}

/// Into how many blocks to spread a (token, heads) row: one (zero) if there are enough rows to keep the GPU busy.
fn splits<G: Gpu>(gpu: &G, rows: usize, longest: usize) -> usize {
    let splits = split_count(longest);
    if splits <= 1 || rows > few_rows(gpu) { 0 } else { splits }
}

/// The kernel for heads of `head_dim` elements of which `group` share a key head, and how many of them it takes at once.
fn kernel(dtype: KvType, head_dim: usize, group: usize) -> (Kernel, u32) {
    use Kernel::*;
    let kernels = match dtype {
        KvType::Float(DType::F32) => [
            [AttendF32x64x1, AttendF32x64x4, AttendF32x64x8],
            [AttendF32x128x1, AttendF32x128x4, AttendF32x128x8],
            [AttendF32x256x1, AttendF32x256x4, AttendF32x256x8],
        ],
        KvType::Float(DType::F16) => [
            [AttendF16x64x1, AttendF16x64x4, AttendF16x64x8],
            [AttendF16x128x1, AttendF16x128x4, AttendF16x128x8],
            [AttendF16x256x1, AttendF16x256x4, AttendF16x256x8],
        ],
        KvType::Float(DType::BF16) => [
            [AttendBF16x64x1, AttendBF16x64x4, AttendBF16x64x8],
            [AttendBF16x128x1, AttendBF16x128x4, AttendBF16x128x8],
            [AttendBF16x256x1, AttendBF16x256x4, AttendBF16x256x8],
        ],
        KvType::Small(SmallFloat::E4M3) => [
            [AttendE4M3x64x1, AttendE4M3x64x4, AttendE4M3x64x8],
            [AttendE4M3x128x1, AttendE4M3x128x4, AttendE4M3x128x8],
            [AttendE4M3x256x1, AttendE4M3x256x4, AttendE4M3x256x8],
        ],
        KvType::Small(SmallFloat::E5M2) => [
            [AttendE5M2x64x1, AttendE5M2x64x4, AttendE5M2x64x8],
            [AttendE5M2x128x1, AttendE5M2x128x4, AttendE5M2x128x8],
            [AttendE5M2x256x1, AttendE5M2x256x4, AttendE5M2x256x8],
        ],
    };
    let [small, middle, large] = kernels;
    let [one, four, eight] = match head_dim {
        0..=64 => small,
        65..=128 => middle,
        _ => large,
    };
    match group {
        1 => (one, 1),
        2..=4 => (four, 4),
        _ => (eight, 8),
    }
}
