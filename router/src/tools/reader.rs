//! Takes a sequence's text apart as it comes: reasoning, content, tool calls.

use super::{CallParser, CallPart, Calls, Ids, Reasoning, Thinking};
use crate::service::random;

/// A piece of an answer, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Reasoning(String),
    Content(String),
    /// A call begins: its number, its id and the function's name.
    Call {
        index: usize,
        id: String,
        name: String,
    },
    /// More of the JSON text of a call's arguments.
    Arguments {
        index: usize,
        text: String,
    },
}

/// Reads one sequence.
pub(crate) struct Reader {
    calls: Option<Calls>,
    triggers: Vec<(String, bool)>,
    marks: Option<Reasoning>,
    mode: Mode,
    /// Text that may be a part of a mark.
    held: String,
    /// Nothing but blanks was content so far.
    blank: bool,
    /// Of the next call.
    index: usize,
}

enum Mode {
    /// Reasoning, a call or content may begin.
    Start,
    Reasoning {
        begun: bool,
    },
    Content,
    Calls(Box<dyn CallParser>),
}

impl Reader {
    pub fn new(calls: Option<Calls>, thinking: Thinking) -> Self {
        // A format that cannot write these tools was refused before.
        let starts = calls.as_ref().and_then(|calls| calls.format.starts(&calls.tools, calls.parallel).ok());
        let triggers = starts.unwrap_or_default().into_iter();
        let triggers = triggers.map(|start| (start.trigger.text, start.trigger.at_start)).collect();
        let (mode, marks) = match thinking {
            Thinking::None => (Mode::Content, None),
            Thinking::Begun(marks) => (Mode::Reasoning { begun: false }, Some(marks)),
            Thinking::Possible(marks) => (Mode::Start, Some(marks)),
        };
        Self { calls, triggers, marks, mode, held: String::new(), blank: true, index: 0 }
    }

    /// Whether the text so far ends within reasoning.
    pub fn reasons(&self) -> bool {
        matches!(self.mode, Mode::Reasoning { .. })
    }

    /// Whether any call began.
    pub fn called(&self) -> bool {
        self.index > 0
    }

    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        let mut out = Vec::new();
        self.held.push_str(text);
        while self.step(&mut out) {}
        out
    }

    /// What is held back, when no more text comes.
    pub fn finish(&mut self) -> Vec<Piece> {
        let held = std::mem::take(&mut self.held);
        match self.mode {
            _ if held.is_empty() => Vec::new(),
            Mode::Reasoning { .. } => vec![Piece::Reasoning(held)],
            Mode::Start | Mode::Content => vec![Piece::Content(held)],
            Mode::Calls(_) => Vec::new(),
        }
    }

    /// Takes what it can; false when more text is needed.
    fn step(&mut self, out: &mut Vec<Piece>) -> bool {
        match &mut self.mode {
            Mode::Start => self.start(),
            Mode::Reasoning { .. } => self.reason(out),
            Mode::Content => self.content(out),
            Mode::Calls(parser) => {
                let mut parts = Vec::new();
                parser.push(&std::mem::take(&mut self.held), &mut parts);
                parts.into_iter().for_each(|part| out.push(self.part(part)));
                false
            }
        }
    }

    fn start(&mut self) -> bool {
        let text = self.held.trim_start();
        let Some(open) = self.marks.map(|marks| marks.open) else {
            self.mode = Mode::Content;
            return true;
        };
        if let Some(rest) = text.strip_prefix(open) {
            self.held = rest.to_owned();
            self.mode = Mode::Reasoning { begun: false };
        } else if open.starts_with(text) {
            return false;
        } else {
            self.mode = Mode::Content;
        }
        true
    }

    fn reason(&mut self, out: &mut Vec<Piece>) -> bool {
        let close = self.marks.map_or("", |marks| marks.close);
        if let Mode::Reasoning { begun: begun @ false } = &mut self.mode {
            self.held = self.held.trim_start().to_owned();
            if self.held.is_empty() {
                return false;
            }
            *begun = true;
        }
        let found = self.held.split_once(close).map(|(before, after)| (before.to_owned(), after.to_owned()));
        match found {
            Some((before, after)) => {
                reasoning(before, out);
                self.held = after.trim_start().to_owned();
                self.mode = Mode::Content;
                true
            }
            None => {
                let keep = overlap(&self.held, close);
                let tail = self.held.split_off(self.held.len() - keep);
                reasoning(std::mem::replace(&mut self.held, tail), out);
                false
            }
        }
    }

    fn content(&mut self, out: &mut Vec<Piece>) -> bool {
        if self.blank && (self.calls.is_some() || self.marks.is_some()) {
            self.held = self.held.trim_start().to_owned();
            if let Some(preamble) = self.calls.as_ref().and_then(|calls| calls.format.preamble()) {
                if preamble.starts_with(&self.held) && self.held.len() < preamble.len() {
                    return false;
                }
                if let Some(rest) = self.held.strip_prefix(preamble) {
                    self.held = rest.to_owned();
                    self.blank = false;
                }
            }
        }
        if let Some((start, at, end)) = self.first_trigger() {
            let after = self.held.split_off(end);
            self.held.truncate(at);
            let before = std::mem::replace(&mut self.held, after);
            if !before.trim().is_empty() {
                out.push(Piece::Content(before));
            }
            if let Some(calls) = &self.calls {
                self.mode = Mode::Calls(calls.format.parser(&calls.tools, start));
            }
            return true;
        }
        let keep = self.triggers.iter().map(|(text, at_start)| match at_start {
            true if !self.blank || !text.starts_with(&self.held) => 0,
            _ => overlap(&self.held, text),
        });
        let keep = keep.max().unwrap_or(0);
        let tail = self.held.split_off(self.held.len() - keep);
        let text = std::mem::replace(&mut self.held, tail);
        self.blank &= text.trim().is_empty();
        if !text.is_empty() {
            out.push(Piece::Content(text));
        }
        false
    }

    /// The trigger that ends first: its number, where it begins and where it ends.
    fn first_trigger(&self) -> Option<(usize, usize, usize)> {
        let found = self.triggers.iter().enumerate().filter_map(|(number, (text, at_start))| {
            let at = self.held.find(text.as_str()).filter(|at| !at_start || (self.blank && *at == 0))?;
            Some((number, at, at + text.len()))
        });
        found.min_by_key(|(_, _, end)| *end)
    }

    fn part(&mut self, part: CallPart) -> Piece {
        match part {
            CallPart::Name(name) => {
                let index = self.index;
                self.index += 1;
                let ids = self.calls.as_ref().map_or(Ids::OpenAi, |calls| calls.format.ids());
                Piece::Call { index, id: id(ids), name }
            }
            CallPart::Arguments(text) => Piece::Arguments { index: self.index.saturating_sub(1), text },
        }
    }
}

fn reasoning(text: String, out: &mut Vec<Piece>) {
    if !text.is_empty() {
        out.push(Piece::Reasoning(text));
    }
}

fn id(ids: Ids) -> String {
    match ids {
        Ids::OpenAi => format!("call_{:016x}{:08x}", random::seed(), random::seed() as u32),
        Ids::Mistral => format!("{:09x}", random::seed() >> 28),
    }
}

/// The longest end of `text` that begins `mark`, but is not all of it.
fn overlap(text: &str, mark: &str) -> usize {
    let longest = text.len().min(mark.len().saturating_sub(1));
    let fits = |bytes: &usize| text.as_bytes().ends_with(mark.as_bytes().get(..*bytes).unwrap_or_default());
    (1..=longest).rev().find(fits).unwrap_or(0)
}
