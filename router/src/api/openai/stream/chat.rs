use super::Chunks;
use crate::api::openai::logprobs;
use crate::api::openai::parameters::Shape;
use crate::api::openai::quirks::Quirks;
use crate::api::openai::reading::Reading;
use crate::api::openai::types::{ChatChunkChoice, Delta};
use crate::service::{SequenceEnd, Token, Vocabulary};
use crate::tools::Reader;

const ROLE: Option<&str> = Some("assistant");

/// `/v1/chat/completions`.
pub(in crate::api::openai) struct ChatChunks {
    vocabulary: Vocabulary,
    quirks: &'static Quirks,
    logprobs: bool,
    reading: Reading,
    /// One per choice.
    readers: Vec<Reader>,
}

impl ChatChunks {
    pub fn new(vocabulary: Vocabulary, shape: &Shape, reading: Reading) -> Self {
        let readers = (0..shape.n).map(|_| reading.reader()).collect();
        Self { vocabulary, quirks: shape.quirks, logprobs: shape.logprobs, reading, readers }
    }

    /// What of a choice's text can be told now.
    fn read(&mut self, index: usize, text: &str, ended: bool) -> Vec<Delta> {
        let Some(reader) = self.readers.get_mut(index) else { return Vec::new() };
        let mut pieces = reader.push(text);
        if ended {
            pieces.extend(reader.finish());
        }
        pieces.into_iter().map(|piece| self.reading.delta(piece)).collect()
    }

    fn called(&self, index: usize) -> bool {
        self.readers.get(index).is_some_and(Reader::called)
    }
}

impl ChatChunks {
    /// A chunk that says no more than this.
    fn chunk(&self, index: usize, delta: Delta) -> ChatChunkChoice {
        ChatChunkChoice {
            index,
            delta,
            logprobs: None,
            finish_reason: None,
            stop_reason: self.quirks.stop_reason(),
            schema_checks: Vec::new(),
        }
    }
}

impl Chunks for ChatChunks {
    type Choice = ChatChunkChoice;
    const ENDS_WITH_USAGE: bool = false;

    fn begin(&mut self, index: usize) -> Option<ChatChunkChoice> {
        let delta = Delta { role: ROLE, content: Some(String::new()), ..Delta::default() };
        (!self.quirks.token_chunks).then(|| self.chunk(index, delta))
    }

    fn step(&mut self, index: usize, token: Option<Token>, end: Option<SequenceEnd>) -> Vec<ChatChunkChoice> {
        let logprobs = token.as_ref().filter(|_| self.logprobs);
        let logprobs = logprobs.map(|token| logprobs::chat(std::slice::from_ref(token), &self.vocabulary));
        let reason = end.as_ref().map(|end| end.reason);
        let mut text = token.map(|token| token.text).unwrap_or_default();
        text.extend(end.as_ref().map(|end| end.tail.as_str()));
        let schema_checks = end.map(|end| self.reading.schema_checks(&end.text)).unwrap_or_default();
        if self.quirks.token_chunks && self.reading.is_plain() {
            let delta = Delta { role: ROLE, content: Some(text), ..Delta::default() };
            let finish_reason = reason.map(|reason| self.quirks.finish_reason(reason));
            return vec![ChatChunkChoice {
                logprobs,
                finish_reason,
                schema_checks,
                ..self.chunk(index, delta)
            }];
        }
        let mut deltas = self.read(index, &text, reason.is_some());
        if deltas.is_empty() && logprobs.is_some() {
            deltas.push(Delta { content: Some(String::new()), ..Delta::default() });
        }
        if reason.is_some() {
            deltas.push(Delta::default());
        }
        let role = if self.quirks.token_chunks { ROLE } else { None };
        let chunk = |delta| self.chunk(index, Delta { role, ..delta });
        let mut chunks: Vec<ChatChunkChoice> = deltas.into_iter().map(chunk).collect();
        if let Some(first) = chunks.first_mut() {
            first.logprobs = logprobs;
        }
        if let (Some(last), Some(reason)) = (chunks.last_mut(), reason) {
            last.finish_reason = Some(self.reading.finish_reason(reason, self.called(index)));
            last.schema_checks = schema_checks;
        }
        chunks
    }
}
