//! The CPU device: one file per op, over a worker pool, with the instruction set chosen at run time.
//!
//! Activations are f32. Float weights and the KV cache keep their stored type and are widened as they are loaded;
//! quantized weights are multiplied in integers.

mod activation;
mod attention;
mod elementwise;
mod embed;
mod encoder;
mod isa;
mod kv;
mod linear;
mod low_rank;
mod math;
mod matrix;
mod memory;
mod norm;
mod output;
mod panel;
mod pool;
pub(crate) mod quant;
mod rope;
mod sample;
mod score;
mod step;
mod tile;

use std::sync::{Mutex, PoisonError};

pub use isa::Isa;
pub use kv::KvCache;
pub use low_rank::LowRanks;
pub use matrix::Matrix;
pub use memory::CpuBuf;
pub use sample::sample_logits;
pub use step::Step;

use crate::contract::{check, check_room, product, qkv_width, shape_error};
use crate::{
    Activation, AllReduce, AttentionParams, Backend, HeadCounts, KernelError, KvShape, LowRankView,
    SampleRow, Sampled, StepInputs, WeightView,
};
use attention::Scratch;
use encoder::EncoderScratch;
pub use encoder::Packed;
use isa::Dispatch;
use low_rank::Lowered;
use pool::Pool;
use quant::Activations;
use sample::{SampleScratch, sample_row};

type Result<T> = std::result::Result<T, KernelError>;

/// Names the device in errors.
const DEVICE: &str = "cpu";

/// The CPU device.
pub struct CpuBackend {
    pool: Pool,
    /// Whether a KV cache's memory is taken when it is made.
    commits_cache: bool,
    isa: Dispatch,
    /// One per participant of the pool.
    scratch: Vec<Mutex<Scratch>>,
    /// The quantized rows of the product at hand.
    activations: Activations,
    /// What adapters' first matrices make of the rows at hand.
    lowered: Lowered,
    /// One per participant of the pool.
    encoder_scratch: Vec<Mutex<EncoderScratch>>,
    /// One per participant of the pool.
    sample_scratch: Vec<Mutex<SampleScratch>>,
    /// What was drawn and scored, and not asked for yet.
    drawn: Vec<Sampled>,
    scores: Vec<f32>,
}

/// One scratch for each participant of a pool, like those that another pool's participants have.
fn for_each<T>(pool: &Pool, known: &[Mutex<T>], alike: impl Fn(&T) -> Result<T>) -> Result<Vec<Mutex<T>>>
where
    T: Default,
{
    let known = known.first().map(|scratch| scratch.lock().unwrap_or_else(PoisonError::into_inner));
    let one = || known.as_deref().map_or_else(|| Ok(T::default()), &alike);
    (0..pool.threads()).map(|_| one().map(Mutex::new)).collect()
}

impl CpuBackend {
    /// A device that computes with `threads` threads, the caller's included (at least that one), and the best
    /// instruction set of this processor. Where the system gives fewer threads, it makes do with those; results do not
    /// depend on their number.
    pub fn new(threads: usize) -> Self {
        Self::with_isa(threads, Isa::detect())
    }

    /// As [`CpuBackend::new`], with `isa`, or the best one where this processor lacks it.
    pub fn with_isa(threads: usize, isa: Isa) -> Self {
        let pool = Pool::new(threads);
        let scratch = (0..pool.threads()).map(|_| Mutex::default()).collect();
        let encoder_scratch = (0..pool.threads()).map(|_| Mutex::default()).collect();
        let sample_scratch = (0..pool.threads()).map(|_| Mutex::default()).collect();
        let activations = Activations::default();
        let lowered = Lowered::default();
        let isa = Dispatch::new(isa);
        let (drawn, scores) = (Vec::new(), Vec::new());
        let commits_cache = true;
        Self {
            pool,
            commits_cache,
            isa,
            scratch,
            activations,
            lowered,
            encoder_scratch,
            sample_scratch,
            drawn,
            scores,
        }
    }

    /// Has KV caches take their memory page by page as they fill. Otherwise they take it when they are made, so that it
    /// cannot run out later.
    pub fn with_growing_cache(self) -> Self {
        Self { commits_cache: false, ..self }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa.isa()
    }

    /// Threads that compute, the caller's included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
}

impl Backend for CpuBackend {
    type Buf = CpuBuf;
    type Matrix = Matrix;
    type KvCache = KvCache;
    type Step = Step;
    type LowRanks = LowRanks;

    fn use_threads(&mut self, threads: usize) -> Result<()> {
        let pool = Pool::new(threads);
        self.scratch = for_each(&pool, &self.scratch, Scratch::alike)?;
        self.encoder_scratch = for_each(&pool, &self.encoder_scratch, EncoderScratch::alike)?;
        self.sample_scratch = for_each(&pool, &self.sample_scratch, |_| Ok(SampleScratch::default()))?;
        self.pool = pool;
        Ok(())
    }

    fn buffer(&self, len: usize) -> Result<CpuBuf> {
        CpuBuf::zeroed(len)
    }

    fn vector(&self, values: &[f32]) -> Result<CpuBuf> {
        let mut buf = CpuBuf::zeroed(values.len())?;
        buf.copy_from_slice(values);
        Ok(buf)
    }

    fn matrix(&self, parts: &[WeightView<'_>]) -> Result<Matrix> {
        Matrix::pack(&self.pool, parts)
    }

    fn kv_cache(&self, shape: KvShape) -> Result<KvCache> {
        for scratch in &self.scratch {
            scratch.lock().unwrap_or_else(PoisonError::into_inner).fit(shape.head_dim)?;
        }
        KvCache::new(shape, self.commits_cache)
    }

    fn step_buffers(&self, tokens: usize, seqs: usize, blocks: usize) -> Result<Step> {
        Step::new(tokens, seqs, blocks)
    }

    fn low_ranks(&self, rows: usize, cols: usize, _tokens: usize) -> Result<LowRanks> {
        Ok(LowRanks::new(rows, cols))
    }

    fn set_low_rank(&mut self, changes: &mut LowRanks, slot: usize, parts: &[LowRankView<'_>]) -> Result<()> {
        changes.set(&self.pool, slot, parts)
    }

    fn upload(&mut self, step: &mut Step, inputs: &StepInputs<'_>) -> Result<()> {
        step.upload(inputs)
    }

    fn copy_blocks(&mut self, cache: &mut KvCache, pairs: &[(u32, u32)]) -> Result<()> {
        cache.copy_blocks(pairs)
    }

    fn embed(&mut self, out: &mut CpuBuf, table: &Matrix, step: &Step, scale: f32) -> Result<()> {
        embed::embed((&self.pool, self.isa), out, table, step, scale)
    }

    fn rms_norm(
        &mut self,
        out: &mut CpuBuf,
        x: &CpuBuf,
        weight: &CpuBuf,
        eps: f32,
        rows: usize,
    ) -> Result<()> {
        norm::rms_norm(&self.pool, self.isa, out, x, (weight, eps), rows)
    }

    fn all_reduce(&mut self, x: &mut CpuBuf, len: usize, group: &mut dyn AllReduce) -> Result<()> {
        check_room("all_reduce", "elements of x", len, x.len())?;
        group.sum(&mut x[..len])
    }

    fn add(&mut self, acc: &mut CpuBuf, x: &CpuBuf, len: usize) -> Result<()> {
        elementwise::add(&self.pool, acc, x, len)
    }

    fn linear(
        &mut self,
        out: &mut CpuBuf,
        x: &CpuBuf,
        w: &Matrix,
        bias: Option<&CpuBuf>,
        rows: usize,
    ) -> Result<()> {
        let device = (&self.pool, self.isa, &mut self.activations);
        linear::linear(device, out, x, w, (bias.map(|bias| &**bias), None), rows)
    }

    fn add_low_rank(&mut self, out: &mut CpuBuf, x: &CpuBuf, changes: &LowRanks, step: &Step) -> Result<()> {
        low_rank::add((&self.pool, self.isa, &mut self.lowered), out, x, changes, step)
    }

    fn norm_heads(
        &mut self,
        qkv: &mut CpuBuf,
        q_weight: &CpuBuf,
        k_weight: &CpuBuf,
        heads: HeadCounts,
        eps: f32,
        rows: usize,
    ) -> Result<()> {
        norm::norm_heads(&self.pool, self.isa, qkv, (q_weight, k_weight, eps), heads, rows)
    }

    fn rope_and_store(
        &mut self,
        qkv: &mut CpuBuf,
        cache: &mut KvCache,
        step: &Step,
        layer: usize,
        heads: usize,
        rope: usize,
    ) -> Result<()> {
        rope::rope_and_store(&self.pool, qkv, cache, step, (layer, heads, rope))
    }

    fn attention(
        &mut self,
        out: &mut CpuBuf,
        qkv: &CpuBuf,
        cache: &KvCache,
        step: &Step,
        layer: usize,
        params: &AttentionParams,
    ) -> Result<()> {
        attention::attention((&self.pool, self.isa, &self.scratch), out, qkv, (cache, layer), step, params)
    }

    fn gated(
        &mut self,
        out: &mut CpuBuf,
        gate_up: &CpuBuf,
        act: Activation,
        rows: usize,
        width: usize,
    ) -> Result<()> {
        elementwise::gated(&self.pool, self.isa, out, gate_up, act, (rows, width))
    }

    fn gather_rows(&mut self, out: &mut CpuBuf, x: &CpuBuf, rows: &[u32], cols: usize) -> Result<()> {
        elementwise::gather_rows(out, x, rows, cols)
    }

    fn softcap(&mut self, x: &mut CpuBuf, cap: f32, len: usize) -> Result<()> {
        elementwise::softcap(&self.pool, self.isa, x, cap, len)
    }

    fn draw(&mut self, logits: &mut CpuBuf, vocab: usize, rows: &[SampleRow<'_>]) -> Result<()> {
        const OP: &str = "sample";
        check_room(OP, "elements of logits", product(&[rows.len(), vocab]), logits.len())?;
        if vocab == 0 {
            return Err(shape_error(OP, "vocab", 0, 1));
        }
        check_room(OP, "threads", self.pool.threads(), self.sample_scratch.len())?;
        let start = self.drawn.len();
        self.drawn.resize_with(start + rows.len(), Sampled::default);
        let drawn = Mutex::new(&mut self.drawn[start..]);
        self.pool.for_rows(&mut logits[..rows.len() * vocab], vocab, 1, |participant, index, logits| {
            let (Some(row), Some(scratch)) = (rows.get(index), self.sample_scratch.get(participant)) else {
                return;
            };
            let mut scratch = scratch.lock().unwrap_or_else(PoisonError::into_inner);
            let sampled = sample_row(logits, row, &mut scratch);
            if let Some(out) = drawn.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index) {
                *out = sampled;
            }
        })
    }

    fn score(&mut self, logits: &CpuBuf, vocab: usize, targets: &[u32]) -> Result<()> {
        score::score(&self.pool, self.isa, logits, vocab, targets, &mut self.scores)
    }

    fn collect(&mut self, drawn: &mut Vec<Sampled>, scores: &mut Vec<f32>) -> Result<()> {
        drawn.append(&mut self.drawn);
        scores.append(&mut self.scores);
        Ok(())
    }

    fn download(&self, buf: &CpuBuf, out: &mut [f32]) -> Result<()> {
        check_room("download", "elements of the buffer", out.len(), buf.len())?;
        out.copy_from_slice(&buf[..out.len()]);
        Ok(())
    }
}
