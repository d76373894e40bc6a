//! A generation's events as Ollama's objects: content, thinking, calls, log-probabilities, and what it took.

use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;
use weirgate_types::TokenId;

use super::types::{
    CalledFunction, ChatResponse, Figures, GenerateResponse, LikelyToken, Logprob, Message, State, ToolCall,
};
use crate::residency::Model;
use crate::service::{Generation, SequenceEnd, StopReason, Token, Vocabulary};
use crate::tools::{Calls, Piece, Reader};

/// JSON has no infinity: the log-probability of what cannot be drawn.
const IMPOSSIBLE: f32 = -9999.0;

/// Which of the two routes answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Generate,
    Chat,
}

/// What an answer's objects have in common.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub kind: Kind,
    /// The name that the request used.
    pub model: String,
    pub logprobs: bool,
    /// `generate` without `raw`: the last object has the tokens.
    pub context: bool,
    pub started: Instant,
    /// How long the model took to be there.
    pub load: Duration,
}

impl Shape {
    /// Of a request that began at `started`, once its model is there.
    pub fn new(kind: Kind, model: String, started: Instant) -> Self {
        Self { kind, model, logprobs: false, context: false, started, load: started.elapsed() }
    }
}

/// What an object says.
#[derive(Debug, Default)]
pub(super) struct Parts {
    content: String,
    thinking: String,
    calls: Vec<ToolCall>,
    logprobs: Vec<Logprob>,
}

/// How an answer ended.
pub(super) struct Last {
    reason: &'static str,
    figures: Option<Figures>,
    context: Option<Vec<TokenId>>,
}

impl Parts {
    pub fn is_empty(&self) -> bool {
        self.content.is_empty()
            && self.thinking.is_empty()
            && self.calls.is_empty()
            && self.logprobs.is_empty()
    }

    pub fn append(&mut self, mut more: Self) {
        self.content.push_str(&more.content);
        self.thinking.push_str(&more.thinking);
        self.calls.append(&mut more.calls);
        self.logprobs.append(&mut more.logprobs);
    }
}

impl Shape {
    /// One object as JSON.
    pub fn object(&self, parts: Parts, last: Option<Last>) -> Value {
        let (model, created_at) = (self.model.clone(), now());
        let thinking = Some(parts.thinking).filter(|text| !text.is_empty());
        let (reason, figures, context) = match last {
            Some(Last { reason, figures, context }) => (Some(reason), figures, context),
            None => (None, None, None),
        };
        let state = State {
            done: reason.is_some(),
            done_reason: reason,
            logprobs: Some(parts.logprobs).filter(|list| !list.is_empty()),
            figures,
        };
        let object = match self.kind {
            Kind::Generate => {
                let response = parts.content;
                serde_json::to_value(GenerateResponse {
                    model,
                    created_at,
                    response,
                    thinking,
                    state,
                    context,
                })
            }
            Kind::Chat => {
                let message = Message {
                    role: "assistant".to_owned(),
                    content: Some(parts.content),
                    thinking,
                    tool_calls: Some(parts.calls).filter(|calls| !calls.is_empty()),
                    ..Message::default()
                };
                serde_json::to_value(ChatResponse { model, created_at, message, state })
            }
        };
        // Structs of numbers and strings always serialize.
        object.unwrap_or_default()
    }

    /// The one object of a request that generates nothing.
    pub fn nothing(&self, reason: &'static str) -> Value {
        self.object(Parts::default(), Some(Last { reason, figures: None, context: None }))
    }
}

/// Reads a generation.
pub(super) struct Telling {
    shape: Shape,
    vocabulary: Vocabulary,
    reader: Reader,
    call: Option<OpenCall>,
    calls: usize,
    tokens: Vec<TokenId>,
}

/// A call whose arguments are still coming.
struct OpenCall {
    id: String,
    name: String,
    arguments: String,
}

impl Telling {
    pub fn new(shape: Shape, model: &Model, calls: Option<Calls>, generation: &Generation) -> Self {
        Self {
            shape,
            vocabulary: model.service.vocabulary.clone(),
            reader: Reader::new(calls, generation.facts.thinking),
            call: None,
            calls: 0,
            tokens: Vec::new(),
        }
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    pub fn token(&mut self, token: Token) -> Parts {
        self.tokens.push(token.id);
        let mut parts = Parts::default();
        if self.shape.logprobs {
            parts.logprobs.push(self.logprob(&token));
        }
        let pieces = self.reader.push(&token.text);
        self.take(pieces, &mut parts);
        parts
    }

    /// What was held back, and the end.
    pub fn end(&mut self, end: &SequenceEnd, generation: &Generation) -> (Parts, Last) {
        let mut parts = Parts::default();
        let mut pieces = self.reader.push(&end.tail);
        pieces.extend(self.reader.finish());
        self.take(pieces, &mut parts);
        self.close_call(&mut parts);
        let reason = match end.reason {
            StopReason::Length => "length",
            StopReason::EndOfSequence | StopReason::StopString => "stop",
        };
        let figures = Some(self.figures(end, generation));
        let all = || generation.facts.prompt.iter().chain(&self.tokens).copied().collect();
        let context = self.shape.context.then(all);
        (parts, Last { reason, figures, context })
    }

    fn take(&mut self, pieces: Vec<Piece>, parts: &mut Parts) {
        for piece in pieces {
            match piece {
                Piece::Content(text) => parts.content.push_str(&text),
                Piece::Reasoning(text) => parts.thinking.push_str(&text),
                Piece::Call { id, name, .. } => {
                    self.close_call(parts);
                    self.call = Some(OpenCall { id, name, arguments: String::new() });
                }
                Piece::Arguments { text, .. } => {
                    if let Some(call) = &mut self.call {
                        call.arguments.push_str(&text);
                    }
                }
            }
        }
    }

    /// Calls are told as a whole; one that was cut off is text.
    fn close_call(&mut self, parts: &mut Parts) {
        let Some(OpenCall { id, name, arguments }) = self.call.take() else { return };
        match serde_json::from_str::<Value>(&arguments) {
            Ok(arguments @ Value::Object(_)) => {
                let function = CalledFunction { index: Some(self.calls), name, arguments };
                self.calls += 1;
                parts.calls.push(ToolCall { id: Some(id), function });
            }
            _ => parts.content.push_str(&arguments),
        }
    }

    fn logprob(&self, token: &Token) -> Logprob {
        let likely = |id: TokenId, logprob: f32| {
            let token = self.vocabulary.piece(id);
            let bytes = token.clone().into_bytes();
            LikelyToken { token, logprob: if logprob.is_finite() { logprob } else { IMPOSSIBLE }, bytes }
        };
        Logprob {
            token: likely(token.id, token.logprob),
            top_logprobs: token.top.iter().map(|top| likely(top.id, top.logprob)).collect(),
        }
    }

    fn figures(&self, end: &SequenceEnd, generation: &Generation) -> Figures {
        let figures = generation.figures();
        Figures {
            total_duration: nanoseconds(self.shape.started.elapsed()),
            load_duration: nanoseconds(self.shape.load),
            prompt_eval_count: u32::try_from(generation.facts.prompt.len()).unwrap_or(u32::MAX),
            prompt_eval_duration: nanoseconds(figures.prefill),
            eval_count: end.generated_tokens,
            eval_duration: nanoseconds(figures.inference.saturating_sub(figures.prefill)),
        }
    }
}

/// At least one: clients divide by it.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1)
}

fn now() -> String {
    timestamp(Utc::now())
}

/// RFC 3339 with nanoseconds.
pub(super) fn timestamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Nanos, true)
}
