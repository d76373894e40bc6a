//! Rotation, cache and attention together, over paged sequences that are fed in pieces.

use weirgate_kernels::{AttentionParams, Backend, DType, KvShape, KvType, NO_ADAPTER, StepInputs};

use crate::common::{Rng, buffer, values};
use crate::stored::stored_head;

/// Heads, cache and settings of one attention layer, and the sequences' `qkv` rows.
#[derive(Clone, Debug)]
pub struct Case {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub block_size: usize,
    pub dtype: KvType,
    pub params: AttentionParams,
    /// Tokens of each sequence.
    pub lens: Vec<usize>,
    /// Zero leaves keys and queries as they are.
    pub rotary_dim: usize,
    pub seed: u64,
}

/// Tokens of each sequence in one step.
pub type Chunk = Vec<usize>;

impl Case {
    pub fn new(heads: usize, kv_heads: usize, head_dim: usize, block_size: usize, lens: &[usize]) -> Self {
        let params =
            AttentionParams { heads, scale: 2.0 / (head_dim as f32).sqrt(), softcap: None, window: None };
        let lens = lens.to_vec();
        Self {
            heads,
            kv_heads,
            head_dim,
            block_size,
            dtype: DType::F32.into(),
            params,
            lens,
            rotary_dim: 0,
            seed: 1,
        }
    }

    pub fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    pub fn out_width(&self) -> usize {
        self.heads * self.head_dim
    }

    pub fn blocks_of(&self, seq: usize) -> usize {
        self.lens[seq].div_ceil(self.block_size)
    }

    /// `[len, width]` of sequence `seq`. Queries and keys are long enough for a softmax with clear winners.
    pub fn qkv(&self, seq: usize) -> Vec<f32> {
        let mut values = Rng::new(self.seed ^ (seq as u64 + 77)).values(self.lens[seq] * self.width());
        for value in &mut values {
            *value *= 2.0;
        }
        values
    }

    pub fn shape(&self, layers: usize) -> KvShape {
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
    pub fn run<B: Backend>(&self, device: &mut B, chunks: &[Chunk]) -> Vec<Vec<f32>> {
        let mut run = Run::new(self, device);
        for chunk in chunks {
            run.step(device, chunk);
        }
        run.out
    }

    /// The whole of every sequence in one step.
    pub fn whole(&self) -> Vec<Chunk> {
        vec![self.lens.clone()]
    }

    /// One token of every unfinished sequence per step.
    #[allow(dead_code)] // The CUDA tests have chunks of their own.
    pub fn token_by_token(&self) -> Vec<Chunk> {
        let longest = self.lens.iter().copied().max().unwrap_or(0);
        (0..longest).map(|t| self.lens.iter().map(|&len| usize::from(t < len)).collect()).collect()
    }

    pub fn random_chunks(&self, rng: &mut Rng) -> Vec<Chunk> {
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
    pub fn reference(&self) -> Vec<Vec<f64>> {
        (0..self.lens.len()).map(|seq| self.reference_seq(seq)).collect()
    }

    pub fn reference_seq(&self, seq: usize) -> Vec<f64> {
        self.reference_from(seq, 0)
    }

    /// Of the tokens from `from` on.
    pub fn reference_from(&self, seq: usize, from: usize) -> Vec<f64> {
        let (qkv, d, group) = (self.qkv(seq), self.head_dim, self.heads / self.kv_heads);
        // Of each token: the heads of its key, then of its value.
        let row = |t: usize| &qkv[t * self.width()..(t + 1) * self.width()][self.heads * d..];
        let stored: Vec<Vec<f64>> = (0..self.lens[seq])
            .map(|t| row(t).chunks(d).flat_map(|head| stored_head(self.dtype, head)).collect())
            .collect();
        let key = |t: usize, h: usize| &stored[t][h * d..][..d];
        let value = |t: usize, h: usize| &stored[t][(self.kv_heads + h) * d..][..d];
        let mut out = Vec::new();
        for i in from..self.lens[seq] {
            let first = self.params.window.map_or(0, |w| (i + 1).saturating_sub(w as usize));
            for h in 0..self.heads {
                let q = &qkv[i * self.width() + h * d..][..d];
                let score = |j: usize| {
                    let dot: f64 = q.iter().zip(key(j, h / group)).map(|(&q, &k)| f64::from(q) * k).sum();
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
                        .map(|(n, s)| (s - max).exp() * value(first + n, h / group)[dim]);
                    weighted.sum::<f64>() / sum
                }));
            }
        }
        out
    }
}

/// Sequences on their way through a device.
pub struct Run<'a, B: Backend> {
    pub case: &'a Case,
    pub cache: B::KvCache,
    pub step: B::Step,
    pub tables: Vec<Vec<u32>>,
    pub computed: Vec<usize>,
    pub out: Vec<Vec<f32>>,
}

const LAYERS: usize = 2;
const LAYER: usize = 1;

impl<'a, B: Backend> Run<'a, B> {
    /// Block tables in random order over a cache in which someone else left infinities.
    pub fn new(case: &'a Case, device: &mut B) -> Self {
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

    pub fn step(&mut self, device: &mut B, chunk: &[usize]) {
        let (case, qkv) = (self.case, self.store(device, chunk));
        let tokens: usize = chunk.iter().sum();
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

    /// The half of a step that fills the cache; the rotated `qkv`.
    pub fn store(&mut self, device: &mut B, chunk: &[usize]) -> B::Buf {
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
        let mut qkv = buffer(device, &qkv);
        device.rope_and_store(&mut qkv, &mut self.cache, &self.step, LAYER, case.heads, 0).unwrap();
        qkv
    }
}

fn fill_with_infinities<B: Backend>(case: &Case, device: &mut B, cache: &mut B::KvCache, step: &mut B::Step) {
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
pub struct Inputs {
    pub positions: Vec<u32>,
    pub slots: Vec<u32>,
    pub cu_q: Vec<u32>,
    pub kv_len: Vec<u32>,
    pub tables: Vec<u32>,
    pub offsets: Vec<u32>,
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}

impl Inputs {
    /// `n` tokens from position `from` on.
    pub fn push(&mut self, table: &[u32], block_size: usize, from: usize, n: usize) {
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
    pub fn rotate(&mut self, rotary_dim: usize) {
        for &position in &self.positions {
            for i in 0..rotary_dim / 2 {
                let angle = f64::from(position) * 0.3_f64.powi(i as i32);
                self.cos.push(angle.cos() as f32);
                self.sin.push(angle.sin() as f32);
            }
        }
    }

    pub fn upload<B: Backend>(&self, device: &mut B, step: &mut B::Step) {
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
            adapters: &vec![NO_ADAPTER; self.kv_len.len()],
        };
        device.upload(step, &inputs).unwrap();
    }
}
