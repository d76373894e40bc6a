//! Rotation, cache and attention together, over paged sequences that are fed in pieces.

use proptest::prelude::*;
use weirgate_kernels::cpu::{CpuBackend, Isa, KvCache, Step};
use weirgate_kernels::{AttentionParams, Backend, DType, KvShape, StepInputs};

use crate::common::{DTYPES, Rng, assert_close, bits, buffer, devices, rounded, values};

/// Heads, cache and settings of one attention layer, and the sequences' `qkv` rows.
#[derive(Clone, Debug)]
struct Case {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    block_size: usize,
    dtype: DType,
    params: AttentionParams,
    /// Tokens of each sequence.
    lens: Vec<usize>,
    /// Zero leaves keys and queries as they are.
    rotary_dim: usize,
    seed: u64,
}

/// Tokens of each sequence in one step.
type Chunk = Vec<usize>;

impl Case {
    fn new(heads: usize, kv_heads: usize, head_dim: usize, block_size: usize, lens: &[usize]) -> Self {
        let params =
            AttentionParams { heads, scale: 2.0 / (head_dim as f32).sqrt(), softcap: None, window: None };
        let lens = lens.to_vec();
        Self {
            heads,
            kv_heads,
            head_dim,
            block_size,
            dtype: DType::F32,
            params,
            lens,
            rotary_dim: 0,
            seed: 1,
        }
    }

    fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    fn out_width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn blocks_of(&self, seq: usize) -> usize {
        self.lens[seq].div_ceil(self.block_size)
    }

    /// `[len, width]` of sequence `seq`. Queries and keys are long enough for a softmax with clear winners.
    fn qkv(&self, seq: usize) -> Vec<f32> {
        let mut values = Rng::new(self.seed ^ (seq as u64 + 77)).values(self.lens[seq] * self.width());
        for value in &mut values {
            *value *= 2.0;
        }
        values
    }

    fn shape(&self, layers: usize) -> KvShape {
        let blocks = (0..self.lens.len()).map(|s| self.blocks_of(s)).sum::<usize>() + 3;
        KvShape {
            layers,
            blocks,
            block_size: self.block_size,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            dtype: self.dtype,
        }
    }

    /// Feeds the sequences chunk by chunk; `[len, out_width]` per sequence.
    fn run(&self, device: &mut CpuBackend, chunks: &[Chunk]) -> Vec<Vec<f32>> {
        let mut run = Run::new(self, device);
        for chunk in chunks {
            run.step(device, chunk);
        }
        run.out
    }

    /// The whole of every sequence in one step.
    fn whole(&self) -> Vec<Chunk> {
        vec![self.lens.clone()]
    }

    /// One token of every unfinished sequence per step.
    fn token_by_token(&self) -> Vec<Chunk> {
        let longest = self.lens.iter().copied().max().unwrap_or(0);
        (0..longest).map(|t| self.lens.iter().map(|&len| usize::from(t < len)).collect()).collect()
    }

    fn random_chunks(&self, rng: &mut Rng) -> Vec<Chunk> {
        let mut left = self.lens.clone();
        let mut chunks = Vec::new();
        while left.iter().any(|&n| n > 0) {
            let chunk: Chunk = left.iter().map(|&n| rng.below(n.min(60) + 1)).collect();
            left.iter_mut().zip(&chunk).for_each(|(left, taken)| *left -= taken);
            chunks.push(chunk);
        }
        chunks.retain(|chunk| chunk.iter().any(|&n| n > 0));
        chunks
    }

    /// Plain f64 attention over whole sequences, without rotation.
    fn reference(&self) -> Vec<Vec<f64>> {
        (0..self.lens.len()).map(|seq| self.reference_seq(seq)).collect()
    }

    fn reference_seq(&self, seq: usize) -> Vec<f64> {
        let (qkv, d, group) = (self.qkv(seq), self.head_dim, self.heads / self.kv_heads);
        let key = |t: usize, h: usize| &qkv[t * self.width() + (self.heads + h) * d..][..d];
        let value = |t: usize, h: usize| &qkv[t * self.width() + (self.heads + self.kv_heads + h) * d..][..d];
        let stored = |v: f32| f64::from(rounded(self.dtype, v));
        let mut out = Vec::new();
        for i in 0..self.lens[seq] {
            let first = self.params.window.map_or(0, |w| (i + 1).saturating_sub(w as usize));
            for h in 0..self.heads {
                let q = &qkv[i * self.width() + h * d..][..d];
                let score = |j: usize| {
                    let dot: f64 =
                        q.iter().zip(key(j, h / group)).map(|(&q, &k)| f64::from(q) * stored(k)).sum();
                    let s = dot * f64::from(self.params.scale);
                    self.params.softcap.map_or(s, |cap| f64::from(cap) * (s / f64::from(cap)).tanh())
                };
                let scores: Vec<f64> = (first..=i).map(score).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                out.extend((0..d).map(|dim| {
                    let weighted = scores
                        .iter()
                        .enumerate()
                        .map(|(n, s)| (s - max).exp() * stored(value(first + n, h / group)[dim]));
                    weighted.sum::<f64>() / sum
                }));
            }
        }
        out
    }
}

/// Sequences on their way through a device.
struct Run<'a> {
    case: &'a Case,
    cache: KvCache,
    step: Step,
    tables: Vec<Vec<u32>>,
    computed: Vec<usize>,
    out: Vec<Vec<f32>>,
}

const LAYERS: usize = 2;
const LAYER: usize = 1;

impl<'a> Run<'a> {
    /// Block tables in random order over a cache in which someone else left infinities.
    fn new(case: &'a Case, device: &mut CpuBackend) -> Self {
        let shape = case.shape(LAYERS);
        let mut cache = device.kv_cache(shape).unwrap();
        let slots = shape.blocks * shape.block_size;
        let mut step = device.step_buffers(slots, case.lens.len() + 1, shape.blocks).unwrap();
        fill_with_infinities(case, device, &mut cache, &mut step);
        let mut free: Vec<u32> = (0..shape.blocks as u32).collect();
        Rng::new(case.seed + 5).shuffle(&mut free);
        let tables = (0..case.lens.len()).map(|s| free.split_off(free.len() - case.blocks_of(s))).collect();
        let seqs = case.lens.len();
        Self { case, cache, step, tables, computed: vec![0; seqs], out: vec![Vec::new(); seqs] }
    }

    fn step(&mut self, device: &mut CpuBackend, chunk: &[usize]) {
        let case = self.case;
        let mut qkv = Vec::new();
        let mut inputs = Inputs::default();
        for (seq, &n) in chunk.iter().enumerate().filter(|&(_, &n)| n > 0) {
            let from = self.computed[seq];
            qkv.extend_from_slice(&case.qkv(seq)[from * case.width()..][..n * case.width()]);
            inputs.push(&self.tables[seq], case.block_size, from, n);
            self.computed[seq] += n;
        }
        inputs.rotate(case.rotary_dim);
        inputs.upload(device, &mut self.step);
        let tokens = inputs.positions.len();
        let mut qkv = buffer(device, &qkv);
        device.rope_and_store(&mut qkv, &mut self.cache, &self.step, LAYER, case.heads, 0).unwrap();
        let mut out = device.buffer(tokens * case.out_width()).unwrap();
        device.attention(&mut out, &qkv, &self.cache, &self.step, LAYER, &case.params).unwrap();
        let out = values(device, &out, tokens * case.out_width());
        let mut rest = out.as_slice();
        for (seq, &n) in chunk.iter().enumerate() {
            let (own, others) = rest.split_at(n * case.out_width());
            self.out[seq].extend_from_slice(own);
            rest = others;
        }
    }
}

fn fill_with_infinities(case: &Case, device: &mut CpuBackend, cache: &mut KvCache, step: &mut Step) {
    let shape = case.shape(LAYERS);
    let table: Vec<u32> = (0..shape.blocks as u32).collect();
    let slots = shape.blocks * shape.block_size;
    let mut inputs = Inputs::default();
    inputs.push(&table, shape.block_size, 0, slots);
    inputs.rotate(0);
    inputs.upload(device, step);
    let mut qkv = buffer(device, &vec![f32::INFINITY; slots * case.width()]);
    for layer in 0..LAYERS {
        device.rope_and_store(&mut qkv, cache, step, layer, case.heads, 0).unwrap();
    }
}

#[derive(Default)]
struct Inputs {
    positions: Vec<u32>,
    slots: Vec<u32>,
    cu_q: Vec<u32>,
    kv_len: Vec<u32>,
    tables: Vec<u32>,
    offsets: Vec<u32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Inputs {
    /// `n` tokens from position `from` on.
    fn push(&mut self, table: &[u32], block_size: usize, from: usize, n: usize) {
        if self.cu_q.is_empty() {
            self.cu_q.push(0);
            self.offsets.push(0);
        }
        for position in from..from + n {
            self.positions.push(position as u32);
            self.slots
                .push(table[position / block_size] * block_size as u32 + (position % block_size) as u32);
        }
        self.cu_q.push(self.positions.len() as u32);
        self.kv_len.push((from + n) as u32);
        self.tables.extend_from_slice(table);
        self.offsets.push(self.tables.len() as u32);
    }

    /// Angles as different as the positions and dimensions.
    fn rotate(&mut self, rotary_dim: usize) {
        for &position in &self.positions {
            for i in 0..rotary_dim / 2 {
                let angle = f64::from(position) * 0.3_f64.powi(i as i32);
                self.cos.push(angle.cos() as f32);
                self.sin.push(angle.sin() as f32);
            }
        }
    }

    fn upload(&self, device: &mut CpuBackend, step: &mut Step) {
        let ids = vec![0; self.positions.len()];
        let inputs = StepInputs {
            ids: &ids,
            positions: &self.positions,
            slots: &self.slots,
            cu_q: &self.cu_q,
            kv_len: &self.kv_len,
            block_tables: &self.tables,
            block_offsets: &self.offsets,
            rope: &[(&self.cos, &self.sin)],
        };
        device.upload(step, &inputs).unwrap();
    }
}

/// The shapes of well-known models, then shapes nobody has.
fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new(14, 2, 64, 16, &[1, 150, 37]),
        Case::new(8, 2, 128, 32, &[70, 5]),
        Case::new(4, 4, 80, 16, &[97]),
        Case::new(3, 1, 256, 64, &[66]),
        Case::new(1, 1, 7, 5, &[40, 1, 1, 23]),
        Case::new(10, 2, 24, 24, &[80, 49]),
        Case::new(4, 2, 33, 1, &[30]),
        Case::new(150, 1, 8, 8, &[20]),
    ];
    for window in [1, 5, 16, 64, 90] {
        let mut case = Case::new(4, 2, 16, 16, &[200, 3]);
        case.params.window = Some(window);
        cases.push(case);
    }
    let mut capped = Case::new(6, 2, 48, 8, &[100]);
    capped.params.softcap = Some(1.5);
    capped.params.window = Some(33);
    cases.push(capped);
    cases
}

#[test]
fn matches_the_reference() {
    for case in cases() {
        let want: Vec<_> = DTYPES.map(|dtype| Case { dtype, ..case.clone() }.reference()).into();
        for mut device in devices(2) {
            for (dtype, want) in DTYPES.into_iter().zip(&want) {
                let case = Case { dtype, ..case.clone() };
                let got = case.run(&mut device, &case.whole());
                for (got, want) in got.iter().zip(want) {
                    assert_close(got, want, 1e-5, &format!("{:?} {case:?}", device.isa()));
                }
            }
        }
    }
}

/// In one piece, token by token, or anything between, alone or together, with any number of threads: the same bits.
#[test]
fn does_not_depend_on_the_chunks() {
    for case in cases() {
        for isa in Isa::available() {
            for dtype in DTYPES {
                let case = Case { dtype, rotary_dim: case.head_dim / 2 * 2, ..case.clone() };
                let want = case.run(&mut CpuBackend::with_isa(1, isa), &case.whole());
                let mut rng = Rng::new(3);
                for (threads, chunks) in [
                    (1, case.token_by_token()),
                    (2, case.whole()),
                    (3, case.random_chunks(&mut rng)),
                    (2, case.random_chunks(&mut rng)),
                ] {
                    let got = case.run(&mut CpuBackend::with_isa(threads, isa), &chunks);
                    for (got, want) in got.iter().zip(&want) {
                        assert_eq!(bits(got), bits(want), "{isa:?}, {threads} threads, {chunks:?}, {case:?}");
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_shape_any_chunks(
        kv_heads in 1..4usize,
        group in 1..9usize,
        head_dim in 1..70usize,
        block_size in 1..40usize,
        window in proptest::option::of(1..120u32),
        softcap in proptest::option::of(0.5..20.0f32),
        lens in proptest::collection::vec(1..130usize, 1..4),
        (dtype, seed) in (0..3usize, 0..1000u64),
    ) {
        let mut case = Case::new(kv_heads * group, kv_heads, head_dim, block_size, &lens);
        case.params.window = window;
        case.params.softcap = softcap;
        case.dtype = DTYPES[dtype];
        case.seed = seed;
        let want = case.reference();
        for mut device in devices(2) {
            let whole = case.run(&mut device, &case.whole());
            let chunked = case.run(&mut device, &case.random_chunks(&mut Rng::new(seed)));
            for ((whole, chunked), want) in whole.iter().zip(&chunked).zip(&want) {
                assert_close(whole, want, 1e-5, &format!("{:?} {case:?}", device.isa()));
                prop_assert_eq!(bits(whole), bits(chunked));
            }
        }
    }
}

/// Queries and keys are rotated, the rest of each head and the values are not; a lone token attends to its own value.
#[test]
fn rotates_and_stores() {
    for dtype in DTYPES {
        for mut device in devices(2) {
            let mut case = Case::new(3, 1, 22, 8, &[1]);
            case.rotary_dim = 10;
            case.dtype = dtype;
            let (d, half) = (case.head_dim, case.rotary_dim / 2);
            let before = case.qkv(0);
            let (cos, sin) = (vec![0.6_f32; half], [0.8, -0.8, 0.8, 0.8, -0.8].to_vec());
            let inputs = Inputs { cos, sin: sin.clone(), ..Inputs::default() };
            let mut inputs = inputs;
            inputs.push(&[2], 8, 0, 1);
            let mut cache = device.kv_cache(case.shape(1)).unwrap();
            let mut step = device.step_buffers(1, 1, 1).unwrap();
            inputs.upload(&mut device, &mut step);
            let mut qkv = buffer(&device, &before);
            device.rope_and_store(&mut qkv, &mut cache, &step, 0, 3, 0).unwrap();
            let mut want: Vec<f64> = before.iter().map(|&v| f64::from(v)).collect();
            for head in 0..4 {
                for i in 0..half {
                    let (a, b) = (f64::from(before[head * d + i]), f64::from(before[head * d + half + i]));
                    want[head * d + i] = 0.6 * a - f64::from(sin[i]) * b;
                    want[head * d + half + i] = 0.6 * b + f64::from(sin[i]) * a;
                }
            }
            assert_close(&values(&device, &qkv, before.len()), &want, 5e-7, "rotated");
            let mut out = device.buffer(3 * d).unwrap();
            device.attention(&mut out, &qkv, &cache, &step, 0, &case.params).unwrap();
            let stored: Vec<f32> = before[4 * d..].iter().map(|&v| rounded(dtype, v)).collect();
            assert_eq!(values(&device, &out, 3 * d), stored.repeat(3));
        }
    }
}

/// A copied block serves as well as the original, in every layer.
#[test]
fn copies_blocks() {
    for dtype in DTYPES {
        let mut case = Case::new(4, 2, 20, 4, &[12]);
        case.dtype = dtype;
        let mut device = CpuBackend::new(2);
        let want = case.run(&mut device, &case.whole());
        let mut run = Run::new(&case, &mut device);
        run.step(&mut device, &[11]);
        let used = run.tables[0].clone();
        let free = (0..case.shape(1).blocks as u32).find(|block| !used.contains(block)).unwrap();
        // The second pair overwrites the source of the first: copies happen in order.
        device.copy_blocks(&mut run.cache, &[(used[1], free), (used[0], used[1])]).unwrap();
        run.tables[0] = vec![used[1], free, used[2]];
        run.step(&mut device, &[1]);
        assert_eq!(bits(&run.out[0]), bits(&want[0]));
    }
}
