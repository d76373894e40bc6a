//! The CUDA device: our own kernels (`csrc`) over a [`Gpu`], which is a real one or an emulated one.
//!
//! Activations are f32, so that norms, sums and the residual stream lose nothing and a token costs 4 KB per 1,024
//! elements, which is little beside the weights that a step reads. Where tensor cores multiply, an activation is split
//! into two 16-bit numbers whose sum has twice their precision. The KV cache keeps its stored type.

mod elementwise;
pub mod emulator;
mod gpu;
mod kernel;
mod kv;
mod matrix;
mod memory;
mod norm;
mod rows;
mod score;
mod step;

pub use emulator::Emulator;
pub use gpu::{Gpu, GpuInfo, GpuMemory, KernelArgs, Launch, MemoryInfo};
pub use kernel::Kernel;
pub use kv::CudaKvCache;
pub use matrix::CudaMatrix;
pub use memory::CudaBuf;
pub use step::CudaStep;

use crate::contract::check_room;
use crate::{Activation, HeadCounts, KernelError, KvShape, StepInputs, WeightView};
use memory::{Bytes, Scratch, bytes_mut};

type Result<T> = std::result::Result<T, KernelError>;

/// The CUDA device.
pub struct CudaBackend<G: Gpu> {
    gpu: G,
    /// Which rows to gather.
    indices: Scratch<G>,
    /// Targets and scores.
    scores: Scratch<G>,
}

impl<G: Gpu> CudaBackend<G> {
    pub fn new(gpu: G) -> Self {
        Self { gpu, indices: Scratch::default(), scores: Scratch::default() }
    }

    /// The GPU that it computes on.
    pub fn gpu(&self) -> &G {
        &self.gpu
    }
}

impl<G: Gpu> CudaBackend<G> {
    pub fn buffer(&self, len: usize) -> Result<CudaBuf<G>> {
        CudaBuf::zeroed(&self.gpu, "activations", len)
    }

    pub fn vector(&self, values: &[f32]) -> Result<CudaBuf<G>> {
        let buf = CudaBuf::zeroed(&self.gpu, "parameters", values.len())?;
        self.gpu.upload(buf.memory(), 0, values.bytes())?;
        Ok(buf)
    }

    pub fn matrix(&self, parts: &[WeightView<'_>]) -> Result<CudaMatrix<G>> {
        CudaMatrix::new(&self.gpu, parts)
    }

    pub fn kv_cache(&self, shape: KvShape) -> Result<CudaKvCache<G>> {
        CudaKvCache::new(&self.gpu, shape)
    }

    pub fn step_buffers(&self, tokens: usize, seqs: usize, blocks: usize) -> Result<CudaStep<G>> {
        CudaStep::new(&self.gpu, tokens, seqs, blocks)
    }

    pub fn upload(&mut self, step: &mut CudaStep<G>, inputs: &StepInputs<'_>) -> Result<()> {
        step.upload(&self.gpu, inputs)
    }

    pub fn copy_blocks(&mut self, cache: &mut CudaKvCache<G>, pairs: &[(u32, u32)]) -> Result<()> {
        cache.copy_blocks(&self.gpu, pairs)
    }

    pub fn embed(
        &mut self,
        out: &mut CudaBuf<G>,
        table: &CudaMatrix<G>,
        step: &CudaStep<G>,
        scale: f32,
    ) -> Result<()> {
        rows::embed(&self.gpu, out, table, step, scale)
    }

    pub fn rms_norm(
        &mut self,
        out: &mut CudaBuf<G>,
        x: &CudaBuf<G>,
        weight: &CudaBuf<G>,
        eps: f32,
        rows: usize,
    ) -> Result<()> {
        norm::rms_norm(&self.gpu, out, x, (weight, eps), rows)
    }

    pub fn add(&mut self, acc: &mut CudaBuf<G>, x: &CudaBuf<G>, len: usize) -> Result<()> {
        elementwise::add(&self.gpu, acc, x, len)
    }

    pub fn norm_heads(
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

    pub fn rope_and_store(
        &mut self,
        qkv: &mut CudaBuf<G>,
        cache: &mut CudaKvCache<G>,
        step: &CudaStep<G>,
        layer: usize,
        heads: usize,
        rope: usize,
    ) -> Result<()> {
        kv::rope_and_store(&self.gpu, qkv, cache, step, (layer, heads, rope))
    }

    pub fn gated(
        &mut self,
        out: &mut CudaBuf<G>,
        gate_up: &CudaBuf<G>,
        act: Activation,
        rows: usize,
        width: usize,
    ) -> Result<()> {
        elementwise::gated(&self.gpu, out, gate_up, act, (rows, width))
    }

    pub fn gather_rows(
        &mut self,
        out: &mut CudaBuf<G>,
        x: &CudaBuf<G>,
        rows: &[u32],
        cols: usize,
    ) -> Result<()> {
        rows::gather_rows((&self.gpu, &mut self.indices), out, x, rows, cols)
    }

    pub fn softcap(&mut self, x: &mut CudaBuf<G>, cap: f32, len: usize) -> Result<()> {
        elementwise::softcap(&self.gpu, x, cap, len)
    }

    pub fn score(
        &mut self,
        logits: &CudaBuf<G>,
        vocab: usize,
        targets: &[u32],
        out: &mut Vec<f32>,
    ) -> Result<()> {
        score::score((&self.gpu, &mut self.scores), logits, vocab, targets, out)
    }

    pub fn download(&self, buf: &CudaBuf<G>, out: &mut [f32]) -> Result<()> {
        check_room("download", "elements", out.len(), buf.len())?;
        self.gpu.download(buf.memory(), 0, bytes_mut(out))
    }
}
