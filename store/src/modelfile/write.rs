use super::parse::read_commands;
use super::{Command, MAX_MODELFILE_BYTES, Modelfile, ModelfileError};

impl Modelfile {
    /// The text of the Modelfile: reading it gives the same commands.
    ///
    /// # Errors
    /// A command that no text says.
    pub fn write(&self) -> Result<String, ModelfileError> {
        let mut text = String::new();
        for command in &self.commands {
            text += &command.line()?;
            text.push('\n');
        }
        match text.len() {
            0..=MAX_MODELFILE_BYTES => Ok(text),
            got => Err(ModelfileError::TooLong { got }),
        }
    }
}

impl Command {
    /// The command in the plainest form that is read back as it is.
    ///
    /// # Errors
    /// [`ModelfileError::Unwritable`].
    pub fn line(&self) -> Result<String, ModelfileError> {
        let (word, named, value) = match self {
            Command::From(value) => ("FROM", "", value),
            Command::Template(value) => ("TEMPLATE", "", value),
            Command::System(value) => ("SYSTEM", "", value),
            Command::Adapter(value) => ("ADAPTER", "", value),
            Command::License(value) => ("LICENSE", "", value),
            Command::Parameter(name, value) => ("PARAMETER", name.as_str(), value),
            Command::Message(message) => ("MESSAGE", message.role.as_str(), &message.content),
        };
        let name = if named.is_empty() { String::new() } else { format!(" {named}") };
        let one = format!("\"{value}\"");
        let three = format!("\"\"\"{value}\"\"\"");
        let forms = if value.contains(['\n', '\r', '"']) {
            [three, one, value.clone()]
        } else if value.is_empty() {
            [one, three, String::new()]
        } else {
            [value.clone(), one, three]
        };
        let mut lines = forms.into_iter().map(|form| format!("{word}{name} {form}"));
        lines.find(|line| self.is_said_by(line)).ok_or(ModelfileError::Unwritable { command: word })
    }

    /// Whether a text has this command, and what follows it stays what it is.
    fn is_said_by(&self, line: &str) -> bool {
        let next = Command::System("next".to_owned());
        let read = read_commands(&format!("{line}\nSYSTEM next\n"));
        read.is_ok_and(|commands| matches!(&commands[..], [own, other] if own == self && *other == next))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    #[test]
    fn what_no_text_says_is_refused_by_name() {
        let role = Message { role: "tool".to_owned(), content: "x".to_owned() };
        for (command, word) in [
            (Command::System("a\"\"\"\nb".to_owned()), "SYSTEM"),
            (Command::Template("a\u{7}b".to_owned()), "TEMPLATE"),
            (Command::From(String::new()), "FROM"),
            (Command::Parameter("two words".to_owned(), "1".to_owned()), "PARAMETER"),
            (Command::Message(role), "MESSAGE"),
        ] {
            let error = Modelfile { commands: vec![from("x"), command] }.write().unwrap_err();
            assert_eq!(error, ModelfileError::Unwritable { command: word });
            assert!(error.to_string().starts_with(word), "{error}");
        }
        // Quotes elsewhere have their form.
        for value in ["a\"\"\" b\nc", "\"\"\"", "a\nb\"\"", "\"", "", " \n"] {
            assert!(Command::System(value.to_owned()).line().is_ok(), "{value:?}");
        }
    }

    fn any_value() -> impl Strategy<Value = String> {
        // Quotes, blanks and line ends in every order, and any other text; no control characters, which are dropped.
        prop_oneof!["[a\"\n\r \t#'{]{0,12}", "(\"\"\"|[a\n]){0,4}", "\\PC{0,40}"]
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
            let ends_so = |line: &str| line.trim_end().ends_with("\"\"\"");
            match (Modelfile { commands: commands.clone() }).write() {
                Ok(text) => prop_assert_eq!(parse(&text).unwrap(), commands),
                // Nothing else is refused.
                Err(ModelfileError::Unwritable { command: word }) => prop_assert!(
                    commands.iter().any(|command| value(command).split(['\n', '\r']).any(ends_so)),
                    "{} of {:?}", word, commands
                ),
                Err(error) => prop_assert!(false, "{}", error),
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
