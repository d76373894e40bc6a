//! What a chat's text is made of: reasoning, content, tool calls; in whole answers and in chunks.

use super::quirks::Quirks;
use super::types::{AssistantMessage, CalledFunction, Delta, ToolCall};
use crate::service::{ServiceError, StopReason, ToolError};
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
        let mut reader = self.reader();
        let mut pieces = reader.push(&text);
        pieces.extend(reader.finish());
        let mut message = AssistantMessage::new();
        let (mut content, mut reasoning, mut calls) = (String::new(), String::new(), Vec::new());
        for piece in pieces {
            match piece {
                Piece::Content(text) => content.push_str(&text),
                Piece::Reasoning(text) => reasoning.push_str(&text),
                Piece::Call { id, name, .. } => calls.push(self.call(id, name)),
                Piece::Arguments { text, .. } => {
                    if let Some(call) = calls.last_mut() {
                        call.function.arguments.push_str(&text);
                    }
                }
            }
        }
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
