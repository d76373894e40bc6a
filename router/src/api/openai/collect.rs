//! The answers of a request that has come to its end.

use crate::api::collect;
pub(super) use crate::api::collect::Finished;
use crate::service::{Generation, ServiceError};

/// A finished request: its answers, and what it took.
pub(super) struct Collected {
    pub sequences: Vec<Finished>,
    /// Of all sequences, those not among the answers included.
    pub generated_tokens: u32,
    /// Log-probabilities of the prompt's tokens, where asked for.
    pub prompt: Vec<Option<f32>>,
}

/// Waits for the end and keeps the `n` likeliest of the sequences; in order, where all are kept.
pub(super) async fn collect(generation: &mut Generation, n: usize) -> Result<Collected, ServiceError> {
    let collect::Collected { prompt, mut sequences } = collect::collect(generation).await?;
    let generated_tokens = sequences.iter().map(|sequence| sequence.end.generated_tokens).sum();
    if sequences.len() > n {
        sequences.sort_by(|a, b| b.mean_logprob().total_cmp(&a.mean_logprob()));
        sequences.truncate(n);
    }
    Ok(Collected { sequences, generated_tokens, prompt })
}
