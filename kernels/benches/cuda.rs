//! What the CUDA device's ops reach, one JSON object a line: seconds (median of several runs), and the bytes that must
//! move or the operations that must be done. `tools/gpu` sets them against the chip's ceilings.
//!
//!     cargo bench -p weirgate-kernels --bench cuda             the first GPU
//!     cargo bench -p weirgate-kernels --bench cuda -- --tiny   tiny sizes on the emulated GPU, to see that it runs
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, unsafe_code)]

use std::time::Instant;

use half::bf16;
use weirgate_kernels::cuda::driver::{CompileSettings, Device, DeviceChoice, NvidiaGpu};
use weirgate_kernels::cuda::{CudaBackend, CudaMatrix, Emulator, Gpu};
use weirgate_kernels::{
    AttentionParams, Backend, BlockType, DType, KvShape, KvType, NO_ADAPTER, ScaledRowsView, SmallFloat,
    StepInputs, WeightType, WeightView,
};

/// Timed runs of each op.
const RUNS: usize = 9;
/// What a GPU's second-level cache holds is swept out by this many bytes between runs.
const SWEEP: usize = 256 << 20;

/// The shapes of an 8B model (Llama 3.1), or tiny ones.
#[derive(Clone, Copy)]
struct Sizes {
    hidden: usize,
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    decode_seqs: usize,
    decode_context: usize,
    prefill: usize,
    copy: usize,
}

const REAL: Sizes = Sizes {
    hidden: 4096,
    intermediate: 14336,
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
    decode_seqs: 64,
    decode_context: 4096,
    prefill: 8192,
    copy: 2 << 30,
};
const TINY: Sizes = Sizes {
    hidden: 64,
    intermediate: 96,
    heads: 4,
    kv_heads: 2,
    head_dim: 16,
    decode_seqs: 2,
    decode_context: 40,
    prefill: 24,
    copy: 1 << 12,
};

/// Seconds that a GPU takes for something.
trait Timed: Gpu + Sized {
    fn seconds(device: &mut CudaBackend<Self>, work: impl FnMut(&mut CudaBackend<Self>)) -> f64;
}

impl Timed for Emulator {
    fn seconds(device: &mut CudaBackend<Self>, mut work: impl FnMut(&mut CudaBackend<Self>)) -> f64 {
        let begun = Instant::now();
        work(device);
        begun.elapsed().as_secs_f64()
    }
}

impl Timed for NvidiaGpu {
    fn seconds(device: &mut CudaBackend<Self>, mut work: impl FnMut(&mut CudaBackend<Self>)) -> f64 {
        let begun = device.gpu().mark().unwrap();
        work(device);
        let ended = device.gpu().mark().unwrap();
        device.gpu().wait(&ended).unwrap();
        ended.seconds_since(&begun).unwrap()
    }
}

/// The median of several runs, caches cold.
fn median<G: Timed>(
    device: &mut CudaBackend<G>,
    mut work: impl FnMut(&mut CudaBackend<G>),
    sweep: usize,
) -> f64 {
    let room = device.gpu().allocate("sweep", sweep).unwrap();
    let mut seconds: Vec<f64> = (0..=RUNS)
        .map(|_| {
            device.gpu().fill(&room, 0, sweep, 1).unwrap();
            G::seconds(device, &mut work)
        })
        .skip(1)
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[RUNS / 2]
}

fn report(name: &str, seconds: f64, bytes: usize, operations: usize) {
    println!(r#"{{"name": "{name}", "seconds": {seconds:e}, "bytes": {bytes}, "operations": {operations}}}"#);
}

/// Splitmix64, as values in -1..1.
fn values(seed: u64, count: usize) -> impl Iterator<Item = f32> {
    let mut state = seed;
    (0..count).map(move |_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    })
}

fn buffer<G: Gpu>(device: &CudaBackend<G>, seed: u64, count: usize) -> <CudaBackend<G> as Backend>::Buf {
    // A period that divides no power of two, so that columns differ.
    let some: Vec<f32> = values(seed, count.min(1_000_003)).collect();
    let all: Vec<f32> = some.iter().copied().cycle().take(count).collect();
    device.vector(&all).unwrap()
}

/// How a matrix is stored.
#[derive(Clone, Copy)]
enum Stored {
    Bf16,
    Q4_0,
    /// With a scale for each row.
    E4M3,
}

impl Stored {
    /// A matrix of `elements` elements.
    fn bytes(self, elements: usize) -> Vec<u8> {
        let some = values(1, elements.min(1_000_003));
        match self {
            Self::Bf16 => {
                let some: Vec<u8> = some.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect();
                some.iter().copied().cycle().take(2 * elements).collect()
            }
            // Codes that are numbers below two.
            Self::E4M3 => {
                let codes: Vec<u8> = some.map(|value| (value * 1e4) as i32 as u8 & 0xbf).collect();
                codes.iter().copied().cycle().take(elements).collect()
            }
            // Blocks of 32: an f16 scale (0x2c66 is 0.07) and 16 bytes of codes, which may be any.
            Self::Q4_0 => {
                let codes: Vec<u8> = some.map(|value| (value * 1e4) as i32 as u8).collect();
                let mut bytes: Vec<u8> = codes.iter().copied().cycle().take(elements / 32 * 18).collect();
                bytes.chunks_mut(18).for_each(|block| block[..2].copy_from_slice(&[0x66, 0x2c]));
                bytes
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Q4_0 => "q4_0",
            Self::E4M3 => "fp8_e4m3",
        }
    }

    /// On a device; `None` where that has no products with it.
    fn matrix<G: Gpu>(
        self,
        device: &CudaBackend<G>,
        (rows, cols): (usize, usize),
        bytes: &[u8],
    ) -> Option<CudaMatrix<G>> {
        let of = |dtype: WeightType| Some(device.matrix(&[WeightView { dtype, rows, cols, bytes }]).unwrap());
        match self {
            Self::Bf16 => of(DType::BF16.into()),
            Self::Q4_0 => of(BlockType::Q4_0.into()),
            Self::E4M3 => {
                let scales = vec![0.01; rows];
                device.scaled_matrix(&[ScaledRowsView { rows, cols, codes: bytes, scales: &scales }]).unwrap()
            }
        }
    }
}

/// `rows` times a matrix: few rows are a decode step's, many a prefill's.
fn linear<G: Timed>(device: &mut CudaBackend<G>, sizes: Sizes, rows: usize, stored: Stored) {
    let (inputs, outputs) = (sizes.hidden, 2 * sizes.intermediate);
    let bytes = stored.bytes(outputs * inputs);
    let Some(matrix) = stored.matrix(device, (outputs, inputs), &bytes) else { return };
    let x = buffer(device, 2, rows * inputs);
    let mut out = device.buffer(rows * outputs).unwrap();
    let work = |device: &mut CudaBackend<G>| device.linear(&mut out, &x, &matrix, None, rows).unwrap();
    let seconds = median(device, work, SWEEP.min(sizes.copy));
    let name = format!("linear_{}_{rows}_rows", stored.name());
    report(&name, seconds, bytes.len(), 2 * rows * inputs * outputs);
}

/// `seqs` sequences of `context` tokens, of which the last `queries` are new.
fn attention<G: Timed>(
    device: &mut CudaBackend<G>,
    sizes: Sizes,
    kv: KvType,
    seqs: usize,
    (context, queries): (usize, usize),
) {
    const BLOCK: usize = 16;
    let Sizes { heads, kv_heads, head_dim, .. } = sizes;
    let per_seq = context.div_ceil(BLOCK);
    let shape =
        KvShape { layers: 1, blocks: seqs * per_seq, block_size: BLOCK, kv_heads, head_dim, dtype: kv };
    let mut cache = device.kv_cache(shape).unwrap();
    let mut step = device.step_buffers(seqs * queries, seqs, seqs * per_seq).unwrap();
    let width = (heads + 2 * kv_heads) * head_dim;
    let tokens = seqs * queries;
    let angles = vec![1.0; tokens * head_dim / 2];
    let zeros = vec![0.0; tokens * head_dim / 2];
    // Blocks of different sequences lie between each other.
    let block = |seq: usize, index: usize| (index * seqs + seq) as u32;
    let tables: Vec<u32> =
        (0..seqs).flat_map(|seq| (0..per_seq).map(move |index| block(seq, index))).collect();
    let offsets: Vec<u32> = (0..=seqs).map(|seq| (seq * per_seq) as u32).collect();
    let mut filled = 0;
    while filled < context {
        let now = queries.min(context - filled);
        let positions: Vec<u32> = (0..seqs).flat_map(|_| (filled..filled + now).map(|p| p as u32)).collect();
        let slot = |seq, p: usize| block(seq, p / BLOCK) * BLOCK as u32 + (p % BLOCK) as u32;
        let slots: Vec<u32> =
            (0..seqs).flat_map(|seq| (filled..filled + now).map(move |p| slot(seq, p))).collect();
        filled += now;
        let inputs = StepInputs {
            ids: &vec![0; seqs * now],
            positions: &positions,
            slots: &slots,
            cu_q: &(0..=seqs).map(|seq| (seq * now) as u32).collect::<Vec<_>>(),
            kv_len: &vec![filled as u32; seqs],
            block_tables: &tables,
            block_offsets: &offsets,
            rope: &[(&angles[..seqs * now * head_dim / 2], &zeros[..seqs * now * head_dim / 2])],
            adapters: &vec![NO_ADAPTER; seqs],
        };
        device.upload(&mut step, &inputs).unwrap();
        let mut qkv = buffer(device, 3, seqs * now * width);
        device.rope_and_store(&mut qkv, &mut cache, &step, 0, heads, 0).unwrap();
        // A decode's context is filled with the first token's keys and values: the time does not depend on them.
        if queries == 1 && filled == 1 {
            filled = context - 1;
        }
    }
    let qkv = buffer(device, 4, tokens * width);
    let mut out = device.buffer(tokens * heads * head_dim).unwrap();
    let params = AttentionParams { heads, scale: (head_dim as f32).powf(-0.5), softcap: None, window: None };
    let work =
        |device: &mut CudaBackend<G>| device.attention(&mut out, &qkv, &cache, &step, 0, &params).unwrap();
    let seconds = median(device, work, SWEEP.min(sizes.copy));
    let bytes = seqs * context * 2 * kv_heads * (head_dim * kv.size() + kv.scale_size());
    // Causal: query `i` of the last `queries` sees all keys up to its own.
    let pairs = seqs * (queries * context - queries * (queries - 1) / 2);
    let name = if queries == 1 { "attention_decode" } else { "attention_prefill" };
    let name = if kv.size() == 1 { format!("{name}_{}", kv.name()) } else { name.to_owned() };
    report(&name, seconds, bytes, 4 * pairs * heads * head_dim);
}

fn ops<G: Timed>(device: &mut CudaBackend<G>, sizes: Sizes) {
    for rows in [1, 8, 64] {
        linear(device, sizes, rows, Stored::Bf16);
    }
    for rows in [1, 8] {
        linear(device, sizes, rows, Stored::Q4_0);
        linear(device, sizes, rows, Stored::E4M3);
    }
    for stored in [Stored::Bf16, Stored::E4M3] {
        linear(device, sizes, sizes.prefill, stored);
    }
    for kv in [DType::F16.into(), SmallFloat::E4M3.into()] {
        attention(device, sizes, kv, sizes.decode_seqs, (sizes.decode_context, 1));
        attention(device, sizes, kv, 1, (sizes.prefill, sizes.prefill));
    }
}

/// Ceilings by our own means: a copy within the device, and a graph of next to nothing.
fn ceilings(device: &mut CudaBackend<NvidiaGpu>, sizes: Sizes) {
    let gpu = device.gpu();
    let (to, from) = (gpu.allocate("to", sizes.copy).unwrap(), gpu.allocate("from", sizes.copy).unwrap());
    gpu.fill(&from, 0, sizes.copy, 1).unwrap();
    let work = |device: &mut CudaBackend<NvidiaGpu>| device.gpu().copy(&to, &from, sizes.copy).unwrap();
    let seconds = median(device, work, 1 << 10);
    report("copy", seconds, 2 * sizes.copy, 0);
    let small = device.gpu().allocate("small", 64).unwrap();
    device.gpu().begin_capture().unwrap();
    device.gpu().fill(&small, 0, 64, 0).unwrap();
    let graph = device.gpu().end_capture().unwrap();
    const LAUNCHES: usize = 1000;
    let work = |device: &mut CudaBackend<NvidiaGpu>| {
        for _ in 0..LAUNCHES {
            assert!(device.gpu().replay(&graph).unwrap());
        }
    };
    let seconds = median(device, work, 1 << 10);
    report("graph_launch", seconds / LAUNCHES as f64, 0, 0);
}

fn main() {
    if std::env::args().any(|argument| argument == "--tiny") {
        let gpu = Emulator::new().unwrap().with_capability((8, 9));
        ops(&mut CudaBackend::new(gpu), TINY);
        return;
    }
    match Device::choose(DeviceChoice::Auto).unwrap() {
        Device::Cpu { reason } => println!("no GPU: {}", reason.map_or_else(String::new, |r| r.to_string())),
        Device::Cuda(found) => {
            let settings = CompileSettings::of_environment();
            let mut device = CudaBackend::new(NvidiaGpu::new(&found, &settings).unwrap());
            ceilings(&mut device, REAL);
            ops(&mut device, REAL);
        }
    }
}
