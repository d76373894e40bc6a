use super::{Command, MAX_MODELFILE_BYTES, Modelfile, ModelfileError};
use crate::entry::Message;

const ROLES: [&str; 3] = ["system", "user", "assistant"];

impl Modelfile {
    /// Reads UTF-8, or UTF-16 with a byte order mark.
    ///
    /// # Errors
    /// See [`ModelfileError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelfileError> {
        check_length(bytes.len())?;
        let units = |bytes: &[u8], unit: fn([u8; 2]) -> u16| -> Vec<u16> {
            bytes.as_chunks().0.iter().map(|pair| unit(*pair)).collect()
        };
        let text = match bytes {
            [0xff, 0xfe, rest @ ..] => String::from_utf16(&units(rest, u16::from_le_bytes)).ok(),
            [0xfe, 0xff, rest @ ..] => String::from_utf16(&units(rest, u16::from_be_bytes)).ok(),
            _ => String::from_utf8(bytes.to_vec()).ok(),
        };
        Self::parse(&text.ok_or(ModelfileError::Encoding)?)
    }

    /// Reads the text of a Modelfile. Control characters are dropped.
    ///
    /// # Errors
    /// See [`ModelfileError`].
    pub fn parse(text: &str) -> Result<Self, ModelfileError> {
        check_length(text.len())?;
        let commands = read_commands(text.trim_start_matches('\u{feff}'))?;
        match commands.iter().any(|command| matches!(command, Command::From(_))) {
            true => Ok(Self { commands }),
            false => Err(ModelfileError::NoFrom),
        }
    }
}

/// The commands of a text, whatever is among them.
pub(super) fn read_commands(text: &str) -> Result<Vec<Command>, ModelfileError> {
    let kept = |c: &char| !c.is_control() || matches!(c, '\t' | '\n' | '\r');
    let text: String = text.chars().filter(kept).collect();
    let mut reader = Reader { rest: &text, line: 1 };
    let mut commands = Vec::new();
    while reader.skip_to_command() {
        commands.push(reader.command()?);
    }
    Ok(commands)
}

fn check_length(got: usize) -> Result<(), ModelfileError> {
    if got > MAX_MODELFILE_BYTES { Err(ModelfileError::TooLong { got }) } else { Ok(()) }
}

/// Reads forward.
struct Reader<'a> {
    rest: &'a str,
    /// Of `rest`'s beginning, from 1.
    line: usize,
}

impl<'a> Reader<'a> {
    /// Skips blank lines and comments; false at the end.
    fn skip_to_command(&mut self) -> bool {
        loop {
            let blank = self.rest.len() - self.rest.trim_start().len();
            self.take(blank);
            if !self.rest.starts_with('#') {
                return !self.rest.is_empty();
            }
            let comment = self.rest.find(['\n', '\r']).unwrap_or(self.rest.len());
            self.take(comment);
        }
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    fn command(&mut self) -> Result<Command, ModelfileError> {
        let line = self.line;
        let word = self.word().to_ascii_lowercase();
        let needed =
            |value: String| if value.is_empty() { Err(ModelfileError::Value { line }) } else { Ok(value) };
        Ok(match word.as_str() {
            "from" => Command::From(needed(self.value()?)?),
            "adapter" => Command::Adapter(needed(self.value()?)?),
            "template" => Command::Template(self.value()?),
            "system" => Command::System(self.value()?),
            "license" => Command::License(self.value()?),
            "parameter" => {
                let name = needed(self.inline_word())?.to_ascii_lowercase();
                Command::Parameter(name, self.value()?)
            }
            "message" => {
                let role = self.inline_word().to_ascii_lowercase();
                if !ROLES.contains(&role.as_str()) {
                    return Err(ModelfileError::Role { line });
                }
                Command::Message(Message { role, content: self.value()? })
            }
            _ => return Err(ModelfileError::Command { line }),
        })
    }

    /// Up to the next blank or line end.
    fn word(&mut self) -> &'a str {
        let end = self.rest.find(char::is_whitespace).unwrap_or(self.rest.len());
        self.take(end)
    }

    /// The next word of the same line.
    fn inline_word(&mut self) -> String {
        let blank = self.rest.len() - self.rest.trim_start_matches([' ', '\t']).len();
        self.take(blank);
        self.word().to_owned()
    }

    /// A value, up to the end of its line or its quote.
    fn value(&mut self) -> Result<String, ModelfileError> {
        let line = self.line;
        let mut begin = None;
        let mut end = 0;
        for (at, c) in self.rest.char_indices() {
            if matches!(c, '\n' | '\r') {
                let candidate = begin.and_then(|begin| self.rest.get(begin..end)).unwrap_or_default();
                if let Some(value) = unquoted(candidate) {
                    self.take(at);
                    return Ok(value.to_owned());
                }
            }
            if !c.is_whitespace() {
                begin.get_or_insert(at);
                end = at + c.len_utf8();
            }
        }
        let candidate = begin.and_then(|begin| self.rest.get(begin..end)).unwrap_or_default();
        let value = unquoted(candidate).ok_or(ModelfileError::Quote { line })?;
        self.take(self.rest.len());
        Ok(value.to_owned())
    }
}

/// The text without its quotes; `None` where they are not closed.
fn unquoted(text: &str) -> Option<&str> {
    match text.strip_prefix("\"\"\"") {
        Some(rest) => rest.strip_suffix("\"\"\""),
        None => match text.strip_prefix('"') {
            Some(rest) => rest.strip_suffix('"'),
            None => Some(text),
        },
    }
}
