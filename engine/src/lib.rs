//! Weirgate's engine: a continuous batcher over a paged KV cache.
//!
//! It takes token ids and gives token ids; it knows nothing of HTTP, text or JSON. One engine thread per model:
//! inbox → [`Scheduler`] → [`Batch`] → [`Executor`] → [`weirgate_types::StepOutputs`].

mod batch;
mod executor;

pub use batch::{Batch, Sample, Score};
pub use executor::{Executor, ExecutorError, ExecutorLimits, StepResult};
