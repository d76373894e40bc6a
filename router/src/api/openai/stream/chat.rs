use super::Chunks;
use crate::api::openai::logprobs;
use crate::api::openai::parameters::Shape;
use crate::api::openai::quirks::Quirks;
use crate::api::openai::types::{ChatChunkChoice, Delta};
use crate::service::{SequenceEnd, Token, Vocabulary};

const ROLE: Option<&str> = Some("assistant");

/// `/v1/chat/completions`.
pub(in crate::api::openai) struct ChatChunks {
    vocabulary: Vocabulary,
    quirks: &'static Quirks,
    logprobs: bool,
}

impl ChatChunks {
    pub fn new(vocabulary: Vocabulary, shape: &Shape) -> Self {
        Self { vocabulary, quirks: shape.quirks, logprobs: shape.logprobs }
    }
}

impl Chunks for ChatChunks {
    type Choice = ChatChunkChoice;
    const ENDS_WITH_USAGE: bool = false;

    fn begin(&mut self, index: usize) -> Option<ChatChunkChoice> {
        let delta = Delta { role: ROLE, content: Some(String::new()) };
        let first = ChatChunkChoice { index, delta, logprobs: None, finish_reason: None };
        (!self.quirks.token_chunks).then_some(first)
    }

    fn step(&mut self, index: usize, token: Option<Token>, end: Option<SequenceEnd>) -> Vec<ChatChunkChoice> {
        let logprobs = token.as_ref().filter(|_| self.logprobs);
        let logprobs = logprobs.map(|token| logprobs::chat(std::slice::from_ref(token), &self.vocabulary));
        let finish_reason = end.as_ref().map(|end| self.quirks.finish_reason(end.reason));
        let mut text = token.map(|token| token.text).unwrap_or_default();
        text.extend(end.map(|end| end.tail));
        if self.quirks.token_chunks {
            let delta = Delta { role: ROLE, content: Some(text) };
            return vec![ChatChunkChoice { index, delta, logprobs, finish_reason }];
        }
        let mut chunks = Vec::new();
        if !text.is_empty() || logprobs.is_some() {
            let delta = Delta { role: None, content: Some(text) };
            chunks.push(ChatChunkChoice { index, delta, logprobs, finish_reason: None });
        }
        if finish_reason.is_some() {
            chunks.push(ChatChunkChoice { index, delta: Delta::default(), logprobs: None, finish_reason });
        }
        chunks
    }
}
