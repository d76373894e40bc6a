//! A chat's answer as blocks, one after the other: reasoning, text, calls. For the dialects that have it so, which word it as
//! a [`Teller`] does; an answer in one piece is what the same teller has put together at the end of its stream.

use std::collections::VecDeque;

use axum::Json;
use axum::response::sse::Event as SseEvent;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;

use super::events::{self, named_event};
use super::headers::{compute_headers, figure_headers};
use super::openai::chat::Begun;
use crate::service::{Generation, SequenceEnd, ServiceError, Step, StopReason, Token};
use crate::tools::{Calls, Piece, Reader};

/// What a block is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Reasoning,
    Text,
    /// A call, whose text is the JSON of its arguments.
    Call {
        id: String,
        name: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub kind: Kind,
    pub text: String,
}

/// What happened to an answer. There is no more than one block at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Began(Kind),
    /// More of the text of the block that began last.
    Grew(String),
    /// The block is all there; `cut`: the answer got too long in it.
    Ended {
        block: Block,
        cut: bool,
    },
}

/// How an answer ended.
pub(super) struct Ending {
    pub end: SequenceEnd,
    /// Whether it has a call.
    pub called: bool,
    /// Of its tokens, those of the reasoning.
    pub reasoning_tokens: u32,
}

/// How a dialect words an answer: puts it together, and has an event for each change of it.
pub(super) trait Teller: Send + 'static {
    /// With its name under `type`.
    type Event: Serialize;

    fn begin(&mut self) -> Vec<Self::Event>;
    /// A token of text, of which the changes that follow tell.
    fn token(&mut self, token: &Token);
    fn change(&mut self, change: Change) -> Vec<Self::Event>;
    fn end(&mut self, ending: Ending) -> Vec<Self::Event>;
    fn fail(&mut self, error: ServiceError) -> Vec<Self::Event>;
}

/// Takes a text apart as it comes.
struct Blocks {
    reader: Reader,
    open: Option<Block>,
    /// Whether there was any block.
    any: bool,
    reasoning_tokens: u32,
}

impl Blocks {
    fn new(reader: Reader) -> Self {
        Self { reader, open: None, any: false, reasoning_tokens: 0 }
    }

    /// What a token does, an ending, or both. An answer without any block gets an empty one of text.
    fn step(&mut self, text: &str, is_token: bool, end: Option<&SequenceEnd>) -> Vec<Change> {
        let mut changes = Vec::new();
        let reasoned = self.reader.reasons();
        let mut pieces = self.reader.push(text);
        if end.is_some() {
            pieces.extend(self.reader.finish());
        }
        pieces.into_iter().for_each(|piece| self.take(piece, &mut changes));
        if is_token && (reasoned || self.reader.reasons()) {
            self.reasoning_tokens += 1;
        }
        if let Some(end) = end {
            if !self.any {
                self.begin(Kind::Text, &mut changes);
            }
            self.close(end.reason == StopReason::Length, &mut changes);
        }
        changes
    }

    fn take(&mut self, piece: Piece, changes: &mut Vec<Change>) {
        let (kind, text) = match piece {
            Piece::Reasoning(text) => (Some(Kind::Reasoning), text),
            Piece::Content(text) => (Some(Kind::Text), text),
            Piece::Call { id, name, .. } => (Some(Kind::Call { id, name }), String::new()),
            Piece::Arguments { text, .. } => (None, text),
        };
        if let Some(kind) = kind
            && self.open.as_ref().is_none_or(|open| open.kind != kind)
        {
            self.begin(kind, changes);
        }
        if let Some(open) = self.open.as_mut().filter(|_| !text.is_empty()) {
            open.text.push_str(&text);
            changes.push(Change::Grew(text));
        }
    }

    fn begin(&mut self, kind: Kind, changes: &mut Vec<Change>) {
        self.close(false, changes);
        self.any = true;
        changes.push(Change::Began(kind.clone()));
        self.open = Some(Block { kind, text: String::new() });
    }

    fn close(&mut self, cut: bool, changes: &mut Vec<Change>) {
        changes.extend(self.open.take().map(|block| Change::Ended { block, cut }));
    }
}

/// Answers a chat that has begun: as it comes, or in one piece, `object` of the teller at the end.
///
/// # Errors
/// What ended the generation before its time.
pub(super) async fn respond<T: Teller, O: Serialize>(
    chat: Begun,
    teller: T,
    streams: bool,
    object: impl FnOnce(T) -> O,
) -> Result<Response, ServiceError> {
    let Begun { state, generation, calls, .. } = chat;
    let mut headers = compute_headers(&state.settings, generation.facts.prompt_characters);
    let answer = Answer::new(teller, calls, generation);
    if streams {
        return Ok((headers, answer.streamed()).into_response());
    }
    let (teller, generation) = answer.whole().await?;
    figure_headers(&mut headers, &generation);
    Ok((headers, Json(object(teller))).into_response())
}

/// An answer under way. Dropping it cancels the request.
struct Answer<T: Teller> {
    teller: T,
    blocks: Blocks,
    generation: Generation,
    ready: VecDeque<SseEvent>,
    done: bool,
}

impl<T: Teller> Answer<T> {
    fn new(teller: T, calls: Option<Calls>, generation: Generation) -> Self {
        let blocks = Blocks::new(Reader::new(calls, generation.facts.thinking));
        Self { teller, blocks, generation, ready: VecDeque::new(), done: false }
    }

    /// The answer in one piece, as the teller has it then.
    ///
    /// # Errors
    /// What ended the generation before its time.
    async fn whole(mut self) -> Result<(T, Generation), ServiceError> {
        self.teller.begin();
        while !self.done {
            let step = self.generation.step().await.unwrap_or(Err(ServiceError::Incomplete))?;
            self.take(step);
        }
        Ok((self.teller, self.generation))
    }

    /// The answer as it comes.
    fn streamed(mut self) -> Response {
        let begun = self.teller.begin();
        self.queue(begun);
        let events = stream::unfold(self, |mut answer| async move {
            let event = answer.next().await?;
            Some((event, answer))
        });
        events::respond(events)
    }

    async fn next(&mut self) -> Option<SseEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.done {
                return None;
            }
            let events = match self.generation.step().await.unwrap_or(Err(ServiceError::Incomplete)) {
                Ok(step) => self.take(step),
                Err(error) => {
                    self.done = true;
                    self.teller.fail(error)
                }
            };
            self.queue(events);
        }
    }

    fn queue(&mut self, events: Vec<T::Event>) {
        self.ready.extend(events.iter().map(named_event));
    }

    fn take(&mut self, (token, end): Step) -> Vec<T::Event> {
        if let Some(token) = &token {
            self.teller.token(token);
        }
        let is_token = token.is_some();
        let mut text = token.map(|token| token.text).unwrap_or_default();
        text.extend(end.as_ref().map(|end| end.tail.as_str()));
        let changes = self.blocks.step(&text, is_token, end.as_ref());
        let mut events: Vec<T::Event> =
            changes.into_iter().flat_map(|change| self.teller.change(change)).collect();
        if let Some(end) = end {
            self.done = true;
            let (called, reasoning_tokens) = (self.blocks.reader.called(), self.blocks.reasoning_tokens);
            events.extend(self.teller.end(Ending { end, called, reasoning_tokens }));
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::{Reasoning, Thinking};

    fn end(reason: StopReason) -> SequenceEnd {
        let (tail, text) = (String::new(), String::new());
        SequenceEnd { index: 0, reason, stop: None, generated_tokens: 0, tail, text }
    }

    #[test]
    fn reasoning_and_text_are_blocks_of_their_own() {
        let mut blocks = Blocks::new(Reader::new(None, Thinking::Begun(Reasoning::USUAL)));
        let mut changes = Vec::new();
        for text in ["Hm", ".</think>", "Yes", "."] {
            changes.extend(blocks.step(text, true, None));
        }
        changes.extend(blocks.step("", false, Some(&end(StopReason::Length))));
        let block = |kind: Kind, text: &str| Block { kind, text: text.into() };
        let expected = [
            Change::Began(Kind::Reasoning),
            Change::Grew("Hm".into()),
            Change::Grew(".".into()),
            Change::Ended { block: block(Kind::Reasoning, "Hm."), cut: false },
            Change::Began(Kind::Text),
            Change::Grew("Yes".into()),
            Change::Grew(".".into()),
            Change::Ended { block: block(Kind::Text, "Yes."), cut: true },
        ];
        assert_eq!(changes, expected);
    }

    #[test]
    fn the_tokens_of_reasoning_are_counted() {
        let mut blocks = Blocks::new(Reader::new(None, Thinking::Begun(Reasoning::USUAL)));
        for text in ["Hm", ".", "</think>", "Yes", "."] {
            blocks.step(text, true, None);
        }
        assert_eq!(blocks.reasoning_tokens, 3);
    }

    #[test]
    fn an_answer_of_nothing_has_an_empty_block() {
        let mut blocks = Blocks::new(Reader::new(None, Thinking::None));
        let changes = blocks.step("", true, Some(&end(StopReason::EndOfSequence)));
        let block = Block { kind: Kind::Text, text: String::new() };
        assert_eq!(changes, [Change::Began(Kind::Text), Change::Ended { block, cut: false }]);
    }
}
