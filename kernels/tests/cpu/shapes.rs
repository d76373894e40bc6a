//! Calls that break a shape contract get an error that says which, and no panic.

use weirgate_kernels::cpu::{CpuBackend, Step};
use weirgate_kernels::{
    Activation, AttentionParams, Backend, BlockType, DType, HeadCounts, KernelError, KvShape, KvType,
    LowRankView, NO_ADAPTER, SampleParams, SampleRow, SmallFloat, StepInputs, WeightView,
};

use crate::common::{buffer, matrix};

#[track_caller]
fn refused<T>(op: &str, result: Result<T, KernelError>) {
    match result {
        Err(KernelError::Shape { op: named, .. }) => assert_eq!(named, op),
        Err(other) => panic!("{op}: {other}"),
        Ok(_) => panic!("{op}: accepted"),
    }
}

const SHAPE: KvShape = KvShape {
    layers: 2,
    blocks: 4,
    block_size: 4,
    kv_heads: 1,
    head_dim: 8,
    dtype: KvType::Float(DType::F32),
};
const PARAMS: AttentionParams = AttentionParams { heads: 2, scale: 1.0, softcap: None, window: None };

/// Three tokens of one sequence that has five.
fn inputs() -> StepInputs<'static> {
    StepInputs {
        ids: &[1, 2, 3],
        positions: &[2, 3, 4],
        slots: &[6, 7, 0],
        cu_q: &[0, 3],
        kv_len: &[5],
        block_tables: &[1, 0],
        block_offsets: &[0, 2],
        rope: &[(&[1.0; 12], &[0.0; 12])],
        adapters: &[NO_ADAPTER],
    }
}

fn uploaded(device: &mut CpuBackend, inputs: &StepInputs<'_>) -> Step {
    let mut step = device.step_buffers(4, 2, 4).unwrap();
    device.upload(&mut step, inputs).unwrap();
    step
}

#[test]
fn weights() {
    let device = CpuBackend::new(1);
    let part = |dtype: DType, rows, cols, bytes| WeightView { dtype: dtype.into(), rows, cols, bytes };
    let bytes = [0u8; 64];
    refused("matrix", device.matrix(&[]));
    refused("matrix", device.matrix(&[part(DType::F32, 2, 4, &bytes[..31])]));
    refused("matrix", device.matrix(&[part(DType::F32, 0, 4, &[])]));
    refused("matrix", device.matrix(&[part(DType::F32, usize::MAX, 4, &bytes)]));
    refused(
        "matrix",
        device.matrix(&[part(DType::F32, 2, 4, &bytes[..32]), part(DType::F32, 4, 2, &bytes[..32])]),
    );
    let blocks = |blocks: BlockType, cols, bytes| {
        let part = WeightView { dtype: blocks.into(), rows: 1, cols, bytes };
        refused("matrix", device.matrix(&[part]));
    };
    blocks(BlockType::Q8_0, 32, &bytes[..33]);
    blocks(BlockType::Q8_0, 33, &bytes[..34]);
    blocks(BlockType::Q4K, 32, &bytes[..18]);
    blocks(BlockType::Q4K, usize::MAX / 256 * 256, &bytes);
}

#[test]
fn too_large() {
    let device = CpuBackend::new(1);
    let out_of_memory = |result: Option<KernelError>| {
        assert!(matches!(result, Some(KernelError::OutOfMemory { .. })), "{result:?}");
    };
    out_of_memory(device.buffer(usize::MAX / 8).err());
    out_of_memory(device.kv_cache(KvShape { blocks: usize::MAX / 4096, ..SHAPE }).err());
    out_of_memory(device.kv_cache(KvShape { layers: usize::MAX, ..SHAPE }).err());
    out_of_memory(device.step_buffers(usize::MAX / 2, 1, 1).err());
}

#[test]
fn uploads() {
    let mut device = CpuBackend::new(1);
    let mut step = device.step_buffers(3, 1, 2).unwrap();
    device.upload(&mut step, &inputs()).unwrap();
    let mut broken = |inputs: StepInputs<'_>| refused("upload", device.upload(&mut step, &inputs));
    broken(StepInputs { ids: &[1, 2], ..inputs() });
    broken(StepInputs { positions: &[2, 3], ..inputs() });
    broken(StepInputs { positions: &[2, 4, 4], ..inputs() });
    broken(StepInputs { positions: &[3, 4, 5], ..inputs() });
    broken(StepInputs { slots: &[6, 7], ..inputs() });
    broken(StepInputs { slots: &[6, 7, 6], ..inputs() });
    broken(StepInputs { cu_q: &[0], ..inputs() });
    broken(StepInputs { cu_q: &[0, 2], ..inputs() });
    broken(StepInputs { cu_q: &[1, 3], ..inputs() });
    broken(StepInputs { kv_len: &[2], ..inputs() });
    broken(StepInputs { block_offsets: &[0, 3], ..inputs() });
    broken(StepInputs { block_offsets: &[0], ..inputs() });
    broken(StepInputs { adapters: &[], ..inputs() });
    broken(StepInputs { rope: &[(&[1.0; 12], &[0.0; 6])], ..inputs() });
    broken(StepInputs { rope: &[(&[1.0; 11], &[0.0; 11])], ..inputs() });
    let two = StepInputs {
        cu_q: &[0, 3, 3],
        kv_len: &[5, 1],
        block_offsets: &[0, 2, 2],
        adapters: &[NO_ADAPTER; 2],
        ..inputs()
    };
    broken(two);
    broken(StepInputs { cu_q: &[0, 4, 3], ..two });
    broken(StepInputs { block_offsets: &[0, 3, 2], ..two });
    let mut small = device.step_buffers(2, 1, 2).unwrap();
    refused("upload", device.upload(&mut small, &inputs()));
    let mut small = device.step_buffers(3, 1, 1).unwrap();
    refused("upload", device.upload(&mut small, &inputs()));
}

#[test]
fn cache() {
    let mut device = CpuBackend::new(2);
    refused("kv_cache", device.kv_cache(KvShape { block_size: 0, ..SHAPE }));
    refused("kv_cache", device.kv_cache(KvShape { head_dim: 0, ..SHAPE }));
    refused("kv_cache", device.kv_cache(KvShape { kv_heads: 0, ..SHAPE }));
    let small = device.kv_cache(KvShape { dtype: SmallFloat::E4M3.into(), ..SHAPE });
    assert_eq!(small.err().unwrap().to_string(), "cpu: a KV cache in fp8_e4m3fn takes a GPU");
    let mut cache = device.kv_cache(SHAPE).unwrap();
    refused("copy_blocks", device.copy_blocks(&mut cache, &[(0, 4)]));
    refused("copy_blocks", device.copy_blocks(&mut cache, &[(4, 0)]));
    let step = uploaded(&mut device, &inputs());
    let far = uploaded(&mut device, &StepInputs { slots: &[6, 7, 16], ..inputs() });
    let mut qkv = device.buffer(3 * 32).unwrap();
    device.rope_and_store(&mut qkv, &mut cache, &step, 1, 2, 0).unwrap();
    refused("rope_and_store", device.rope_and_store(&mut qkv, &mut cache, &step, 2, 2, 0));
    refused("rope_and_store", device.rope_and_store(&mut qkv, &mut cache, &step, 1, 3, 0));
    refused("rope_and_store", device.rope_and_store(&mut qkv, &mut cache, &step, 1, 2, 1));
    refused("rope_and_store", device.rope_and_store(&mut qkv, &mut cache, &far, 1, 2, 0));
    let wide = uploaded(&mut device, &StepInputs { rope: &[(&[1.0; 15], &[0.0; 15])], ..inputs() });
    refused("rope_and_store", device.rope_and_store(&mut qkv, &mut cache, &wide, 1, 2, 0));
}

#[test]
fn attention() {
    let mut device = CpuBackend::new(2);
    let cache = device.kv_cache(SHAPE).unwrap();
    let wide = device.kv_cache(KvShape { kv_heads: 2, ..SHAPE }).unwrap();
    let step = uploaded(&mut device, &inputs());
    let (qkv, small) = (device.buffer(3 * 40).unwrap(), device.buffer(3 * 32 - 1).unwrap());
    let mut out = device.buffer(3 * 24).unwrap();
    device.attention(&mut out, &qkv, &cache, &step, 1, &PARAMS).unwrap();
    refused("attention", device.attention(&mut out, &qkv, &cache, &step, 2, &PARAMS));
    refused("attention", device.attention(&mut out, &small, &cache, &step, 1, &PARAMS));
    let params = AttentionParams { heads: 3, ..PARAMS };
    refused("attention", device.attention(&mut out, &qkv, &wide, &step, 1, &params));
    let params = AttentionParams { heads: 0, ..PARAMS };
    refused("attention", device.attention(&mut out, &qkv, &cache, &step, 1, &params));
    let params = AttentionParams { window: Some(0), ..PARAMS };
    refused("attention", device.attention(&mut out, &qkv, &cache, &step, 1, &params));
    let mut short = device.buffer(3 * 16 - 1).unwrap();
    refused("attention", device.attention(&mut short, &qkv, &cache, &step, 1, &PARAMS));
    for (block_tables, block_offsets) in [(&[1, 4][..], &[0, 2][..]), (&[1], &[0, 1])] {
        let step = uploaded(&mut device, &StepInputs { block_tables, block_offsets, ..inputs() });
        refused("attention", device.attention(&mut out, &qkv, &cache, &step, 1, &PARAMS));
    }
}

#[test]
fn row_ops() {
    let mut device = CpuBackend::new(2);
    let (eight, seven) = (buffer(&device, &[1.0; 8]), buffer(&device, &[1.0; 7]));
    let mut out = device.buffer(8).unwrap();
    let mut short = device.buffer(7).unwrap();
    let w = matrix(&device, DType::F32, 4, 4, &[0.0; 16]);
    let four = buffer(&device, &[1.0; 4]);
    device.linear(&mut out, &eight, &w, Some(&four), 2).unwrap();
    refused("linear", device.linear(&mut short, &eight, &w, None, 2));
    refused("linear", device.linear(&mut out, &seven, &w, None, 2));
    refused("linear", device.linear(&mut out, &eight, &w, Some(&seven), 2));
    refused("rms_norm", device.rms_norm(&mut short, &eight, &four, 1e-5, 2));
    refused("rms_norm", device.rms_norm(&mut out, &seven, &four, 1e-5, 2));
    refused("add", device.add(&mut out, &seven, 8));
    refused("add", device.add(&mut short, &eight, 8));
    refused("gated", device.gated(&mut out, &seven, Activation::Silu, 1, 4));
    refused("gated", device.gated(&mut short, &eight, Activation::Silu, 2, 4));
    refused("softcap", device.softcap(&mut short, 1.0, 8));
    refused("gather_rows", device.gather_rows(&mut out, &eight, &[0, 2], 4));
    refused("gather_rows", device.gather_rows(&mut short, &eight, &[0, 1], 4));
    let heads = HeadCounts { q: 1, kv: 1 };
    refused("norm_heads", device.norm_heads(&mut out, &four, &four, heads, 1e-5, 1));
    refused("norm_heads", device.norm_heads(&mut out, &four, &seven, heads, 1e-5, 0));
    refused("download", device.download(&eight, &mut [0.0; 9]));
    refused("score", device.score(&eight, 4, &[0, 4]));
    refused("score", device.score(&seven, 4, &[0, 1]));
    let params = SampleParams::default();
    let row = SampleRow {
        params: &params,
        history: &[1],
        prompt_len: 1,
        draw: 0,
        surprise: 0.0,
        banned: &[],
        mask: None,
    };
    refused("sample", device.sample(&mut short, 4, &[row, row], &mut Vec::new()));
    refused("sample", device.sample(&mut out, 0, &[row], &mut Vec::new()));
    let step = uploaded(&mut device, &inputs());
    refused("embed", device.embed(&mut out, &w, &step, 1.0));
    let mut out = device.buffer(12).unwrap();
    device.embed(&mut out, &w, &step, 1.0).unwrap();
    let step = uploaded(&mut device, &StepInputs { ids: &[1, 2, 4], ..inputs() });
    refused("embed", device.embed(&mut out, &w, &step, 1.0));
}

/// Sizes whose product wraps around to something small.
#[test]
fn overflowing_sizes() {
    const HUGE: usize = 1 << 62;
    let mut device = CpuBackend::new(2);
    let x = buffer(&device, &[1.0; 8]);
    let four = buffer(&device, &[1.0; 4]);
    let mut out = device.buffer(8).unwrap();
    let w = matrix(&device, DType::F32, 4, 4, &[0.0; 16]);
    refused("linear", device.linear(&mut out, &x, &w, None, HUGE));
    refused("rms_norm", device.rms_norm(&mut out, &x, &four, 1e-5, HUGE));
    refused("gated", device.gated(&mut out, &x, Activation::Silu, HUGE, 4));
    refused("gated", device.gated(&mut out, &x, Activation::Silu, 1, HUGE * 2));
    refused("norm_heads", device.norm_heads(&mut out, &four, &four, HeadCounts { q: HUGE, kv: 0 }, 1e-5, 1));
    refused("norm_heads", device.norm_heads(&mut out, &four, &four, HeadCounts { q: 0, kv: HUGE }, 1e-5, 1));
    refused("gather_rows", device.gather_rows(&mut out, &x, &[0, 0, 0, 0], HUGE));
    refused("score", device.score(&x, HUGE, &[0, 0, 0, 0]));
    let params = SampleParams::default();
    let row = SampleRow {
        params: &params,
        history: &[1],
        prompt_len: 1,
        draw: 0,
        surprise: 0.0,
        banned: &[],
        mask: None,
    };
    refused("sample", device.sample(&mut out, HUGE, &[row; 4], &mut Vec::new()));
    let step = uploaded(&mut device, &inputs());
    let mut cache = device.kv_cache(SHAPE).unwrap();
    let params = AttentionParams { heads: HUGE, ..PARAMS };
    let qkv = device.buffer(3 * 32).unwrap();
    refused("attention", device.attention(&mut out, &qkv, &cache, &step, 0, &params));
    let mut qkv = qkv;
    refused("rope_and_store", device.rope_and_store(&mut qkv, &mut cache, &step, 0, HUGE, 0));
    for shape in [
        KvShape { head_dim: usize::MAX, ..SHAPE },
        KvShape { head_dim: HUGE, ..SHAPE },
        KvShape { block_size: usize::MAX, ..SHAPE },
        KvShape { kv_heads: HUGE, ..SHAPE },
    ] {
        assert!(matches!(device.kv_cache(shape), Err(KernelError::OutOfMemory { .. })), "{shape:?}");
    }
}

#[test]
fn adapters() {
    let mut device = CpuBackend::new(1);
    let bytes = [0u8; 64];
    let part = |first, rank: usize, rows: usize| LowRankView {
        first,
        scale: 1.0,
        a: WeightView { dtype: DType::F32.into(), rows: rank, cols: 4, bytes: &bytes[..16 * rank] },
        b: WeightView { dtype: DType::F32.into(), rows, cols: rank, bytes: &bytes[..4 * rank * rows] },
    };
    let mut changes = device.low_ranks(6, 4, 8).unwrap();
    let mut set =
        |parts: &[LowRankView<'_>]| refused("set_low_rank", device.set_low_rank(&mut changes, 0, parts));
    set(&[part(0, 2, 7)]);
    set(&[part(5, 1, 2)]);
    set(&[part(usize::MAX, 1, 2)]);
    // Parts that overlap, and parts out of order.
    set(&[part(0, 1, 4), part(3, 1, 2)]);
    set(&[part(4, 1, 2), part(0, 1, 2)]);
    // Ranks that differ, another number of columns, blocks.
    set(&[LowRankView { b: part(0, 2, 3).b, ..part(0, 1, 3) }]);
    let narrow = WeightView { dtype: DType::F32.into(), rows: 1, cols: 3, bytes: &bytes[..12] };
    set(&[LowRankView { a: narrow, ..part(0, 1, 3) }]);
    let blocks = WeightView { dtype: BlockType::Q8_0.into(), rows: 1, cols: 32, bytes: &bytes[..34] };
    let mut wide = device.low_ranks(6, 32, 8).unwrap();
    refused("set_low_rank", device.set_low_rank(&mut wide, 0, &[LowRankView { a: blocks, ..part(0, 1, 3) }]));

    device.set_low_rank(&mut changes, 0, &[part(0, 1, 3), part(3, 1, 3)]).unwrap();
    let step = uploaded(&mut device, &StepInputs { adapters: &[0], ..inputs() });
    let (x, short) = (device.buffer(12).unwrap(), device.buffer(11).unwrap());
    let mut out = device.buffer(18).unwrap();
    refused("add_low_rank", device.add_low_rank(&mut out, &short, &changes, &step));
    let mut narrow = device.buffer(17).unwrap();
    refused("add_low_rank", device.add_low_rank(&mut narrow, &x, &changes, &step));
    device.add_low_rank(&mut out, &x, &changes, &step).unwrap();
}
