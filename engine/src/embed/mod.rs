//! Texts as vectors: an embedder, and the thread that batches requests for it.
//!
//! A text is computed in one step together with others, without padding; its vector depends on it alone. Nothing is kept
//! between steps.

mod decoder;
mod encoder;
mod thread;
mod weights;

use weirgate_models::{EncoderSpec, ModelSpec, Pooling, TensorSource};
use weirgate_types::TokenId;

use crate::cuda_model::load_error;
use crate::decoder::LoadError;
use crate::{CudaOptions, ExecutorError};
use decoder::DecoderEmbedder;
use encoder::Encoder;
pub use thread::{EmbedConfig, EmbedFailure, EmbedHandle, EmbedTicket, spawn_embedder};
use weirgate_kernels::cpu::CpuBackend;
use weirgate_kernels::cuda::CudaBackend;
use weirgate_kernels::cuda::driver::{CudaDevice, NvidiaGpu};
use weirgate_kernels::{EncoderBackend, PoolingKind};

/// One text, or a pair of texts for a cross-encoder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EmbedInput {
    /// At least one.
    pub tokens: Vec<TokenId>,
    /// The type of each token; empty where all are 0.
    pub types: Vec<u32>,
}

/// What an embedder can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedLimits {
    pub vocab_size: usize,
    /// Tokens of one text.
    pub max_tokens: usize,
    /// Tokens of all texts of a step; at least `max_tokens`.
    pub max_step_tokens: usize,
    /// Texts in a step.
    pub max_seqs: usize,
    /// Elements of a vector: the model's width, or a cross-encoder's labels.
    pub dimensions: usize,
}

/// Computes vectors; hides the model and the device.
pub trait Embedder: Send {
    fn limits(&self) -> EmbedLimits;
    /// See [`weirgate_kernels::Backend::use_threads`].
    ///
    /// # Errors
    /// [`ExecutorError::Kernel`].
    fn use_threads(&mut self, _threads: usize) -> Result<(), ExecutorError> {
        Ok(())
    }
    /// Appends one vector of [`EmbedLimits::dimensions`] elements for each text to `out`. The texts are within the
    /// limits. After an error the embedder is as it was.
    ///
    /// # Errors
    /// When the device fails.
    fn embed(&mut self, texts: &[EmbedInput], out: &mut Vec<f32>) -> Result<(), ExecutorError>;
}

/// How an embedder is brought onto a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedOptions {
    /// Worker threads of the CPU, at least 1.
    pub threads: usize,
    /// Tokens of all texts of a step; raised to `max_tokens`.
    pub max_step_tokens: usize,
    pub max_seqs: usize,
    /// Tokens of one text.
    pub max_tokens: usize,
    pub pooling: Pooling,
}

/// What makes vectors of texts.
#[derive(Debug, Clone, Copy)]
pub enum EmbedModel<'a> {
    Encoder(&'a EncoderSpec),
    /// Its last hidden states are pooled.
    Decoder(&'a ModelSpec),
}

/// Loads an embedder onto the CPU.
///
/// # Errors
/// When tensors are missing or of another shape than the configuration implies, or memory runs out.
pub fn load_cpu_embedder(
    model: EmbedModel<'_>,
    tensors: &dyn TensorSource,
    options: &EmbedOptions,
) -> Result<Box<dyn Embedder>, LoadError> {
    load_embedder(CpuBackend::new(options.threads), model, tensors, options)
}

/// Loads an embedder onto a GPU and takes the largest steps there can be, so that serving does not run out of memory.
///
/// # Errors
/// As for [`load_cpu_embedder`], and when the device is not as it must be.
pub fn load_cuda_embedder(
    model: EmbedModel<'_>,
    tensors: &dyn TensorSource,
    options: &EmbedOptions,
    device: &CudaDevice,
    cuda: &CudaOptions,
) -> Result<Box<dyn Embedder>, LoadError> {
    let gpu = NvidiaGpu::new(device, &cuda.compile)?;
    let backend = if cuda.deterministic { CudaBackend::deterministic(gpu) } else { CudaBackend::new(gpu) };
    warmed_up(load_embedder(backend, model, tensors, options)?)
}

/// Loads an embedder onto any device; `options.threads` is the caller's affair.
///
/// # Errors
/// As for [`load_cpu_embedder`].
pub fn load_embedder<B: EncoderBackend + 'static>(
    backend: B,
    model: EmbedModel<'_>,
    tensors: &dyn TensorSource,
    options: &EmbedOptions,
) -> Result<Box<dyn Embedder>, LoadError> {
    Ok(match model {
        EmbedModel::Encoder(spec) => Box::new(Encoder::new(backend, spec, tensors, options)?),
        EmbedModel::Decoder(spec) => Box::new(DecoderEmbedder::new(backend, spec, tensors, options)?),
    })
}

/// After steps of the longest texts and of the most.
fn warmed_up(mut embedder: Box<dyn Embedder>) -> Result<Box<dyn Embedder>, LoadError> {
    let EmbedLimits { max_tokens, max_step_tokens, max_seqs, .. } = embedder.limits();
    for len in [max_tokens, 1] {
        let text = EmbedInput { tokens: vec![0; len], types: Vec::new() };
        let texts = vec![text; (max_step_tokens / len.max(1)).clamp(1, max_seqs)];
        embedder.embed(&texts, &mut Vec::new()).map_err(load_error)?;
    }
    Ok(embedder)
}

fn pooling_kind(pooling: Pooling) -> PoolingKind {
    match pooling {
        Pooling::Mean => PoolingKind::Mean,
        Pooling::Cls => PoolingKind::First,
        Pooling::Last => PoolingKind::Last,
        Pooling::Max => PoolingKind::Max,
    }
}
