//! The executor that runs a [`Decoder`], and how a model is loaded into one.

use std::time::{Duration, Instant};

use weirgate_kernels::cpu::CpuBackend;
use weirgate_kernels::{Backend, DType, KernelError, KvShape, KvType, SampleRow};
use weirgate_models::{Adapter, ModelSpec, RopeScaling, TensorSource};
use weirgate_types::AdapterId;

use crate::decoder::{Decoder, DecoderConfig, LoadError};
use crate::{Batch, Executor, ExecutorError, ExecutorLimits, RopeRule, StepResult};

/// How a model is brought onto a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// Worker threads of the CPU, at least 1.
    pub threads: usize,
    /// Tokens per KV block.
    pub block_size: usize,
    /// KV blocks in the pool.
    pub blocks: usize,
    /// Most tokens and sequences in one step.
    pub max_step_tokens: usize,
    pub max_seqs: usize,
    /// Longest sequence, in tokens.
    pub max_seq_len: usize,
    /// `None`: f32 for f32 checkpoints, else f16.
    pub kv_dtype: Option<KvType>,
    /// The KV pool's memory is taken at once, so that it cannot run out while serving; else on the CPU page by page as the
    /// pool fills, which leaves it to others until then.
    pub commit_cache: bool,
}

/// Most rows of logits held at once on the CPU: products of so many rows run at nearly their full speed, and a 128k
/// vocabulary costs 16 MB.
const MAX_LOGIT_ROWS: usize = 32;

/// Bytes of one KV block of `block_size` tokens over all layers, for sizing the pool before loading.
pub fn kv_block_bytes(spec: &ModelSpec, dtype: KvType, block_size: usize) -> usize {
    let shape = KvShape {
        layers: spec.layers.len(),
        blocks: 1,
        block_size,
        kv_heads: spec.kv_heads,
        head_dim: spec.head_dim,
        dtype,
    };
    shape.bytes_per_block()
}

/// The KV cache's element type: what is asked for, else what fits the checkpoint, judged by its embedding.
///
/// # Errors
/// When there is no embedding.
pub fn kv_type(
    spec: &ModelSpec,
    tensors: &dyn TensorSource,
    asked: Option<KvType>,
) -> Result<KvType, LoadError> {
    if let Some(asked) = asked {
        return Ok(asked);
    }
    Ok(match tensors.info(&spec.tensors.embedding)?.0 {
        weirgate_models::DType::F32 => DType::F32.into(),
        _ => DType::F16.into(),
    })
}

impl RopeRule {
    /// The rule of a model: dynamic NTK keeps the keys it has, LongRoPE starts over with its other table, as
    /// transformers does.
    pub fn of(spec: &ModelSpec) -> Self {
        let recompute = spec.ropes.iter().any(|rope| matches!(rope.scaling, RopeScaling::LongRope { .. }));
        let spec = spec.clone();
        Self { class: Box::new(move |len| spec.length_class(len)), recompute }
    }
}

/// Loads a checkpoint onto the CPU.
pub fn load_cpu(
    spec: &ModelSpec,
    tensors: &dyn TensorSource,
    options: &LoadOptions,
) -> Result<Box<dyn Executor>, LoadError> {
    load(cpu_backend(options.threads, options), spec, tensors, options)
}

pub(crate) fn cpu_backend(threads: usize, options: &LoadOptions) -> CpuBackend {
    let backend = CpuBackend::new(threads);
    if options.commit_cache { backend } else { backend.with_growing_cache() }
}

/// Loads a checkpoint onto any device; `options.threads` is the caller's affair.
pub fn load<B: Backend>(
    backend: B,
    spec: &ModelSpec,
    tensors: &dyn TensorSource,
    options: &LoadOptions,
) -> Result<Box<dyn Executor>, LoadError> {
    let config = decoder_config(spec, tensors, options)?;
    let decoder = Decoder::new(backend, spec, tensors, config)?;
    Ok(Box::new(ModelExecutor::new(decoder)))
}

/// The decoder's sizes under `options`.
pub(crate) fn decoder_config(
    spec: &ModelSpec,
    tensors: &dyn TensorSource,
    options: &LoadOptions,
) -> Result<DecoderConfig, LoadError> {
    Ok(DecoderConfig {
        blocks: options.blocks,
        block_size: options.block_size,
        kv_dtype: kv_type(spec, tensors, options.kv_dtype)?,
        max_step_tokens: options.max_step_tokens,
        max_seqs: options.max_seqs,
        max_seq_len: options.max_seq_len,
        max_logit_rows: MAX_LOGIT_ROWS,
    })
}

/// Hands each step to the device in `launch`; on the CPU that is all, on others `collect` waits for it.
pub(crate) struct ModelExecutor<B: Backend> {
    pub decoder: Decoder<B>,
    /// When the last step had ended, and how long the device waited for the one after it.
    ended: Option<Instant>,
    waited: Duration,
}

impl<B: Backend> ModelExecutor<B> {
    pub fn new(decoder: Decoder<B>) -> Self {
        Self { decoder, ended: None, waited: Duration::ZERO }
    }
}

impl<B: Backend> Executor for ModelExecutor<B> {
    fn limits(&self) -> ExecutorLimits {
        let config = self.decoder.config();
        ExecutorLimits {
            blocks: config.blocks,
            block_size: config.block_size,
            max_step_tokens: config.max_step_tokens,
            max_seqs: config.max_seqs,
            vocab_size: self.decoder.spec().vocab_size,
            max_seq_len: config.max_seq_len,
        }
    }

    fn is_asynchronous(&self) -> bool {
        self.decoder.backend().is_asynchronous()
    }

    fn use_threads(&mut self, threads: usize) -> Result<(), ExecutorError> {
        self.decoder.use_threads(threads)
    }

    fn launch(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        self.decoder.forward(batch)?;
        let waited = self.ended.zip(self.decoder.begun()).map(|(ended, begun)| begun.duration_since(ended));
        self.waited = waited.unwrap_or_default();
        let mut samples = Vec::with_capacity(batch.samples.len());
        for sample in &batch.samples {
            let history = batch.history.get(sample.history.clone()).ok_or_else(|| {
                ExecutorError::Batch(format!("history {:?} of {}", sample.history, batch.history.len()))
            })?;
            let row = SampleRow {
                params: &sample.params,
                history,
                prompt_len: sample.prompt_len,
                draw: sample.draw,
                surprise: sample.surprise,
                banned: sample.banned.as_deref().unwrap_or_default(),
                mask: sample.mask.as_deref(),
            };
            samples.push((sample.row, row));
        }
        self.decoder.draw(&samples)?;
        let scores: Vec<(u32, u32)> = batch.scores.iter().map(|score| (score.row, score.target)).collect();
        self.decoder.score(&scores)
    }

    fn collect(&mut self, out: &mut StepResult) -> Result<(), ExecutorError> {
        out.sampled.clear();
        out.scores.clear();
        self.decoder.collect(&mut out.sampled, &mut out.scores)?;
        self.ended = Some(Instant::now());
        Ok(())
    }

    fn waited(&self) -> Duration {
        self.waited
    }

    fn load_adapter(&mut self, id: AdapterId, adapter: &Adapter) -> Result<(), KernelError> {
        self.decoder.load_adapter(id, adapter)
    }

    fn unload_adapter(&mut self, id: AdapterId) {
        self.decoder.unload_adapter(id);
    }
}
