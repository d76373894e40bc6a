use std::time::Duration;

use weirgate_kernels::{KernelError, Sampled};
use weirgate_models::Adapter;
use weirgate_types::AdapterId;

use crate::Batch;

/// What a step gives back: one entry per [`Batch::samples`] and per [`Batch::scores`], in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepResult {
    pub sampled: Vec<Sampled>,
    pub scores: Vec<f32>,
}

impl StepResult {
    /// What a model would give that repeats the last token of every sequence.
    pub(crate) fn echo(&mut self, batch: &Batch) {
        self.sampled.clear();
        self.sampled.extend(batch.samples.iter().map(|sample| {
            let token = batch.ids.get(sample.row as usize).copied().unwrap_or_default();
            Sampled { token, ..Sampled::default() }
        }));
        self.scores.clear();
        self.scores.resize(batch.scores.len(), 0.0);
    }
}

/// The device went wrong; the engine cannot go on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExecutorError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("the batch is malformed: {0}")]
    Batch(String),
}

/// What an executor can hold and do per step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecutorLimits {
    /// KV blocks in the pool.
    pub blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
    /// Most tokens in one step.
    pub max_step_tokens: usize,
    /// Most sequences in one step.
    pub max_seqs: usize,
    pub vocab_size: usize,
    /// Longest sequence, in tokens.
    pub max_seq_len: usize,
}

/// Runs batches on a device; hides which. Two phases: `launch` hands the step over, `collect` waits for its result. Every
/// launch is followed by one collect. The batch may change as soon as `launch` returns.
pub trait Executor: Send {
    fn limits(&self) -> ExecutorLimits;
    /// Whether steps are computed while the host goes on, from `launch` to `collect`, and not in `launch`.
    fn is_asynchronous(&self) -> bool {
        false
    }
    /// See [`weirgate_kernels::Backend::use_threads`].
    ///
    /// # Errors
    /// [`ExecutorError::Kernel`].
    fn use_threads(&mut self, _threads: usize) -> Result<(), ExecutorError> {
        Ok(())
    }
    fn launch(&mut self, batch: &Batch) -> Result<(), ExecutorError>;
    /// Replaces the contents of `out`.
    fn collect(&mut self, out: &mut StepResult) -> Result<(), ExecutorError>;
    /// How long the device had nothing to do before the step that was launched last: from the end of the one before, as
    /// `collect` saw it.
    fn waited(&self) -> Duration {
        Duration::ZERO
    }
    /// Brings an adapter onto the device, for batches that name it. What fails changes nothing.
    fn load_adapter(&mut self, id: AdapterId, adapter: &Adapter) -> Result<(), KernelError>;
    /// Takes it off the device; no batch names it any more.
    fn unload_adapter(&mut self, id: AdapterId);
}
