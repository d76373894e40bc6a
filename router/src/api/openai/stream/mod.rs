//! Chunks: OpenAI's (the role once, usage in a chunk of its own) or TGI's (one per token), by [`Quirks`]; `[DONE]` at
//! the end of both.

mod chat;
mod text;

use std::collections::VecDeque;

use axum::response::Response;
use axum::response::sse::Event as SseEvent;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream, SelectAll};
use serde::Serialize;

use super::answer::usage;
use super::errors::Refusal;
use super::parameters::Shape;
use super::quirks::Quirks;
use super::types::{Envelope, Usage};
use crate::api::events::{self, json_event};
use crate::service::{Generation, SequenceEnd, ServiceError, Step, Token};
pub(super) use chat::ChatChunks;
pub(super) use text::TextChunks;

/// The data of the last event.
pub(super) const DONE: &str = "[DONE]";

/// How one API words its chunks. `index` is a choice's number over all prompts.
pub(super) trait Chunks: Send + 'static {
    type Choice: Serialize + Clone + Send + 'static;
    /// Whether TGI's last chunk of each choice has the usage, rather than a chunk after them all.
    const ENDS_WITH_USAGE: bool;
    /// A choice's first chunk, if it has one.
    fn begin(&mut self, index: usize) -> Option<Self::Choice>;
    /// The chunks of a token, of a choice's end, or of the two together.
    fn step(&mut self, index: usize, token: Option<Token>, end: Option<SequenceEnd>) -> Vec<Self::Choice>;
}

/// What happened to the generation for prompt number `.0`.
type Item = (usize, Result<Step, ServiceError>);

/// Where a stream tells its token counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UsagePlace {
    Nowhere,
    LastChunkOfChoice,
    ChunkOfItsOwn,
}

struct ChunkStream<K: Chunks> {
    chunks: K,
    quirks: &'static Quirks,
    envelope: Envelope<K::Choice>,
    /// Dropping it cancels what is under way.
    items: SelectAll<BoxStream<'static, Item>>,
    ready: VecDeque<SseEvent>,
    /// Choices per prompt.
    n: usize,
    usage_place: UsagePlace,
    usage: Usage,
    /// Of each prompt.
    prompt_tokens: Vec<u32>,
    done: bool,
}

/// The response. The generations have started, so that refusals were told by their status.
pub(super) fn respond<K: Chunks>(
    mut envelope: Envelope<K::Choice>,
    chunks: K,
    generations: Vec<Generation>,
    shape: &Shape,
) -> Response {
    let usage_place = match (shape.quirks.token_chunks && K::ENDS_WITH_USAGE, shape.include_usage) {
        (true, _) => UsagePlace::LastChunkOfChoice,
        (false, true) => UsagePlace::ChunkOfItsOwn,
        (false, false) => UsagePlace::Nowhere,
    };
    // Beside a chunk with the usage, the others have a null; TGI's chats have it always.
    let null = usage_place == UsagePlace::ChunkOfItsOwn || (shape.quirks.token_chunks && !K::ENDS_WITH_USAGE);
    envelope.usage = null.then_some(None);
    let mut chunks = ChunkStream {
        chunks,
        quirks: shape.quirks,
        envelope,
        usage: usage(&generations, 0),
        prompt_tokens: generations.iter().map(|generation| generation.facts.prompt.len() as u32).collect(),
        items: stream::select_all(generations.into_iter().enumerate().map(|(at, one)| steps(at, one))),
        ready: VecDeque::new(),
        n: shape.n,
        usage_place,
        done: false,
    };
    for index in 0..chunks.prompt_tokens.len() * shape.n {
        let first = chunks.chunks.begin(index);
        chunks.queue(first, None);
    }
    let events = stream::unfold(chunks, |mut chunks| async move {
        let event = chunks.next().await?;
        Some((event, chunks))
    });
    events::respond(events)
}

fn steps(prompt: usize, generation: Generation) -> BoxStream<'static, Item> {
    stream::unfold(generation, move |mut generation| async move {
        let step = generation.step().await?;
        Some(((prompt, step), generation))
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
                Some((prompt, Ok((token, end)))) => self.take(prompt, token, end),
                Some((_, Err(error))) => self.fail(error),
                None => self.finish(),
            }
        }
    }

    fn take(&mut self, prompt: usize, token: Option<Token>, end: Option<SequenceEnd>) {
        let place = token.as_ref().map(|token| token.index).or(end.as_ref().map(|end| end.index));
        let Some(place) = place else { return };
        let generated = end.as_ref().map(|end| end.generated_tokens);
        self.usage.completion_tokens += generated.unwrap_or(0);
        let prompt_tokens = self.prompt_tokens.get(prompt).copied().unwrap_or(0);
        let usage =
            generated.filter(|_| self.usage_place == UsagePlace::LastChunkOfChoice).map(|generated| Usage {
                prompt_tokens,
                completion_tokens: generated,
                total_tokens: prompt_tokens + generated,
                prompt_tokens_details: None,
            });
        let choices = self.chunks.step(prompt * self.n + place, token, end);
        self.queue(choices, usage);
    }

    /// One chunk per choice.
    fn queue(&mut self, choices: impl IntoIterator<Item = K::Choice>, usage: Option<Usage>) {
        for choice in choices {
            let mut chunk = Envelope { choices: vec![choice], ..self.envelope.clone() };
            if usage.is_some() {
                chunk.usage = Some(usage);
            }
            self.ready.push_back(json_event(&chunk));
        }
    }

    fn fail(&mut self, error: ServiceError) {
        self.done = true;
        self.items.clear();
        self.ready.push_back(json_event(&Refusal::from(error).event(self.quirks)));
        if self.quirks.text_errors {
            self.ready.push_back(SseEvent::default().data(DONE));
        }
    }

    fn finish(&mut self) {
        self.done = true;
        if self.usage_place == UsagePlace::ChunkOfItsOwn {
            self.usage.total_tokens = self.usage.prompt_tokens + self.usage.completion_tokens;
            let chunk = Envelope { usage: Some(Some(self.usage)), ..self.envelope.clone() };
            self.ready.push_back(json_event(&chunk));
        }
        self.ready.push_back(SseEvent::default().data(DONE));
    }
}
