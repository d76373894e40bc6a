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

use crate::ExecutorError;
use crate::decoder::LoadError;
use decoder::DecoderEmbedder;
use encoder::Encoder;
pub use thread::{EmbedConfig, EmbedFailure, EmbedHandle, EmbedTicket, spawn_embedder};
use weirgate_kernels::PoolingKind;
use weirgate_kernels::cpu::CpuBackend;

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

/// How an embedder is brought onto the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedOptions {
    /// Worker threads, at least 1.
    pub threads: usize,
    /// Tokens of all texts of a step; raised to `max_tokens`.
    pub max_step_tokens: usize,
    pub max_seqs: usize,
    /// Tokens of one text.
    pub max_tokens: usize,
    pub pooling: Pooling,
}

/// Loads an encoder onto the CPU.
///
/// # Errors
/// When tensors are missing or of another shape than the configuration implies, or memory runs out.
pub fn load_cpu_encoder(
    spec: &EncoderSpec,
    tensors: &dyn TensorSource,
    options: &EmbedOptions,
) -> Result<Box<dyn Embedder>, LoadError> {
    Ok(Box::new(Encoder::new(CpuBackend::new(options.threads), spec, tensors, options)?))
}

/// Loads a decoder, whose last hidden states are pooled, onto the CPU.
///
/// # Errors
/// As for [`load_cpu_encoder`].
pub fn load_cpu_decoder_embedder(
    spec: &ModelSpec,
    tensors: &dyn TensorSource,
    options: &EmbedOptions,
) -> Result<Box<dyn Embedder>, LoadError> {
    Ok(Box::new(DecoderEmbedder::new(CpuBackend::new(options.threads), spec, tensors, options)?))
}

fn pooling_kind(pooling: Pooling) -> PoolingKind {
    match pooling {
        Pooling::Mean => PoolingKind::Mean,
        Pooling::Cls => PoolingKind::First,
        Pooling::Last => PoolingKind::Last,
        Pooling::Max => PoolingKind::Max,
    }
}
