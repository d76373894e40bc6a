//! A request run to its end, for answers given in one piece.

use crate::service::{Event, Generation, SequenceEnd, ServiceError, Token};

/// One finished sequence.
pub(crate) struct Finished {
    pub end: SequenceEnd,
    pub tokens: Vec<Token>,
}

impl Finished {
    pub fn mean_logprob(&self) -> f32 {
        self.tokens.iter().map(|token| token.logprob).sum::<f32>() / self.tokens.len().max(1) as f32
    }
}

/// A finished request.
pub(crate) struct Collected {
    /// Log-probabilities of the prompt's tokens, where asked for; the first has none.
    pub prompt: Vec<Option<f32>>,
    /// In the order of their indices.
    pub sequences: Vec<Finished>,
}

impl Collected {
    /// Takes out the likeliest sequence, by its mean log-probability; of equals the first.
    pub fn take_best(&mut self) -> Option<Finished> {
        let score = |at: usize| self.sequences.get(at).map_or(f32::NEG_INFINITY, Finished::mean_logprob);
        let best =
            (0..self.sequences.len()).reduce(|best, at| if score(at) > score(best) { at } else { best })?;
        Some(self.sequences.remove(best))
    }
}

/// Waits for everything that `generation` has to say.
pub(crate) async fn collect(generation: &mut Generation) -> Result<Collected, ServiceError> {
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
    sequences.sort_by_key(|sequence| sequence.end.index);
    Ok(Collected { prompt, sequences })
}
