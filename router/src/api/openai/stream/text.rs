use super::Chunks;
use crate::api::openai::logprobs;
use crate::api::openai::parameters::Shape;
use crate::api::openai::quirks::Quirks;
use crate::api::openai::types::{CompletionLogprobs, TextChoice};
use crate::service::{SequenceEnd, Token, Vocabulary};

/// `/v1/completions`.
pub(in crate::api::openai) struct TextChunks {
    vocabulary: Vocabulary,
    quirks: &'static Quirks,
    logprobs: bool,
    /// Each prompt's text, where it is echoed; else empty.
    echoes: Vec<String>,
    n: usize,
    /// Characters of each choice's text so far.
    offsets: Vec<usize>,
}

impl TextChunks {
    pub fn new(vocabulary: Vocabulary, echoes: Vec<String>, shape: &Shape) -> Self {
        let offsets = vec![0; echoes.len() * shape.n];
        Self { vocabulary, quirks: shape.quirks, logprobs: shape.logprobs, echoes, n: shape.n, offsets }
    }

    fn logprobs(&mut self, index: usize, token: &Token) -> CompletionLogprobs {
        let token = std::slice::from_ref(token);
        match self.offsets.get_mut(index) {
            Some(offset) if !self.quirks.plain_logprobs => {
                CompletionLogprobs::Lists(logprobs::text(std::iter::empty(), token, &self.vocabulary, offset))
            }
            _ => logprobs::plain(token),
        }
    }

    /// The reason of a chunk that is not a choice's last.
    fn no_reason(&self) -> Option<&'static str> {
        self.quirks.token_chunks.then_some("")
    }
}

impl Chunks for TextChunks {
    type Choice = TextChoice;
    const ENDS_WITH_USAGE: bool = true;

    fn begin(&mut self, index: usize) -> Option<TextChoice> {
        let text = self.echoes.get(index.checked_div(self.n)?).filter(|text| !text.is_empty())?.clone();
        if let Some(offset) = self.offsets.get_mut(index) {
            *offset += text.chars().count();
        }
        Some(TextChoice {
            index,
            text,
            logprobs: None,
            finish_reason: self.no_reason(),
            stop_reason: self.quirks.stop_reason(),
        })
    }

    fn step(&mut self, index: usize, token: Option<Token>, end: Option<SequenceEnd>) -> Vec<TextChoice> {
        let logprobs = token.as_ref().filter(|_| self.logprobs).map(|token| self.logprobs(index, token));
        let finish_reason = match &end {
            Some(end) => Some(self.quirks.text_chunk_reason(end.reason)),
            None => self.no_reason(),
        };
        let mut text = token.map(|token| token.text).unwrap_or_default();
        text.extend(end.map(|end| end.tail));
        if text.is_empty() && logprobs.is_none() && finish_reason.is_none() {
            return Vec::new();
        }
        let stop_reason = self.quirks.stop_reason();
        vec![TextChoice { index, text, logprobs, finish_reason, stop_reason }]
    }
}
