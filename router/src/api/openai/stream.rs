//! Chunks as OpenAI sends them: the role once, `[DONE]` at the end, usage in a chunk of its own.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream, SelectAll};
use serde::Serialize;

use super::convert::{self, Shape};
use super::errors::ApiError;
use super::handlers::usage;
use super::types::{ChatChunkChoice, ChatLogprobs, Delta, Envelope, TextChoice, TextLogprobs, Usage};
use crate::service::{Event, Generation, SequenceEnd, ServiceError, Token, Vocabulary};

/// How one API words its chunks. `index` is a choice's number over all prompts.
pub(super) trait Chunks: Send + 'static {
    type Choice: Serialize + Clone + Send + 'static;
    /// A choice's first chunk, if it has one.
    fn begin(&mut self, index: usize) -> Option<Self::Choice>;
    /// A token's chunk, unless it has nothing to show.
    fn token(&mut self, index: usize, token: Token) -> Option<Self::Choice>;
    /// The last chunks.
    fn end(&mut self, index: usize, end: SequenceEnd) -> Vec<Self::Choice>;
}

/// An event of the generation for prompt number `.0`.
type Item = (usize, Result<Event, ServiceError>);

struct ChunkStream<K: Chunks> {
    chunks: K,
    envelope: Envelope<K::Choice>,
    /// Dropping it cancels what is under way.
    items: SelectAll<BoxStream<'static, Item>>,
    ready: VecDeque<SseEvent>,
    /// Choices per prompt.
    n: usize,
    include_usage: bool,
    usage: Usage,
    done: bool,
}

/// The response. The generations have started, so that refusals were told by their status.
pub(super) fn respond<K: Chunks>(
    envelope: Envelope<K::Choice>,
    chunks: K,
    generations: Vec<Generation>,
    shape: &Shape,
) -> Response {
    let usage = usage(&generations, 0);
    let prompts = generations.len();
    let items = generations.into_iter().enumerate().map(|(prompt, generation)| events(prompt, generation));
    let mut chunks = ChunkStream {
        chunks,
        envelope,
        items: stream::select_all(items),
        ready: VecDeque::new(),
        n: shape.n,
        include_usage: shape.include_usage,
        usage,
        done: false,
    };
    for index in 0..prompts * shape.n {
        let first = chunks.chunks.begin(index);
        chunks.queue(first);
    }
    let events = stream::unfold(chunks, |mut chunks| async move {
        let event = chunks.next().await?;
        Some((Ok::<_, Infallible>(event), chunks))
    });
    let mut response = Sse::new(events).keep_alive(KeepAlive::default()).into_response();
    response
        .headers_mut()
        .insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

fn events(prompt: usize, generation: Generation) -> BoxStream<'static, Item> {
    stream::unfold(generation, move |mut generation| async move {
        let event = generation.next().await?;
        Some(((prompt, event), generation))
    })
    .boxed()
}

impl<K: Chunks> ChunkStream<K> {
    async fn next(&mut self) -> Option<SseEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.done {
                return None;
            }
            match self.items.next().await {
                Some((prompt, Ok(event))) => self.take(prompt, event),
                Some((_, Err(error))) => self.fail(error),
                None => self.finish(),
            }
        }
    }

    fn take(&mut self, prompt: usize, event: Event) {
        match event {
            Event::Prompt(_) => {}
            Event::Token(token) => {
                let choice = self.chunks.token(prompt * self.n + token.index, token);
                self.queue(choice);
            }
            Event::End(end) => {
                self.usage.completion_tokens += end.generated_tokens;
                let choices = self.chunks.end(prompt * self.n + end.index, end);
                self.queue(choices);
            }
        }
    }

    /// One chunk per choice.
    fn queue(&mut self, choices: impl IntoIterator<Item = K::Choice>) {
        for choice in choices {
            let chunk = Envelope { choices: vec![choice], ..self.envelope.clone() };
            self.ready.push_back(json_event(&chunk));
        }
    }

    fn fail(&mut self, error: ServiceError) {
        self.done = true;
        self.items.clear();
        self.ready.push_back(json_event(&ApiError::from(error).into_body()));
    }

    fn finish(&mut self) {
        self.done = true;
        if self.include_usage {
            self.usage.total_tokens = self.usage.prompt_tokens + self.usage.completion_tokens;
            let chunk = Envelope { usage: Some(self.usage), ..self.envelope.clone() };
            self.ready.push_back(json_event(&chunk));
        }
        self.ready.push_back(SseEvent::default().data("[DONE]"));
    }
}

fn json_event(body: &impl Serialize) -> SseEvent {
    // A struct of numbers and strings always serializes; NaN becomes null.
    SseEvent::default().json_data(body).unwrap_or_default()
}

/// `/v1/chat/completions`.
pub(super) struct ChatChunks {
    vocabulary: Vocabulary,
    logprobs: bool,
}

impl ChatChunks {
    pub fn new(vocabulary: Vocabulary, logprobs: bool) -> Self {
        Self { vocabulary, logprobs }
    }
}

impl Chunks for ChatChunks {
    type Choice = ChatChunkChoice;

    fn begin(&mut self, index: usize) -> Option<ChatChunkChoice> {
        let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
        Some(ChatChunkChoice { index, delta, logprobs: None, finish_reason: None })
    }

    fn token(&mut self, index: usize, token: Token) -> Option<ChatChunkChoice> {
        let logprobs = self
            .logprobs
            .then(|| ChatLogprobs { content: vec![convert::chat_logprob(&token, &self.vocabulary)] });
        if token.text.is_empty() && logprobs.is_none() {
            return None;
        }
        let delta = Delta { role: None, content: Some(token.text) };
        Some(ChatChunkChoice { index, delta, logprobs, finish_reason: None })
    }

    fn end(&mut self, index: usize, end: SequenceEnd) -> Vec<ChatChunkChoice> {
        let chunk = |delta, finish_reason| ChatChunkChoice { index, delta, logprobs: None, finish_reason };
        let mut chunks = Vec::new();
        if !end.tail.is_empty() {
            chunks.push(chunk(Delta { role: None, content: Some(end.tail) }, None));
        }
        chunks.push(chunk(Delta::default(), Some(convert::finish_reason(end.reason))));
        chunks
    }
}

/// `/v1/completions`.
pub(super) struct TextChunks {
    vocabulary: Vocabulary,
    logprobs: bool,
    /// Each prompt's text, where it is echoed; else empty.
    echoes: Vec<String>,
    n: usize,
    /// Characters of each choice's text so far.
    offsets: Vec<usize>,
}

impl TextChunks {
    pub fn new(vocabulary: Vocabulary, logprobs: bool, echoes: Vec<String>, n: usize) -> Self {
        let offsets = vec![0; echoes.len() * n];
        Self { vocabulary, logprobs, echoes, n, offsets }
    }
}

impl Chunks for TextChunks {
    type Choice = TextChoice;

    fn begin(&mut self, index: usize) -> Option<TextChoice> {
        let text = self.echoes.get(index.checked_div(self.n)?).filter(|text| !text.is_empty())?.clone();
        if let Some(offset) = self.offsets.get_mut(index) {
            *offset += text.chars().count();
        }
        Some(TextChoice { index, text, logprobs: None, finish_reason: None })
    }

    fn token(&mut self, index: usize, token: Token) -> Option<TextChoice> {
        let logprobs = self.logprobs.then(|| {
            let mut list = TextLogprobs::default();
            if let Some(offset) = self.offsets.get_mut(index) {
                convert::push_text_logprob(&mut list, &token, &self.vocabulary, offset);
            }
            list
        });
        if token.text.is_empty() && logprobs.is_none() {
            return None;
        }
        Some(TextChoice { index, text: token.text, logprobs, finish_reason: None })
    }

    fn end(&mut self, index: usize, end: SequenceEnd) -> Vec<TextChoice> {
        let finish_reason = Some(convert::finish_reason(end.reason));
        vec![TextChoice { index, text: end.tail, logprobs: None, finish_reason }]
    }
}
