//! Calls as fixed text around a name and a JSON object. Most families of models differ in that text alone.

use weirgate_grammar::{Rule, Trigger};

use super::{CallParser, CallPart, Format, Ids, Start, Tool, closed};

/// ```text
/// trigger lead head NAME mid ARGUMENTS tail ( between head NAME mid ARGUMENTS tail )* close
/// ```
/// In `head`, `{n}` is any number.
#[derive(Debug)]
pub(crate) struct Tagged {
    pub name: &'static str,
    /// Groups of texts; a chat template with all of one group is of this format.
    pub signs: &'static [&'static [&'static str]],
    /// Texts that a template of this format does not have.
    pub not: &'static [&'static str],
    /// What begins the calls, whether only at the beginning of a text, and what comes before the first call.
    pub starts: &'static [Opening],
    pub head: &'static str,
    pub mid: &'static str,
    pub tail: &'static str,
    /// Between two calls; `None` where the model makes one at a time.
    pub between: Option<&'static str>,
    pub close: &'static str,
    pub ids: Ids,
    pub tools_in_system_message: bool,
}

#[derive(Debug)]
pub(crate) struct Opening {
    pub trigger: &'static str,
    pub at_start: bool,
    pub lead: &'static str,
}

const NUMBER: &str = "{n}";

impl Tagged {
    fn call(&self, tools: &[Tool]) -> Rule {
        let one = |tool: &Tool| {
            let mut parts = self.head();
            parts.push(Rule::Text(format!("{}{}", tool.name, self.mid)));
            parts.push(Rule::Schema(closed(&tool.parameters).to_string()));
            parts.push(Rule::Text(self.tail.to_owned()));
            Rule::Sequence(parts)
        };
        Rule::AnyOf(tools.iter().map(one).collect())
    }

    fn head(&self) -> Vec<Rule> {
        let text = |text: &str| Rule::Text(text.to_owned());
        match self.head.split_once(NUMBER) {
            Some((before, after)) => vec![text(before), Rule::Regex("[0-9]{1,3}".to_owned()), text(after)],
            None => vec![text(self.head)],
        }
    }
}

impl Format for Tagged {
    fn name(&self) -> &'static str {
        self.name
    }

    fn fits(&self, template: &str) -> bool {
        self.signs.iter().any(|group| group.iter().all(|sign| template.contains(sign)))
            && !self.not.iter().any(|sign| template.contains(sign))
    }

    fn starts(&self, tools: &[Tool], parallel: bool) -> Result<Vec<Start>, String> {
        let call = self.call(tools);
        let start = |opening: &Opening| {
            let mut parts = vec![Rule::Text(opening.lead.to_owned()), call.clone()];
            if let (Some(between), true) = (self.between, parallel) {
                let more = Rule::Sequence(vec![Rule::Text(between.to_owned()), call.clone()]);
                parts.push(Rule::Many(Box::new(more)));
            }
            parts.push(Rule::Text(self.close.to_owned()));
            let trigger = Trigger { text: opening.trigger.to_owned(), at_start: opening.at_start };
            Start { trigger, after: Rule::Sequence(parts) }
        };
        Ok(self.starts.iter().map(start).collect())
    }

    fn parser(&self, _tools: &[Tool], start: usize) -> Box<dyn CallParser> {
        let lead = self.starts.get(start).map_or("", |opening| opening.lead);
        Box::new(TaggedParser {
            head: format!("{lead}{}", self.head),
            mid: self.mid,
            next: self.between.map(|between| format!("{}{between}{}", self.tail, self.head)),
            buffer: String::new(),
            state: State::Head,
        })
    }

    fn ids(&self) -> Ids {
        self.ids
    }

    fn tools_in_system_message(&self) -> bool {
        self.tools_in_system_message
    }
}

struct TaggedParser {
    /// What comes before the name that is expected next.
    head: String,
    mid: &'static str,
    /// What comes between two calls.
    next: Option<String>,
    buffer: String,
    state: State,
}

enum State {
    Head,
    Name,
    Arguments(JsonEnd),
    Over,
}

impl CallParser for TaggedParser {
    fn push(&mut self, text: &str, out: &mut Vec<CallPart>) {
        self.buffer.push_str(text);
        while self.step(out) {}
    }
}

impl TaggedParser {
    /// Takes what it can; false when more text is needed.
    fn step(&mut self, out: &mut Vec<CallPart>) -> bool {
        match &mut self.state {
            State::Head => match begins_with(&self.buffer, &self.head) {
                Begins::With(bytes) => {
                    self.buffer.drain(..bytes);
                    self.state = State::Name;
                }
                Begins::Perhaps => return false,
                Begins::Not => self.state = State::Over,
            },
            State::Name => {
                let Some((name, rest)) = self.buffer.split_once(self.mid) else { return false };
                out.push(CallPart::Name(name.to_owned()));
                self.buffer = rest.to_owned();
                self.state = State::Arguments(JsonEnd::default());
            }
            State::Arguments(end) => {
                if self.buffer.is_empty() {
                    return false;
                }
                let found = end.find(&self.buffer);
                let rest = found.map_or_else(String::new, |bytes| self.buffer.split_off(bytes));
                out.push(CallPart::Arguments(std::mem::replace(&mut self.buffer, rest)));
                if found.is_some() {
                    self.head = self.next.clone().unwrap_or_default();
                    self.state = if self.next.is_some() { State::Head } else { State::Over };
                }
            }
            State::Over => {
                self.buffer.clear();
                return false;
            }
        }
        true
    }
}

enum Begins {
    /// And is so long.
    With(usize),
    Perhaps,
    Not,
}

/// Whether a text begins with a pattern, in which `{n}` is any number.
fn begins_with(text: &str, pattern: &str) -> Begins {
    let literal = |text: &str, literal: &str| {
        if text.starts_with(literal) {
            Begins::With(literal.len())
        } else if literal.starts_with(text) {
            Begins::Perhaps
        } else {
            Begins::Not
        }
    };
    let Some((before, after)) = pattern.split_once(NUMBER) else { return literal(text, pattern) };
    match literal(text, before) {
        Begins::With(bytes) => {
            let rest = text.get(bytes..).unwrap_or_default();
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            match rest.get(digits..) {
                None | Some("") => Begins::Perhaps,
                Some(rest) => match literal(rest, after) {
                    Begins::With(more) => Begins::With(bytes + digits + more),
                    other => other,
                },
            }
        }
        other => other,
    }
}

/// Finds the end of a JSON object or array in text that comes in pieces.
#[derive(Debug, Default)]
pub(super) struct JsonEnd {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl JsonEnd {
    /// The number of bytes up to and including the end, if it is in this piece.
    pub fn find(&mut self, piece: &str) -> Option<usize> {
        for (at, byte) in piece.bytes().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}
