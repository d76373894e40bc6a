//! Whether a file is what a training can learn from: one conversation a line.

use serde::Serialize;
use weirgate_text::{LineError, MAX_ERRORS, MAX_LINE, Record, RecordForm};

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

/// Reads a file piece by piece, by the rules of [`Record`].
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
        let checked = match std::mem::take(&mut self.too_long) {
            true => {
                let message = format!("is longer than {MAX_LINE} bytes");
                Err(LineError { line: self.number, message })
            }
            false => Record::read(self.number, &self.line),
        };
        self.line.clear();
        match checked {
            Ok(record) => record.iter().for_each(|record| self.count(record)),
            Err(error) if self.errors.len() < MAX_ERRORS => self.errors.push(error),
            Err(_) => {}
        }
    }

    fn count(&mut self, record: &Record) {
        let form = match record.form {
            RecordForm::Messages => Form::Messages,
            RecordForm::Conversations => Form::Conversations,
        };
        self.conversations += 1;
        self.prompts += record.count("user");
        self.responses += record.count("assistant");
        self.form = match self.form {
            None => Some(form),
            Some(known) if known == form => Some(form),
            Some(_) => Some(Form::Mixed),
        };
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
        // All that the worker refuses, and why, is tested with the rules (`weirgate_text::Record`).
        for (line, reason) in [
            ("{", "is not JSON"),
            (r#"{"messages":[{"role":"user","content":"q"}]}"#, "nothing to learn"),
            (r#"{"messages":[{"role":"assistant","content":"a"}]}"#, "begins with the assistant"),
            (
                r#"{"messages":[{"role":"user","content":"q"},{"role":"bot","content":"a"}],"tools":{}}"#,
                "`tools` is {}",
            ),
        ] {
            let errors = read(format!("{GOOD}\n{line}\n{GOOD}").as_bytes(), 64).unwrap_err();
            assert_eq!(errors.len(), 1, "{line}: {errors:?}");
            assert_eq!(errors[0].line, 4, "{line}");
            assert!(errors[0].message.contains(reason), "{line}: {}", errors[0]);
        }
        assert!(read(b"", 1).unwrap_err()[0].message.contains("no conversation"));
        assert!(read(b"\n \n", 1).unwrap_err()[0].message.contains("no conversation"));
    }

    #[test]
    fn what_the_worker_takes_is_taken() {
        for line in [
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"q"}]},{"role":"model","content":"a"}]}"#,
            r#"{"messages":[{"role":"human","content":"q"},{"role":"gpt","content":"a"}],"tools":[]}"#,
        ] {
            let counts = read(line.as_bytes(), 64).unwrap();
            assert_eq!((counts.conversations, counts.prompts, counts.responses), (1, 1, 1), "{line}");
        }
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
