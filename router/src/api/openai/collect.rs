//! Runs a request to its end, for answers that are sent whole.

use super::logprobs;
pub(super) use crate::api::collect::Finished;
use crate::api::collect::collect as collect_all;
use crate::service::{Generation, ServiceError};

/// A finished request: its answers, and what it took.
pub(super) struct Collected {
    pub sequences: Vec<Finished>,
    /// Of all sequences, those not among the answers included.
    pub generated_tokens: u32,
    /// Log-probabilities of the prompt's tokens, where asked for.
    pub prompt: Vec<Option<f32>>,
}

/// Waits for the end and keeps the `n` best of the sequences; in order, where all are kept.
pub(super) async fn collect(generation: &mut Generation, n: usize) -> Result<Collected, ServiceError> {
    let mut all = collect_all(generation).await?;
    let generated_tokens = all.sequences.iter().map(|sequence| sequence.end.generated_tokens).sum();
    if all.sequences.len() > n {
        all.sequences.sort_by(|a, b| logprobs::mean(b).total_cmp(&logprobs::mean(a)));
        all.sequences.truncate(n);
    }
    Ok(Collected { sequences: all.sequences, generated_tokens, prompt: all.prompt })
}
