//! Whether a file is what a training can learn from: one conversation a line.

use serde::Serialize;
use serde_json::{Map, Value};

/// Errors that are told of one file.
const MAX_ERRORS: usize = 20;
/// Bytes of a line.
const MAX_LINE: usize = 16 << 20;

/// What is wrong with one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct LineError {
    /// From 1.
    pub line: u64,
    pub message: String,
}

/// How the conversations are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// `{"messages": [{"role": …, "content": …}]}`.
    Messages,
    /// `{"conversations": [{"from": …, "value": …}]}`.
    Conversations,
    /// Some lines so, some so.
    Mixed,
}

/// What is in a valid file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub form: Form,
    pub conversations: u64,
    /// Messages of users.
    pub prompts: u64,
    /// Messages of the assistant's.
    pub responses: u64,
}

/// Reads a file piece by piece.
#[derive(Default)]
pub(crate) struct Lines {
    line: Vec<u8>,
    /// The line's end was not found in `MAX_LINE` bytes.
    too_long: bool,
    number: u64,
    errors: Vec<LineError>,
    form: Option<Form>,
    conversations: u64,
    prompts: u64,
    responses: u64,
}

impl Lines {
    /// Reads on; false once there are enough errors.
    pub fn feed(&mut self, mut bytes: &[u8]) -> bool {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (head, tail) = bytes.split_at(end);
            self.extend(head);
            self.end_line();
            bytes = tail.get(1..).unwrap_or_default();
        }
        self.extend(bytes);
        self.errors.len() < MAX_ERRORS
    }

    fn extend(&mut self, bytes: &[u8]) {
        if self.line.len() + bytes.len() > MAX_LINE {
            self.too_long = true;
            self.line.clear();
        }
        if !self.too_long {
            self.line.extend_from_slice(bytes);
        }
    }

    fn end_line(&mut self) {
        self.number += 1;
        let line = std::mem::take(&mut self.line);
        let checked = if std::mem::take(&mut self.too_long) {
            Err(format!("it is longer than {MAX_LINE} bytes"))
        } else if line.iter().all(u8::is_ascii_whitespace) {
            Ok(())
        } else {
            self.check(&line)
        };
        self.line = line;
        self.line.clear();
        if let Err(message) = checked
            && self.errors.len() < MAX_ERRORS
        {
            self.errors.push(LineError { line: self.number, message });
        }
    }

    fn check(&mut self, line: &[u8]) -> Result<(), String> {
        if self.number == 1 && line.starts_with(b"\xef\xbb\xbf") {
            return Err("it begins with a byte order mark; save the file as UTF-8 without one".to_owned());
        }
        let value: Value = serde_json::from_slice(line).map_err(|error| format!("not JSON: {error}"))?;
        let record = value.as_object().ok_or("not an object")?;
        let (form, key) = match (record.get("messages"), record.get("conversations")) {
            (Some(_), None) => (Form::Messages, "messages"),
            (None, Some(_)) => (Form::Conversations, "conversations"),
            (Some(_), Some(_)) => return Err("it has both `messages` and `conversations`".to_owned()),
            (None, None) => return Err("it has neither `messages` nor `conversations`".to_owned()),
        };
        let messages = record.get(key).and_then(Value::as_array);
        let messages = messages.ok_or_else(|| format!("`{key}` is not an array"))?;
        let (mut prompts, mut responses) = (0, 0);
        for (at, message) in messages.iter().enumerate() {
            let checked = match form {
                Form::Conversations => turn(message),
                _ => self::message(message),
            };
            match checked.map_err(|reason| format!("{key}[{at}]: {reason}"))? {
                Role::User => prompts += 1,
                Role::Assistant => responses += 1,
                Role::Other => {}
            }
        }
        if responses == 0 {
            return Err(format!("`{key}` has no answer of the assistant's, so there is nothing to learn"));
        }
        self.conversations += 1;
        self.prompts += prompts;
        self.responses += responses;
        self.form = match self.form {
            None => Some(form),
            Some(known) if known == form => Some(form),
            Some(_) => Some(Form::Mixed),
        };
        Ok(())
    }

    /// What was in it.
    ///
    /// # Errors
    /// The first of what is wrong.
    pub fn finish(mut self) -> Result<Counts, Vec<LineError>> {
        if !self.line.is_empty() || self.too_long {
            self.end_line();
        }
        match self.form {
            Some(form) if self.errors.is_empty() => Ok(Counts {
                form,
                conversations: self.conversations,
                prompts: self.prompts,
                responses: self.responses,
            }),
            None if self.errors.is_empty() => {
                Err(vec![LineError { line: 1, message: "there is no conversation in the file".to_owned() }])
            }
            _ => Err(self.errors),
        }
    }
}

enum Role {
    User,
    Assistant,
    Other,
}

/// OpenAI's form; `bot` is another word for the assistant.
fn message(message: &Value) -> Result<Role, String> {
    let message = message.as_object().ok_or("not an object")?;
    let role = match text(message, "role")? {
        "user" => Role::User,
        "assistant" | "bot" => Role::Assistant,
        "system" | "tool" => Role::Other,
        other => {
            let other: String = other.chars().take(40).collect();
            return Err(format!("the role {other:?} is none of system, user, assistant, bot, tool"));
        }
    };
    let calls = message.get("tool_calls").and_then(Value::as_array).is_some_and(|calls| !calls.is_empty());
    match message.get("content") {
        None | Some(Value::Null) if calls => {}
        _ => drop(text(message, "content")?),
    }
    Ok(role)
}

/// The form of ShareGPT's data sets.
fn turn(turn: &Value) -> Result<Role, String> {
    let turn = turn.as_object().ok_or("not an object")?;
    let role = match text(turn, "from")? {
        "human" | "user" => Role::User,
        "gpt" | "assistant" | "bot" => Role::Assistant,
        "system" | "tool" => Role::Other,
        other => {
            let other: String = other.chars().take(40).collect();
            return Err(format!(
                "`from` {other:?} is none of system, human, user, gpt, assistant, bot, tool"
            ));
        }
    };
    text(turn, "value")?;
    Ok(role)
}

fn text<'v>(object: &'v Map<String, Value>, key: &str) -> Result<&'v str, String> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("`{key}` is not a string")),
        None => Err(format!("`{key}` is missing")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &[u8], piece: usize) -> Result<Counts, Vec<LineError>> {
        let mut lines = Lines::default();
        for piece in text.chunks(piece) {
            lines.feed(piece);
        }
        lines.finish()
    }

    const GOOD: &str = concat!(
        r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"q"},{"role":"bot","content":"a"}]}"#,
        "\r\n\n",
        r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":null,"tool_calls":[{"id":"1"}]},{"role":"tool","content":"4"},{"role":"assistant","content":"a"}]}"#,
    );

    #[test]
    fn conversations_are_counted_however_the_file_is_cut() {
        for piece in [1, 2, 7, 1000] {
            let counts = read(GOOD.as_bytes(), piece).unwrap();
            let expected = Counts { form: Form::Messages, conversations: 2, prompts: 2, responses: 3 };
            assert_eq!(counts, expected, "{piece}");
        }
    }

    #[test]
    fn both_forms_are_known() {
        let turns = r#"{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}"#;
        assert_eq!(read(turns.as_bytes(), 9).unwrap().form, Form::Conversations);
        let both = format!("{turns}\n{GOOD}\n");
        let counts = read(both.as_bytes(), 9).unwrap();
        assert_eq!((counts.form, counts.conversations, counts.prompts), (Form::Mixed, 3, 3));
    }

    #[test]
    fn errors_say_where_and_what() {
        for (line, reason) in [
            ("{", "not JSON"),
            ("[]", "not an object"),
            ("{}", "neither"),
            (r#"{"messages":[],"conversations":[]}"#, "both"),
            (r#"{"messages":{}}"#, "`messages` is not an array"),
            (r#"{"messages":[]}"#, "no answer"),
            (r#"{"messages":[{"role":"user","content":"q"}]}"#, "no answer"),
            (r#"{"messages":["q"]}"#, "messages[0]: not an object"),
            (r#"{"messages":[{"content":"q"}]}"#, "messages[0]: `role` is missing"),
            (r#"{"messages":[{"role":"robot","content":"q"}]}"#, "\"robot\" is none of"),
            (r#"{"messages":[{"role":"user"}]}"#, "`content` is missing"),
            (r#"{"messages":[{"role":"assistant","content":null}]}"#, "`content` is not a string"),
            (r#"{"messages":[{"role":"user","content":["q"]}]}"#, "`content` is not a string"),
            (
                r#"{"conversations":[{"from":"human","value":1}]}"#,
                "conversations[0]: `value` is not a string",
            ),
            (r#"{"conversations":[{"from":"x","value":"q"}]}"#, "none of system, human"),
        ] {
            let errors = read(format!("{GOOD}\n{line}\n{GOOD}").as_bytes(), 64).unwrap_err();
            assert_eq!(errors.len(), 1, "{line}: {errors:?}");
            assert_eq!(errors[0].line, 4, "{line}");
            assert!(errors[0].message.contains(reason), "{line}: {}", errors[0]);
        }
        assert!(read(b"", 1).unwrap_err()[0].message.contains("no conversation"));
        assert!(read(b"\n \n", 1).unwrap_err()[0].message.contains("no conversation"));
        let marked = format!("\u{feff}{GOOD}");
        assert!(read(marked.as_bytes(), 8).unwrap_err()[0].message.contains("byte order mark"));
        assert!(read(b"\"\xff\"", 8).unwrap_err()[0].message.contains("not JSON"));
    }

    #[test]
    fn the_first_twenty_errors_are_told_and_reading_ends_there() {
        let mut lines = Lines::default();
        assert!(lines.feed("x\n".repeat(19).as_bytes()));
        assert!(!lines.feed(b"x\nx\nx\n"));
        let errors = lines.finish().unwrap_err();
        assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut lines = Lines::default();
        for _ in 0..40 {
            lines.feed(&[b'x'; 1 << 20]);
            assert!(lines.line.capacity() <= 2 * MAX_LINE);
        }
        lines.feed(b"\n");
        let errors = lines.finish().unwrap_err();
        assert_eq!(errors.len(), 1);
        assert!(errors[0].message.contains("longer than"));
    }
}
