//! The CUDA device: our own kernels (`csrc`) over a [`Gpu`], which is a real one or an emulated one.
//!
//! Activations are f32, so that norms, sums and the residual stream lose nothing and a token costs 4 KB per 1,024
//! elements, which is little beside the weights that a step reads. Where tensor cores multiply, an activation is split
//! into two 16-bit numbers whose sum has twice their precision; or rounded to the weights' type, where there are many. The KV
//! cache keeps its stored type.

mod all_reduce;
mod attention;
mod blocks;
mod dense;
pub mod driver;
mod elementwise;
mod emulated_group;
pub mod emulator;
mod encoder;
mod gpu;
mod graphs;
mod hopper_gemm;
mod kernel;
mod kv;
mod linear;
mod low_rank;
mod matrix;
mod memory;
mod norm;
mod packed;
mod rotary;
mod rows;
mod sample;
mod score;
mod step;
mod tensor_map;
mod watched;

pub use dense::{ColumnMajor, ColumnMatrix, DenseGemm, DenseProduct, FactorType};
pub use emulated_group::EmulatedMember;
pub use emulator::Emulator;
pub use gpu::{Gpu, GpuInfo, GpuMemory, KernelArgs, Launch, MemoryInfo};
pub use kernel::Kernel;
pub use kv::CudaKvCache;
pub use low_rank::CudaLowRanks;
pub use matrix::CudaMatrix;
pub use memory::CudaBuf;
pub use packed::CudaPacked;
pub use step::CudaStep;
pub use tensor_map::{Boxes, Half, TensorMap};
pub use watched::{Counts, Watch, Watched};

use crate::contract::check_room;
use crate::{
    Activation, AllReduce, AttentionParams, Backend, HeadCounts, KernelError, KvShape, LowRankView,
    SampleRow, Sampled, ScaledRowsView, StepInputs, WeightView,
};
use graphs::Graphs;
use memory::{Bytes, Scratch};
use sample::SampleScratch;
use score::ScoreScratch;

type Result<T> = std::result::Result<T, KernelError>;

/// The CUDA device.
pub struct CudaBackend<G: Gpu> {
    gpu: G,
    deterministic: bool,
    /// Which rows to gather.
    indices: Scratch<G>,
    scores: ScoreScratch<G>,
    /// Activations as the product at hand wants them.
    planes: Scratch<G>,
    /// Weights of many rows' product, unpacked piece by piece.
    unpacked: Scratch<G>,
    /// What the splits of the attention at hand found.
    partial: Scratch<G>,
    sampling: SampleScratch<G>,
    /// Activations in the ranks of adapters.
    lowered: Scratch<G>,
    /// What shards add up, on the host.
    sums: Vec<f32>,
    /// Steps that were recorded.
    graphs: Graphs<G>,
}

impl<G: Gpu> CudaBackend<G> {
    pub fn new(gpu: G) -> Self {
        Self {
            gpu,
            deterministic: false,
            indices: Scratch::default(),
            scores: ScoreScratch::default(),
            planes: Scratch::default(),
            unpacked: Scratch::default(),
            partial: Scratch::default(),
            sampling: SampleScratch::default(),
            lowered: Scratch::default(),
            sums: Vec::new(),
            graphs: Graphs::default(),
        }
    }

    /// The same, but a row's result is bit-identical whatever other rows are in the step and however its prompt is cut,
    /// which costs prompts their tensor-core tiles.
    pub fn deterministic(gpu: G) -> Self {
        Self { deterministic: true, ..Self::new(gpu) }
    }

    /// The same, but steps of up to so many tokens as `sizes` says are recorded and replayed, padded up to the next size.
    pub fn with_graphs(self, sizes: &[usize]) -> Self {
        Self { graphs: Graphs::new(sizes), ..self }
    }

    /// From here on no step is recorded, nor padded.
    pub fn without_graphs(&mut self) {
        self.graphs = Graphs::default();
    }

    /// Why a step could not be recorded, and is launched op by op; the last time that was so.
    pub fn refusal(&self) -> Option<&KernelError> {
        self.graphs.refusal()
    }

    /// The GPU that it computes on.
    pub fn gpu(&self) -> &G {
        &self.gpu
    }
}

impl<G: Gpu> Backend for CudaBackend<G> {
    type Buf = CudaBuf<G>;
    type Matrix = CudaMatrix<G>;
    type KvCache = CudaKvCache<G>;
    type Step = CudaStep<G>;
    type LowRanks = CudaLowRanks<G>;

    fn is_asynchronous(&self) -> bool {
        true
    }

    fn buffer(&self, len: usize) -> Result<CudaBuf<G>> {
        CudaBuf::zeroed(&self.gpu, "activations", len)
    }

    fn vector(&self, values: &[f32]) -> Result<CudaBuf<G>> {
        let buf = CudaBuf::zeroed(&self.gpu, "parameters", values.len())?;
        self.gpu.upload(buf.memory(), 0, values.bytes())?;
        Ok(buf)
    }

    fn matrix(&self, parts: &[WeightView<'_>]) -> Result<CudaMatrix<G>> {
        CudaMatrix::new(&self.gpu, parts)
    }

    /// Chips whose tensor cores take these numbers keep them so.
    fn scaled_matrix(&self, parts: &[ScaledRowsView<'_>]) -> Result<Option<CudaMatrix<G>>> {
        match FactorType::E4M3.suits(self.gpu.info()) {
            true => CudaMatrix::scaled(&self.gpu, parts).map(Some),
            false => Ok(None),
        }
    }

    fn kv_cache(&self, shape: KvShape) -> Result<CudaKvCache<G>> {
        CudaKvCache::new(&self.gpu, shape)
    }

    fn step_buffers(&self, tokens: usize, seqs: usize, blocks: usize) -> Result<CudaStep<G>> {
        CudaStep::new(&self.gpu, tokens, seqs, blocks)
    }

    fn low_ranks(&self, rows: usize, cols: usize, tokens: usize) -> Result<CudaLowRanks<G>> {
        Ok(CudaLowRanks::new(rows, cols, tokens))
    }

    fn set_low_rank(
        &mut self,
        changes: &mut CudaLowRanks<G>,
        slot: usize,
        parts: &[LowRankView<'_>],
    ) -> Result<()> {
        self.graphs.forget_adapted();
        changes.set((&self.gpu, &mut self.lowered), slot, parts)
    }

    fn add_low_rank(
        &mut self,
        out: &mut CudaBuf<G>,
        x: &CudaBuf<G>,
        changes: &CudaLowRanks<G>,
        step: &CudaStep<G>,
    ) -> Result<()> {
        low_rank::add((&self.gpu, &mut self.lowered), out, x, changes, step)
    }

    fn upload(&mut self, step: &mut CudaStep<G>, inputs: &StepInputs<'_>) -> Result<()> {
        step.upload(&self.gpu, inputs)
    }

    fn padded_rows(&self, cu_q: &[u32]) -> usize {
        self.graphs.padded_rows(cu_q)
    }

    fn most_padding(&self) -> usize {
        self.graphs.most_padding()
    }

    fn repeated<E: From<KernelError>>(
        &mut self,
        step: &CudaStep<G>,
        work: impl FnMut(&mut Self) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        graphs::repeated(self, step, work)
    }

    fn is_stale(&self, step: &CudaStep<G>) -> bool {
        self.graphs.is_stale(&self.gpu, step)
    }

    fn forget(&mut self) {
        self.graphs.forget();
    }

    fn finish(&mut self) -> Result<()> {
        self.gpu.synchronize()
    }

    fn copy_blocks(&mut self, cache: &mut CudaKvCache<G>, pairs: &[(u32, u32)]) -> Result<()> {
        cache.copy_blocks(&self.gpu, pairs)
    }

    fn embed(
        &mut self,
        out: &mut CudaBuf<G>,
        table: &CudaMatrix<G>,
        step: &CudaStep<G>,
        scale: f32,
    ) -> Result<()> {
        self.graphs.needs(|needs| needs.ids_below(table.rows()));
        rows::embed(&self.gpu, out, table, step, scale)
    }

    fn rms_norm(
        &mut self,
        out: &mut CudaBuf<G>,
        x: &CudaBuf<G>,
        weight: &CudaBuf<G>,
        eps: f32,
        rows: usize,
    ) -> Result<()> {
        norm::rms_norm(&self.gpu, out, x, (weight, eps), rows)
    }

    fn all_reduce(&mut self, x: &mut CudaBuf<G>, len: usize, group: &mut dyn AllReduce) -> Result<()> {
        all_reduce::all_reduce((&self.gpu, &mut self.sums), x, len, group)
    }

    fn add(&mut self, acc: &mut CudaBuf<G>, x: &CudaBuf<G>, len: usize) -> Result<()> {
        elementwise::add(&self.gpu, acc, x, len)
    }

    fn linear(
        &mut self,
        out: &mut CudaBuf<G>,
        x: &CudaBuf<G>,
        w: &CudaMatrix<G>,
        bias: Option<&CudaBuf<G>>,
        rows: usize,
    ) -> Result<()> {
        let planes = linear::Planes { activations: &mut self.planes, weights: &mut self.unpacked };
        linear::linear((&self.gpu, planes, self.deterministic), out, x, w, bias, rows)
    }

    fn norm_heads(
        &mut self,
        qkv: &mut CudaBuf<G>,
        q_weight: &CudaBuf<G>,
        k_weight: &CudaBuf<G>,
        heads: HeadCounts,
        eps: f32,
        rows: usize,
    ) -> Result<()> {
        norm::norm_heads(&self.gpu, qkv, (q_weight, k_weight, eps), heads, rows)
    }

    fn rope_and_store(
        &mut self,
        qkv: &mut CudaBuf<G>,
        cache: &mut CudaKvCache<G>,
        step: &CudaStep<G>,
        layer: usize,
        heads: usize,
        rope: usize,
    ) -> Result<()> {
        self.graphs.needs(|needs| needs.cache(cache.shape()));
        kv::rope_and_store(&self.gpu, qkv, cache, step, (layer, heads, rope))
    }

    fn attention(
        &mut self,
        out: &mut CudaBuf<G>,
        qkv: &CudaBuf<G>,
        cache: &CudaKvCache<G>,
        step: &CudaStep<G>,
        layer: usize,
        params: &AttentionParams,
    ) -> Result<()> {
        self.graphs.needs(|needs| needs.cache(cache.shape()));
        let device = (&self.gpu, &mut self.partial, self.deterministic);
        attention::attention(device, out, qkv, (cache, layer), step, params)
    }

    fn gated(
        &mut self,
        out: &mut CudaBuf<G>,
        gate_up: &CudaBuf<G>,
        act: Activation,
        rows: usize,
        width: usize,
    ) -> Result<()> {
        elementwise::gated(&self.gpu, out, gate_up, act, (rows, width))
    }

    fn gather_rows(&mut self, out: &mut CudaBuf<G>, x: &CudaBuf<G>, rows: &[u32], cols: usize) -> Result<()> {
        rows::gather_rows((&self.gpu, &mut self.indices), out, x, rows, cols)
    }

    fn softcap(&mut self, x: &mut CudaBuf<G>, cap: f32, len: usize) -> Result<()> {
        elementwise::softcap(&self.gpu, x, cap, len)
    }

    fn draw(&mut self, logits: &mut CudaBuf<G>, vocab: usize, rows: &[SampleRow<'_>]) -> Result<()> {
        sample::draw((&self.gpu, &mut self.sampling), logits, vocab, rows)
    }

    fn score(&mut self, logits: &CudaBuf<G>, vocab: usize, targets: &[u32]) -> Result<()> {
        score::score((&self.gpu, &mut self.scores), logits, vocab, targets)
    }

    fn collect(&mut self, drawn: &mut Vec<Sampled>, scores: &mut Vec<f32>) -> Result<()> {
        let (mut draws, mut scored) = (self.sampling.take(), self.scores.take());
        let mut pieces: Vec<_> = draws.pieces().chain(scored.pieces()).collect();
        self.gpu.collect(&mut pieces)?;
        draws.append_to(drawn);
        scored.append_to(scores);
        Ok(())
    }

    fn download(&self, buf: &CudaBuf<G>, out: &mut [f32]) -> Result<()> {
        check_room("download", "elements", out.len(), buf.len())?;
        self.gpu.download(buf.memory(), 0, out.bytes_mut())
    }
}
