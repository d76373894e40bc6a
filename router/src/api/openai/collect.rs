//! Runs a request to its end, for answers that are sent whole.

use super::logprobs;
use crate::service::{Event, Generation, SequenceEnd, ServiceError, Token};

/// One finished sequence.
pub(super) struct Finished {
    pub end: SequenceEnd,
    pub tokens: Vec<Token>,
}

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
    let mut prompt = Vec::new();
    let mut tokens: Vec<Vec<Token>> = Vec::new();
    let mut sequences: Vec<Finished> = Vec::new();
    while let Some(event) = generation.next().await {
        match event? {
            Event::Prompt(logprobs) => prompt = logprobs,
            Event::Token(token) => {
                if tokens.len() <= token.index {
                    tokens.resize_with(token.index + 1, Vec::new);
                }
                if let Some(own) = tokens.get_mut(token.index) {
                    own.push(token);
                }
            }
            Event::End(end) => {
                let tokens = tokens.get_mut(end.index).map(std::mem::take).unwrap_or_default();
                sequences.push(Finished { end, tokens });
            }
        }
    }
    let generated_tokens = sequences.iter().map(|sequence| sequence.end.generated_tokens).sum();
    sequences.sort_by_key(|sequence| sequence.end.index);
    if sequences.len() > n {
        sequences.sort_by(|a, b| logprobs::mean(b).total_cmp(&logprobs::mean(a)));
        sequences.truncate(n);
    }
    Ok(Collected { sequences, generated_tokens, prompt })
}
