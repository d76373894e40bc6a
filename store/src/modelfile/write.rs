use std::fmt;

use super::parse::Reader;
use super::{Command, Modelfile};

/// A Modelfile's text. Reading it gives the same commands, but for values that have no exact form: those with a line
/// that ends in `"""`, which lose those quotes' last two.
impl fmt::Display for Modelfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.commands.iter().try_for_each(|command| writeln!(f, "{command}"))
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, value) = match self {
            Command::From(value) => ("FROM", value),
            Command::Template(value) => ("TEMPLATE", value),
            Command::System(value) => ("SYSTEM", value),
            Command::Adapter(value) => ("ADAPTER", value),
            Command::License(value) => ("LICENSE", value),
            Command::Parameter(name, value) => return write!(f, "PARAMETER {name} {}", quoted(value)),
            Command::Message(message) => {
                return write!(f, "MESSAGE {} {}", message.role, quoted(&message.content));
            }
        };
        write!(f, "{word} {}", quoted(value))
    }
}

/// The value in the plainest form that is read back as it is.
pub(crate) fn quoted(value: &str) -> String {
    exact(value).unwrap_or_else(|| {
        let closed_late = value.replace("\"\"\"", "\"");
        exact(&closed_late).unwrap_or_else(|| format!("\"\"\"{closed_late}\"\"\""))
    })
}

/// That form, where there is one.
pub(super) fn exact(value: &str) -> Option<String> {
    let one = format!("\"{value}\"");
    let three = format!("\"\"\"{value}\"\"\"");
    let forms = if value.contains(['\n', '\r', '"']) {
        [three, one, value.to_owned()]
    } else {
        [value.to_owned(), one, three]
    };
    forms.into_iter().find(|form| !form.is_empty() && reads_back(form, value))
}

fn reads_back(form: &str, value: &str) -> bool {
    let line = format!("{form}\n");
    let mut reader = Reader { rest: &line, line: 1 };
    reader.value().is_ok_and(|read| read == value) && reader.rest == "\n"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ModelfileError;
    use super::*;
    use crate::entry::Message;

    fn parse(text: &str) -> Result<Vec<Command>, ModelfileError> {
        Modelfile::parse(text).map(|file| file.commands)
    }

    fn from(name: &str) -> Command {
        Command::From(name.to_owned())
    }

    #[test]
    fn commands_and_quotes() {
        let text = concat!(
            "\u{feff}# comment\r\n",
            "from llama3 \t\r\n",
            "  PARAMETER Temperature 0.7\n",
            "PARAMETER stop \"\"\"</s>\"\"\"\n",
            "SYSTEM \"say \"hi\" it's ok\"\n",
            "TEMPLATE \"\"\"{{ .System }}\n",
            "# not a comment\n",
            "{{ .Prompt }}\"\"\"\n",
            "LICENSE \"\"\"\nMIT\n\"\"\"\n",
            "MESSAGE User hello\u{7} there\n",
            "MESSAGE assistant \"\"\n",
            "adapter ./lora.gguf",
        );
        let message = |role: &str, content: &str| {
            Command::Message(Message { role: role.to_owned(), content: content.to_owned() })
        };
        let expected = [
            from("llama3"),
            Command::Parameter("temperature".to_owned(), "0.7".to_owned()),
            Command::Parameter("stop".to_owned(), "</s>".to_owned()),
            Command::System("say \"hi\" it's ok".to_owned()),
            Command::Template("{{ .System }}\n# not a comment\n{{ .Prompt }}".to_owned()),
            Command::License("\nMIT\n".to_owned()),
            message("user", "hello there"),
            message("assistant", ""),
            Command::Adapter("./lora.gguf".to_owned()),
        ];
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn utf16_is_read() {
        let little: Vec<u8> = "\u{feff}FROM ä\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = "\u{feff}FROM ä\n".encode_utf16().flat_map(u16::to_be_bytes).collect();
        for bytes in [little, big, "FROM ä".as_bytes().to_vec()] {
            assert_eq!(Modelfile::from_bytes(&bytes).unwrap().commands, [from("ä")]);
        }
        assert_eq!(Modelfile::from_bytes(b"FROM \xff"), Err(ModelfileError::Encoding));
    }

    #[test]
    fn faults_are_named() {
        let cases = [
            ("", "no FROM line"),
            ("# FROM x", "no FROM line"),
            ("SYSTEM x", "no FROM line"),
            ("FROM x\n\nFOO bar", "line 3: command must be one of"),
            ("FROM x\nMESSAGE tool hi", "line 2: message role must be one of"),
            ("FROM x\nSYSTEM \"\"\"a\nb", "unexpected EOF: the quote of line 2"),
            ("FROM x\nSYSTEM \"a", "unexpected EOF"),
            ("FROM\nSYSTEM x", "line 1: a value is missing"),
            ("FROM x\nPARAMETER\n", "line 2: a value is missing"),
        ];
        for (text, message) in cases {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(message), "{text:?}: {error}");
        }
        let long = format!("FROM x\nSYSTEM \"{}", "\n".repeat(4 << 20));
        assert!(matches!(parse(&long), Err(ModelfileError::Quote { line: 2 })));
    }

    fn any_value() -> impl Strategy<Value = String> {
        // Quotes, blanks and line ends in every order, and any other text; no control characters, which are dropped.
        prop_oneof!["[a\"\n\r \t#'{]{0,12}", "\\PC{0,40}"]
    }

    fn any_command() -> impl Strategy<Value = Command> {
        let filled = || any_value().prop_filter("FROM needs a value", |value| !value.is_empty());
        prop_oneof![
            filled().prop_map(Command::From),
            filled().prop_map(Command::Adapter),
            any_value().prop_map(Command::Template),
            any_value().prop_map(Command::System),
            any_value().prop_map(Command::License),
            ("[a-z_]{1,12}", any_value()).prop_map(|(name, value)| Command::Parameter(name, value)),
            ("system|user|assistant", any_value())
                .prop_map(|(role, content)| Command::Message(Message { role, content })),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(mut commands in prop::collection::vec(any_command(), 0..8)) {
            commands.push(from("x"));
            let value = |command: &Command| match command {
                Command::From(value) | Command::Template(value) | Command::System(value) => value.clone(),
                Command::Adapter(value) | Command::License(value) | Command::Parameter(_, value) => value.clone(),
                Command::Message(message) => message.content.clone(),
            };
            prop_assume!(commands.iter().all(|command| exact(&value(command)).is_some()));
            let text = Modelfile { commands: commands.clone() }.to_string();
            prop_assert_eq!(parse(&text).unwrap(), commands);
        }

        #[test]
        fn only_lines_that_end_in_three_quotes_have_no_form(value in any_value()) {
            if exact(&value).is_none() {
                let ends_so = |line: &str| line.trim_end().ends_with("\"\"\"");
                prop_assert!(value.split(['\n', '\r']).any(ends_so), "{:?}", value);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}|[FROMfrom \"\n#]{0,60}") {
            if let Ok(commands) = parse(&text) {
                prop_assert!(commands.iter().any(|command| matches!(command, Command::From(_))));
            }
        }
    }
}
