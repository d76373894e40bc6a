//! An answer as a message, and as the events that make it up.

use serde_json::{Map, Value};

use super::errors;
use super::types::{Delta, Event, Message, MessageDelta, OutputBlock, StopReason, Usage};
use crate::api::blocks::{Block, Change, Ending, Kind, Teller};
use crate::api::openai::chat::Begun;
use crate::service::{self, ServiceError, Token, random};

pub(super) struct Telling {
    pub message: Message,
    /// Of the block that is open.
    kind: Kind,
}

impl Telling {
    pub fn new(chat: &Begun) -> Self {
        let prompt = u32::try_from(chat.generation.facts.prompt.len()).unwrap_or(u32::MAX);
        let cached = chat.generation.cached_tokens();
        let usage = Usage {
            input_tokens: prompt.saturating_sub(cached),
            cache_read_input_tokens: cached,
            ..Usage::default()
        };
        let message = Message {
            id: random::id("msg"),
            kind: "message",
            role: "assistant",
            model: chat.model().to_owned(),
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: None,
            usage,
        };
        Self { message, kind: Kind::Text }
    }
}

impl Teller for Telling {
    type Event = Event;

    fn begin(&mut self) -> Vec<Event> {
        vec![Event::MessageStart { message: self.message.clone() }]
    }

    fn token(&mut self, _: &Token) {}

    fn change(&mut self, change: Change) -> Vec<Event> {
        let index = self.message.content.len();
        vec![match change {
            Change::Began(kind) => {
                self.kind = kind.clone();
                let content_block = match kind {
                    Kind::Reasoning => OutputBlock::Thinking { thinking: String::new(), signature: "" },
                    Kind::Text => OutputBlock::Text { text: String::new() },
                    Kind::Call { id, name } => OutputBlock::ToolUse { id, name, input: Map::new() },
                };
                Event::ContentBlockStart { index, content_block }
            }
            Change::Grew(text) => {
                let delta = match self.kind {
                    Kind::Reasoning => Delta::Thinking { thinking: text },
                    Kind::Text => Delta::Text { text },
                    Kind::Call { .. } => Delta::InputJson { partial_json: text },
                };
                Event::ContentBlockDelta { index, delta }
            }
            Change::Ended { block, .. } => {
                self.message.content.push(whole(block));
                Event::ContentBlockStop { index }
            }
        }]
    }

    fn end(&mut self, Ending { end, called, .. }: Ending) -> Vec<Event> {
        let stop_reason = match end.reason {
            service::StopReason::Length => StopReason::MaxTokens,
            service::StopReason::StopString => StopReason::StopSequence,
            service::StopReason::EndOfSequence if called => StopReason::ToolUse,
            service::StopReason::EndOfSequence => StopReason::EndTurn,
        };
        let stop_sequence = end.stop.map(|stop| stop.to_string());
        self.message.usage.output_tokens = end.generated_tokens;
        self.message.stop_reason = Some(stop_reason);
        self.message.stop_sequence.clone_from(&stop_sequence);
        let delta = MessageDelta { stop_reason, stop_sequence };
        vec![Event::MessageDelta { delta, usage: self.message.usage }, Event::MessageStop]
    }

    fn fail(&mut self, error: ServiceError) -> Vec<Event> {
        vec![Event::Error { error: errors::detail(&error.into()) }]
    }
}

/// A call that was cut off is text: its arguments are no object.
fn whole(block: Block) -> OutputBlock {
    match block.kind {
        Kind::Reasoning => OutputBlock::Thinking { thinking: block.text, signature: "" },
        Kind::Text => OutputBlock::Text { text: block.text },
        Kind::Call { id, name } => match serde_json::from_str::<Value>(&block.text) {
            Ok(Value::Object(input)) => OutputBlock::ToolUse { id, name, input },
            _ => OutputBlock::Text { text: block.text },
        },
    }
}
