//! One request under way: the engine's updates become tokens with text.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use weirgate_types::{Finish, SeqUpdate, TokenId, TokenOut};

use super::account::Account;
use super::constraint::Checks;
use super::dispatcher::{Mailbox, Updates};
use super::error::{ServiceError, failure};
use super::text::{SequenceText, Vocabulary};
use crate::tools::Thinking;

/// What happened to a request, in order. Of every sequence: tokens, then one end.
#[derive(Debug)]
pub(crate) enum Event {
    /// Log-probabilities of the prompt's tokens; the first has none.
    Prompt(Vec<Option<f32>>),
    Token(Token),
    End(SequenceEnd),
}

/// One generated token of sequence `index`.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub index: usize,
    pub id: TokenId,
    pub logprob: f32,
    /// Text released by this token; may lag behind it.
    pub text: String,
    pub special: bool,
    pub top: Vec<TopToken>,
}

/// A likely token at some position, with its own text.
#[derive(Debug, Clone)]
pub(crate) struct TopToken {
    pub id: TokenId,
    pub logprob: f32,
    pub text: String,
    pub special: bool,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopReason {
    Length,
    EndOfSequence,
    StopString,
}

#[derive(Debug, Clone)]
pub(crate) struct SequenceEnd {
    pub index: usize,
    pub reason: StopReason,
    /// The stop string, where it was one.
    pub stop: Option<Arc<str>>,
    pub generated_tokens: u32,
    /// Text that was held back until now.
    pub tail: String,
    /// The whole text.
    pub text: String,
}

/// A token, the end of its sequence, or both.
pub(crate) type Step = (Option<Token>, Option<SequenceEnd>);

/// Facts about a request that were fixed when it was submitted.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub prompt: Arc<[TokenId]>,
    /// The seed, if the request sampled.
    pub seed: Option<u64>,
    /// Characters of the prompt's text (of the rendered template for chats).
    pub prompt_characters: usize,
    /// Whether the text begins with reasoning.
    pub thinking: Thinking,
    /// Of schemas that are not enforced in full.
    pub checks: Option<Arc<Checks>>,
}

/// A request under way. Dropping it cancels the request.
pub(crate) struct Generation {
    pub facts: Facts,
    mailbox: Mailbox,
    sequences: Vec<Sequence>,
    vocabulary: Vocabulary,
    events: VecDeque<Event>,
    account: Account,
    cached_tokens: u32,
    done: bool,
}

struct Sequence {
    text: SequenceText,
    generated: u32,
    ended: bool,
    last_token: Option<Instant>,
}

impl Generation {
    pub(super) fn new(
        facts: Facts,
        mailbox: Mailbox,
        texts: Vec<SequenceText>,
        vocabulary: Vocabulary,
        account: Account,
    ) -> Self {
        let sequence = |text| Sequence { text, generated: 0, ended: false, last_token: None };
        let sequences = texts.into_iter().map(sequence).collect();
        Self {
            facts,
            mailbox,
            sequences,
            vocabulary,
            events: VecDeque::new(),
            account,
            cached_tokens: 0,
            done: false,
        }
    }

    /// Waits until the engine has begun the request, so that a refusal can still be told by a status.
    pub async fn started(&mut self) -> Result<(), ServiceError> {
        match self.receive().await {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The next event; `None` after the last one.
    pub async fn next(&mut self) -> Option<Result<Event, ServiceError>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(Ok(event));
            }
            if self.done {
                return None;
            }
            if let Some(error) = self.receive().await {
                return Some(Err(error));
            }
        }
    }

    /// The next token, end, or both where the token is the last; `None` after the last one. The prompt's log-probabilities
    /// are passed over.
    pub async fn step(&mut self) -> Option<Result<Step, ServiceError>> {
        loop {
            return Some(match self.next().await? {
                Ok(Event::Prompt(_)) => continue,
                Ok(Event::Token(token)) => {
                    let end = self.take_end(token.index);
                    Ok((Some(token), end))
                }
                Ok(Event::End(end)) => Ok((None, Some(end))),
                Err(error) => Err(error),
            });
        }
    }

    /// The end of sequence `index`, if it came with the token just given.
    fn take_end(&mut self, index: usize) -> Option<SequenceEnd> {
        match self.events.front() {
            Some(Event::End(end)) if end.index == index => match self.events.pop_front() {
                Some(Event::End(end)) => Some(end),
                _ => None,
            },
            _ => None,
        }
    }

    /// Prompt tokens found in the prefix cache.
    pub fn cached_tokens(&self) -> u32 {
        self.cached_tokens
    }

    /// How long the parts of the request took; complete after the last event.
    pub fn figures(&self) -> crate::metrics::RequestFigures {
        self.account.figures()
    }

    /// Takes one step's updates; the error, if they are a failure.
    async fn receive(&mut self) -> Option<ServiceError> {
        let Some(updates) = self.mailbox.recv().await else {
            return Some(self.fail(self.mailbox.failure().into()));
        };
        self.absorb(updates).map(|error| self.fail(error))
    }

    /// Ends the request because of another one's error.
    pub(super) fn abandon(mut self, error: &ServiceError) {
        self.fail(error.clone());
    }

    fn fail(&mut self, error: ServiceError) -> ServiceError {
        self.done = true;
        self.account.fail(&error);
        error
    }

    fn absorb(&mut self, updates: Updates) -> Option<ServiceError> {
        for (index, update) in updates {
            match update {
                SeqUpdate::Scheduled { cached_tokens } => {
                    self.cached_tokens = self.cached_tokens.max(cached_tokens);
                    self.account.scheduled();
                }
                SeqUpdate::Prompt { logprobs } => self.events.push_back(Event::Prompt(logprobs)),
                SeqUpdate::Token(token) => self.take_token(index as usize, token),
                SeqUpdate::Finished { reason, .. } => match failure(reason) {
                    // Of a sequence that a stop string ended, the engine says that it was cancelled.
                    Some(error) if !self.has_ended(index as usize) => return Some(error),
                    _ => self.end(index as usize, stop_reason(reason), None),
                },
                SeqUpdate::Rejected(reason) => return Some(reason.into()),
            }
        }
        None
    }

    fn has_ended(&self, index: usize) -> bool {
        self.sequences.get(index).is_none_or(|sequence| sequence.ended)
    }

    fn take_token(&mut self, index: usize, token: TokenOut) {
        let Some(sequence) = self.sequences.get_mut(index).filter(|sequence| !sequence.ended) else { return };
        self.account.token(sequence.last_token.replace(Instant::now()));
        sequence.generated += 1;
        let piece = sequence.text.push(token.id);
        let top = token.top.iter().map(|(id, logprob)| top_token(&self.vocabulary, *id, *logprob)).collect();
        self.events.push_back(Event::Token(Token {
            index,
            id: token.id,
            logprob: token.logprob,
            text: piece.text,
            special: self.vocabulary.is_special(token.id),
            top,
        }));
        if let Some(stop) = piece.stopped {
            self.end(index, StopReason::StopString, Some(stop));
            // The others go on; without them the request ends, and all of it is cancelled.
            if !self.done {
                self.mailbox.cancel_sequence(u32::try_from(index).unwrap_or(u32::MAX));
            }
        }
    }

    fn end(&mut self, index: usize, reason: StopReason, stop: Option<Arc<str>>) {
        let Some(sequence) = self.sequences.get_mut(index).filter(|sequence| !sequence.ended) else { return };
        sequence.ended = true;
        let tail = if reason == StopReason::StopString { String::new() } else { sequence.text.finish() };
        let text = sequence.text.full().to_owned();
        let generated_tokens = sequence.generated;
        self.events.push_back(Event::End(SequenceEnd { index, reason, stop, generated_tokens, tail, text }));
        if self.sequences.iter().all(|sequence| sequence.ended) {
            self.done = true;
            self.account.succeed();
        }
    }
}

fn stop_reason(finish: Finish) -> StopReason {
    match finish {
        Finish::StopToken | Finish::GrammarEnd => StopReason::EndOfSequence,
        _ => StopReason::Length,
    }
}

fn top_token(vocabulary: &Vocabulary, id: TokenId, logprob: f32) -> TopToken {
    TopToken { id, logprob, text: vocabulary.text(id), special: vocabulary.is_special(id) }
}
