//! What a chat's text is made of: reasoning, content, tool calls; in whole answers and in chunks.

use std::sync::Arc;

use super::quirks::Quirks;
use super::types::{AssistantMessage, CalledFunction, Delta, ToolCall};
use crate::service::{Checks, SchemaCheck, ServiceError, StopReason, ToolError};
use crate::tools::{Calls, Piece, Reader, Thinking};

const FUNCTION: Option<&str> = Some("function");
/// Every call's id in TGI's whole answers.
const TGI_ID: &str = "0";

/// How the choices of a request are read.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub calls: Option<Calls>,
    pub thinking: Thinking,
    pub quirks: &'static Quirks,
    pub checks: Option<Arc<Checks>>,
}

/// A whole text, taken apart.
#[derive(Default)]
struct Parts {
    content: String,
    reasoning: String,
    calls: Vec<ToolCall>,
}

impl Reading {
    pub fn reader(&self) -> Reader {
        Reader::new(self.calls.clone(), self.thinking)
    }

    /// Whether there is anything but content to be found.
    pub fn is_plain(&self) -> bool {
        self.calls.is_none() && self.thinking == Thinking::None
    }

    /// The reason of a choice.
    pub fn finish_reason(&self, reason: StopReason, called: bool) -> &'static str {
        match reason {
            StopReason::EndOfSequence if called => self.quirks.tool_calls,
            reason => self.quirks.finish_reason(reason),
        }
    }

    /// A whole answer, and whether it has calls.
    ///
    /// # Errors
    /// In TGI's profile, when a call is not complete.
    pub fn message(&self, text: String) -> Result<(AssistantMessage, bool), ServiceError> {
        if self.is_plain() {
            return Ok((AssistantMessage { content: Some(Some(text)), ..AssistantMessage::new() }, false));
        }
        let Parts { content, reasoning, calls } = self.parts(&text);
        let mut message = AssistantMessage::new();
        let called = !calls.is_empty();
        if self.quirks.tgi_calls {
            self.check_complete(&calls, &content)?;
        }
        message.content = match (content.is_empty() && called, self.quirks.tgi_calls) {
            (true, true) => None,
            (true, false) => Some(None),
            (false, _) => Some(Some(content)),
        };
        message.reasoning_content = (!reasoning.is_empty()).then_some(reasoning);
        message.tool_calls = called.then_some(calls);
        Ok((message, called))
    }

    fn parts(&self, text: &str) -> Parts {
        let mut reader = self.reader();
        let mut pieces = reader.push(text);
        pieces.extend(reader.finish());
        let mut parts = Parts::default();
        for piece in pieces {
            match piece {
                Piece::Content(text) => parts.content.push_str(&text),
                Piece::Reasoning(text) => parts.reasoning.push_str(&text),
                Piece::Call { id, name, .. } => parts.calls.push(self.call(id, name)),
                Piece::Arguments { text, .. } => {
                    if let Some(call) = parts.calls.last_mut() {
                        call.function.arguments.push_str(&text);
                    }
                }
            }
        }
        parts
    }

    /// What is to be told of schemas with `strict: false`, once a choice's text is whole.
    pub fn schema_checks(&self, text: &str) -> Vec<SchemaCheck> {
        let Some(checks) = &self.checks else { return Vec::new() };
        let Parts { content, calls, .. } = self.parts(text);
        if calls.is_empty() {
            return checks.content(&content).into_iter().collect();
        }
        let check = |(index, call): (usize, &ToolCall)| {
            let name = call.function.name.as_ref()?.as_ref()?;
            checks.call(index, name, &call.function.arguments)
        };
        calls.iter().enumerate().filter_map(check).collect()
    }

    /// TGI parses calls, and refuses what does not parse.
    fn check_complete(&self, calls: &[ToolCall], content: &str) -> Result<(), ServiceError> {
        let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).map(|_| ());
        let missing = calls.is_empty() && self.calls.as_ref().is_some_and(|calls| calls.required);
        let parsed = if missing {
            parse(content)
        } else {
            calls.iter().try_for_each(|call| parse(&call.function.arguments))
        };
        parsed.map_err(|error| ToolError::Parse(error.to_string()).into())
    }

    fn call(&self, id: String, name: String) -> ToolCall {
        let tgi = self.quirks.tgi_calls;
        let function = CalledFunction {
            description: tgi.then_some(None),
            name: Some(Some(name)),
            arguments: String::new(),
        };
        let id = if tgi { TGI_ID.to_owned() } else { id };
        ToolCall { index: None, id: Some(id), kind: FUNCTION, function }
    }

    /// A piece as a chunk's delta, without its role.
    pub fn delta(&self, piece: Piece) -> Delta {
        let mut delta = Delta::default();
        let tgi = self.quirks.tgi_calls;
        let call = |index: usize, id: Option<String>, name: Option<Option<String>>, arguments: String| {
            Some(vec![ToolCall {
                index: Some(index),
                kind: if id.is_some() || tgi { FUNCTION } else { None },
                id: id.or(tgi.then(String::new)),
                function: CalledFunction { description: None, name, arguments },
            }])
        };
        match piece {
            Piece::Content(text) => delta.content = Some(text),
            Piece::Reasoning(text) => delta.reasoning_content = Some(text),
            Piece::Call { index, id, name } => {
                delta.tool_calls = call(index, Some(id), Some(Some(name)), String::new());
            }
            Piece::Arguments { index, text } => {
                let name = tgi.then_some(None);
                delta.tool_calls = call(index, None, name, text);
            }
        }
        delta
    }
}
