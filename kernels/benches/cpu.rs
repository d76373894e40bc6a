//! How near the CPU device comes to what the machine can do, at the shapes of Qwen2.5-0.5B.
//!
//! `cargo bench -p weirgate-kernels --profile release --bench cpu -- [threads] [filter]`
//!
//! Both ceilings are measured in the same run: reading memory, and fused multiply-adds from registers.
//! Every time is the least of several, as a machine is seldom quiet. `filter` picks the matrices by name; `memory`
//! measures nothing but how fast memory is read for a second, to be set beside what decoding reaches in the next one.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use weirgate_kernels::cpu::{CpuBackend, CpuBuf, Isa, KvCache, Matrix, Step};
use weirgate_kernels::{
    Activation, AttentionParams, Backend, BlockType, DType, KvShape, NO_ADAPTER, StepInputs, WeightType,
    WeightView,
};

const HIDDEN: usize = 896;
const INTERMEDIATE: usize = 4864;
const VOCAB: usize = 151_936;
const HEADS: usize = 14;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 64;
const QKV: usize = (HEADS + 2 * KV_HEADS) * HEAD_DIM;
const BLOCK: usize = 16;
/// Larger than any last-level cache we expect.
const COLD_BYTES: usize = 256 << 20;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let threads = args.first().and_then(|arg| arg.parse().ok());
    let filter = args.get(1).map_or("", String::as_str);
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let mut device = CpuBackend::new(threads);
    if filter == "memory" {
        println!("memory, sustained read: {:.1} GB/s", ceiling::read_bandwidth(&device, threads, mean));
        return;
    }
    let isa = device.isa();
    println!("{isa:?}, {threads} threads");
    let bandwidth = ceiling::read_bandwidth(&device, threads, |work| least(work));
    let flops = ceiling::multiply_adds(threads, isa);
    println!("memory, read: {bandwidth:.1} GB/s");
    println!("multiply-adds from registers: {flops:.0} GFLOP/s");
    let int8 = ceiling::int8(threads, isa);
    println!("int8 dot products from registers: {int8:.0} GOP/s");
    let [scales, minima] = [false, true].map(|minima| ceiling::scaled_int8(threads, isa, minima));
    println!("the same from the first-level cache, scaled by groups of 32: {scales:.0} GOP/s");
    println!("the same with minima: {minima:.0} GOP/s\n");
    println!("{:<34}{:>6}{:>12}{:>12}{:>9}", "op", "rows", "time", "rate", "ceiling");
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        linear(&mut device, (dtype.into(), &format!("{dtype:?}")), filter, (bandwidth, flops));
    }
    for blocks in BlockType::ALL {
        linear(&mut device, (blocks.into(), &format!("{blocks:?}")), filter, (bandwidth, int8));
    }
    if filter.is_empty() {
        attention(&mut device, flops);
        small_ops(&mut device);
    }
}

/// The mean time of `work(i)` over about a second.
fn mean(work: &mut dyn FnMut(usize)) -> Duration {
    let started = Instant::now();
    let mut count = 0;
    while started.elapsed() < Duration::from_millis(1000) {
        work(count as usize);
        count += 1;
    }
    started.elapsed() / count
}

/// The least time of `work(i)` over about a second.
fn least(mut work: impl FnMut(usize)) -> Duration {
    let started = Instant::now();
    let mut best = Duration::MAX;
    let mut i = 0;
    while i < 3 || started.elapsed() < Duration::from_millis(1000) {
        let start = Instant::now();
        work(i);
        best = best.min(start.elapsed());
        i += 1;
    }
    best
}

fn row(op: &str, rows: usize, time: Duration, rate: f64, unit: &str, ceiling: f64) {
    let micros = time.as_secs_f64() * 1e6;
    print!("{op:<34}{rows:>6}{micros:>9.1} µs");
    if rate > 0.0 {
        print!("{rate:>7.1} {unit}{:>8.0}%", 100.0 * rate / ceiling);
    }
    println!();
}

fn noise(len: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Enough copies of a matrix that none is still in the cache when its turn comes again.
fn matrices(device: &CpuBackend, dtype: WeightType, rows: usize, cols: usize) -> Vec<Matrix> {
    let bytes = vec![0x3c; stored_bytes(dtype, rows * cols)];
    let copies = (COLD_BYTES / bytes.len()).clamp(1, 64);
    (0..copies).map(|_| device.matrix(&[WeightView { dtype, rows, cols, bytes: &bytes }]).unwrap()).collect()
}

fn stored_bytes(dtype: WeightType, elements: usize) -> usize {
    match dtype {
        WeightType::Float(dtype) => elements * dtype.size(),
        WeightType::Blocks(blocks) => elements / blocks.elements() * blocks.bytes(),
    }
}

fn linear(
    device: &mut CpuBackend,
    (dtype, type_name): (WeightType, &str),
    filter: &str,
    (bandwidth, operations): (f64, f64),
) {
    let shapes = [
        ("qkv", QKV, HIDDEN),
        ("output", HIDDEN, HEADS * HEAD_DIM),
        ("gate_up", 2 * INTERMEDIATE, HIDDEN),
        ("down", HIDDEN, INTERMEDIATE),
        ("head", VOCAB, HIDDEN),
    ];
    for (name, outputs, cols) in shapes {
        // The next multiple of the block: the K types' are 256 columns, and 896 is three and a half of them.
        let cols = match dtype {
            WeightType::Float(_) => cols,
            WeightType::Blocks(blocks) => cols.next_multiple_of(blocks.elements()),
        };
        let label = format!("{name} {outputs}x{cols} {type_name}");
        if !label.contains(filter) {
            continue;
        }
        let w = matrices(device, dtype, outputs, cols);
        for rows in [1, 4, 8, 12, 16, 24, 128, 512] {
            if name == "head" && rows > 16 {
                continue;
            }
            let x = device.vector(&noise(rows * cols)).unwrap();
            let mut out = device.buffer(rows * outputs).unwrap();
            let time = least(|i| device.linear(&mut out, &x, &w[i % w.len()], None, rows).unwrap());
            let seconds = time.as_secs_f64() * 1e9;
            if rows <= 4 {
                let rate = stored_bytes(dtype, outputs * cols) as f64 / seconds;
                row(&label, rows, time, rate, "GB/s", bandwidth);
            } else {
                row(&label, rows, time, (2 * rows * outputs * cols) as f64 / seconds, "GOP/s", operations);
            }
        }
    }
}

/// Decoding for many sequences, and prompts.
fn attention(device: &mut CpuBackend, flops: f64) {
    for (name, seqs, queries, context) in
        [("decode", 1, 1, 2048), ("decode", 32, 1, 1024), ("prompt", 1, 512, 512), ("prompt", 1, 512, 4096)]
    {
        let (cache, step) = sequences(device, seqs, queries, context);
        let rows = seqs * queries;
        let qkv = device.vector(&noise(rows * QKV)).unwrap();
        let mut out: CpuBuf = device.buffer(rows * HEADS * HEAD_DIM).unwrap();
        let params = AttentionParams { heads: HEADS, scale: 0.125, softcap: None, window: None };
        let time = least(|_| device.attention(&mut out, &qkv, &cache, &step, 0, &params).unwrap());
        let seen = (context - queries) * queries + queries * (queries + 1) / 2;
        let work = (4 * seqs * seen * HEADS * HEAD_DIM) as f64 / (time.as_secs_f64() * 1e9);
        row(&format!("attention, {name} at {context}"), rows, time, work, "GF/s", flops);
    }
}

fn sequences(device: &mut CpuBackend, seqs: usize, queries: usize, context: usize) -> (KvCache, Step) {
    let per_seq = context.div_ceil(BLOCK);
    let shape = KvShape {
        layers: 1,
        blocks: seqs * per_seq,
        block_size: BLOCK,
        kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        dtype: DType::BF16.into(),
    };
    let tokens = seqs * queries;
    let mut step = device.step_buffers(tokens, seqs, shape.blocks).unwrap();
    let positions: Vec<u32> = (0..tokens).map(|t| (context - queries + t % queries) as u32).collect();
    let inputs = StepInputs {
        ids: &vec![0; tokens],
        positions: &positions,
        slots: &(0..tokens as u32).collect::<Vec<_>>(),
        cu_q: &(0..=seqs).map(|s| (s * queries) as u32).collect::<Vec<_>>(),
        kv_len: &vec![context as u32; seqs],
        block_tables: &(0..shape.blocks as u32).collect::<Vec<_>>(),
        block_offsets: &(0..=seqs).map(|s| (s * per_seq) as u32).collect::<Vec<_>>(),
        rope: &[],
        adapters: &vec![NO_ADAPTER; seqs],
    };
    device.upload(&mut step, &inputs).unwrap();
    (device.kv_cache(shape).unwrap(), step)
}

fn small_ops(device: &mut CpuBackend) {
    for rows in [1, 512] {
        let gate_up = device.vector(&noise(rows * 2 * INTERMEDIATE)).unwrap();
        let mut out = device.buffer(rows * INTERMEDIATE).unwrap();
        for act in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
            let time = least(|_| device.gated(&mut out, &gate_up, act, rows, INTERMEDIATE).unwrap());
            row(&format!("gated {act:?}"), rows, time, 0.0, "", 0.0);
        }
        let x = device.vector(&noise(rows * HIDDEN)).unwrap();
        let weight = device.vector(&noise(HIDDEN)).unwrap();
        let mut out = device.buffer(rows * HIDDEN).unwrap();
        let time = least(|_| device.rms_norm(&mut out, &x, &weight, 1e-6, rows).unwrap());
        row("rms_norm", rows, time, 0.0, "", 0.0);
        let time = least(|_| device.add(&mut out, &x, rows * HIDDEN).unwrap());
        row("add", rows, time, 0.0, "", 0.0);
    }
    let logits = device.vector(&noise(VOCAB)).unwrap();
    let mut scores = Vec::new();
    let time = least(|_| {
        scores.clear();
        device.score(&logits, VOCAB, &[1]).unwrap();
        device.collect(&mut Vec::new(), &mut scores).unwrap();
    });
    row("score", 1, time, 0.0, "", 0.0);
}

/// What the machine can do.
mod ceiling {
    use super::*;

    /// `work` on all threads at once; the sum of what each reached at its best.
    fn together(threads: usize, work: impl Fn(usize) -> f64 + Sync) -> f64 {
        let work = &work;
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).sum()
        })
    }

    /// GB/s of all threads together that read a large array, in one stream or in eight each, whichever is better; `timed`
    /// gives the time of a pass over all of it, as a step reads all weights.
    pub fn read_bandwidth(
        device: &CpuBackend,
        threads: usize,
        timed: fn(&mut dyn FnMut(usize)) -> Duration,
    ) -> f64 {
        // In huge pages, as weights are.
        let data = device.vector(&vec![1.0; COLD_BYTES / 4]).unwrap();
        let share = data.len() / threads;
        let pass = |read: fn(&[f32]) -> u32| {
            together(threads, |thread| f64::from(black_box(read(&data[thread * share..][..share]))));
        };
        let time = timed(&mut |_| pass(read::<1>)).min(timed(&mut |_| pass(read::<8>)));
        COLD_BYTES as f64 / (time.as_secs_f64() * 1e9)
    }

    fn read<const STREAMS: usize>(part: &[f32]) -> u32 {
        let stream = part.len() / STREAMS;
        let streams: [_; STREAMS] =
            std::array::from_fn(|s| part[s * stream..(s + 1) * stream].as_chunks::<64>().0);
        let mut sums = [[0; 64]; STREAMS];
        for i in 0..streams[0].len() {
            for (sums, stream) in sums.iter_mut().zip(&streams) {
                for (sum, value) in sums.iter_mut().zip(&stream[i]) {
                    *sum |= value.to_bits();
                }
            }
        }
        sums.iter().flatten().fold(0, |a, b| a | b)
    }

    /// GFLOP/s of all threads together with the widest fused multiply-add of `isa`; 0 where there is none.
    pub fn multiply_adds(threads: usize, isa: Isa) -> f64 {
        const ROUNDS: usize = 100_000;
        let flops_per_round = match isa {
            Isa::Avx512 | Isa::Avx512Vnni => 12 * 16 * 2,
            Isa::Avx2 | Isa::AvxVnni => 12 * 8 * 2,
            _ => return 0.0,
        };
        together(threads, |_| {
            let time = least(|_| chains(isa, ROUNDS));
            (ROUNDS * flops_per_round) as f64 / (time.as_secs_f64() * 1e9)
        })
    }

    /// GOP/s of all threads together with the widest int8 dot product of `isa`; 0 where there is none.
    pub fn int8(threads: usize, isa: Isa) -> f64 {
        const ROUNDS: usize = 100_000;
        let bytes = match isa {
            Isa::Avx512Vnni => 64,
            Isa::AvxVnni => 32,
            _ => return 0.0,
        };
        together(threads, |_| {
            let time = least(|_| dots(isa, ROUNDS));
            (ROUNDS * 12 * bytes * 2) as f64 / (time.as_secs_f64() * 1e9)
        })
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn dots(_isa: Isa, _rounds: usize) {}

    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code)]
    fn dots(isa: Isa, rounds: usize) {
        match isa {
            // SAFETY: the device found these instructions.
            Isa::Avx512Vnni => unsafe { wide_dots(rounds) },
            // SAFETY: as above.
            Isa::AvxVnni => unsafe { narrow_dots(rounds) },
            _ => {}
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn wide_dots(rounds: usize) {
        use std::arch::x86_64::*;
        let (a, b) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(5)));
        let mut acc = [a; 12];
        for _ in 0..rounds {
            for acc in &mut acc {
                *acc = _mm512_dpbusd_epi32(*acc, a, b);
            }
        }
        black_box(acc);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,avxvnni")]
    fn narrow_dots(rounds: usize) {
        use std::arch::x86_64::*;
        let (a, b) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi8(black_box(5)));
        let mut acc = [a; 12];
        for _ in 0..rounds {
            for acc in &mut acc {
                *acc = _mm256_dpbusd_avx_epi32(*acc, a, b);
            }
        }
        black_box(acc);
    }

    /// As [`int8`], with operands in the first-level cache: tiles of six rows and two panels, whose sums over 32 columns
    /// are converted, multiplied with a scale and added up; with `minima`, another multiple is taken away. What a product
    /// of many rows cannot exceed; 0 where there is no AVX-512.
    pub fn scaled_int8(threads: usize, isa: Isa, minima: bool) -> f64 {
        const ROUNDS: usize = 100;
        if isa != Isa::Avx512Vnni {
            return 0.0;
        }
        together(threads, |_| {
            let operands = Operands {
                codes: [[[3; 64]; PANELS]; 64],
                scales: [[[0.5; 16]; PANELS]; 8],
                x_codes: [[2; ROWS]; 64],
                x_scales: [[0.5; ROWS]; 8],
            };
            let time = least(|_| tiles(black_box(&operands), minima, ROUNDS));
            (ROUNDS * ROWS * PANELS * 16 * 256 * 2) as f64 / (time.as_secs_f64() * 1e9)
        })
    }

    const ROWS: usize = 6;
    const PANELS: usize = 2;

    /// Of a tile, 256 columns.
    #[repr(align(64))]
    struct Operands {
        codes: [[[u8; 64]; PANELS]; 64],
        scales: [[[f32; 16]; PANELS]; 8],
        x_codes: [[i32; ROWS]; 64],
        x_scales: [[f32; ROWS]; 8],
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn tiles(_operands: &Operands, _minima: bool, _rounds: usize) {}

    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code)]
    fn tiles(operands: &Operands, minima: bool, rounds: usize) {
        for _ in 0..rounds {
            match minima {
                // SAFETY: only called where the device found these instructions.
                false => unsafe { tile::<false>(black_box(operands)) },
                // SAFETY: as above.
                true => unsafe { tile::<true>(black_box(operands)) },
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vnni,fma")]
    #[allow(unsafe_code)]
    fn tile<const MINIMA: bool>(operands: &Operands) {
        use std::arch::x86_64::*;
        // SAFETY: an array of 64 bytes is read, at any alignment.
        let (bytes, floats) = (
            |from: &[u8; 64]| unsafe { _mm512_loadu_si512(from.as_ptr().cast()) },
            |from: &[f32; 16]| unsafe { _mm512_loadu_ps(from.as_ptr()) },
        );
        let mut sums = [[_mm512_setzero_ps(); PANELS]; ROWS];
        for group in 0..8 {
            let mut products = [[_mm512_setzero_si512(); PANELS]; ROWS];
            for quad in 8 * group..8 * group + 8 {
                let codes = operands.codes[quad].each_ref().map(bytes);
                for (products, &x) in products.iter_mut().zip(&operands.x_codes[quad]) {
                    for (product, codes) in products.iter_mut().zip(codes) {
                        *product = _mm512_dpbusd_epi32(*product, codes, _mm512_set1_epi32(x));
                    }
                }
            }
            let scales = operands.scales[group].each_ref().map(floats);
            for ((sums, products), &x) in sums.iter_mut().zip(products).zip(&operands.x_scales[group]) {
                for ((sum, product), scale) in sums.iter_mut().zip(products).zip(scales) {
                    let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(product), scale);
                    *sum = _mm512_fmadd_ps(scaled, _mm512_set1_ps(x), *sum);
                    if MINIMA {
                        *sum = _mm512_fnmadd_ps(scale, _mm512_set1_ps(x), *sum);
                    }
                }
            }
        }
        black_box(sums);
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn chains(_isa: Isa, _rounds: usize) {}

    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code)]
    fn chains(isa: Isa, rounds: usize) {
        match isa {
            // SAFETY: the device found these instructions.
            Isa::Avx512 | Isa::Avx512Vnni => unsafe { wide(rounds) },
            // SAFETY: as above.
            Isa::Avx2 | Isa::AvxVnni => unsafe { narrow(rounds) },
            _ => {}
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn wide(rounds: usize) {
        use std::arch::x86_64::*;
        let (a, b) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(0.25)));
        let mut acc = [a; 12];
        for _ in 0..rounds {
            for acc in &mut acc {
                *acc = _mm512_fmadd_ps(*acc, a, b);
            }
        }
        black_box(acc);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn narrow(rounds: usize) {
        use std::arch::x86_64::*;
        let (a, b) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(0.25)));
        let mut acc = [a; 12];
        for _ in 0..rounds {
            for acc in &mut acc {
                *acc = _mm256_fmadd_ps(*acc, a, b);
            }
        }
        black_box(acc);
    }
}
