//! A model's templates, compiled.

use std::io;

use minijinja::value::Value;
use minijinja::{Environment, ErrorKind};
use serde::{Deserialize, Serialize};

use super::TemplateError;
use super::conversation::{Continuation, Conversation};
use super::environment::{TEMPLATE_NAME, compile, from_json};

/// The template of a model that names none.
const DEFAULT: &str = "default";
/// Preferred, where a model has several, when tools are given.
const TOOL_USE: &str = "tool_use";

/// What templates are made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sources {
    /// `(name, text)`.
    pub templates: Vec<(String, String)>,
    /// `(name, token)`.
    pub special_tokens: Vec<(String, String)>,
}

/// A model's templates. Rendering takes the memory that the template takes.
pub struct Templates {
    named: Vec<Named>,
    special_tokens: Vec<(String, String)>,
}

struct Named {
    name: String,
    /// A template that does not compile fails the requests that need it, not the start.
    environment: Result<Environment<'static>, String>,
}

impl Templates {
    /// Compiles them; one that does not compile fails the conversations that need it.
    pub fn new(sources: Sources) -> Self {
        let compiled = |(name, text): (String, String)| Named { name, environment: compile(&text) };
        Self {
            named: sources.templates.into_iter().map(compiled).collect(),
            special_tokens: sources.special_tokens,
        }
    }

    /// Why the first template that does not compile does not.
    pub fn broken(&self) -> Option<&str> {
        self.named.iter().find_map(|named| named.environment.as_ref().err().map(String::as_str))
    }

    /// The prompt text, of `max_bytes` at most.
    ///
    /// # Errors
    /// No template, a conversation that the template refuses, or Jinja's own errors.
    pub fn render(&self, conversation: &Conversation, max_bytes: usize) -> Result<String, TemplateError> {
        conversation.check()?;
        let environment = self.pick(conversation.tools.is_some())?;
        let template = environment.get_template(TEMPLATE_NAME).map_err(|error| jinja(&error))?;
        let mut messages = conversation.prepared_messages();
        let continuation = match conversation.continue_final_message {
            true => Some(Continuation::mark(&mut messages)?),
            false => None,
        };
        let messages = messages.into_iter().map(|message| from_json(&message.into())).collect();
        let mut output = Capped { text: Vec::new(), max_bytes };
        let context = self.context(conversation, messages)?;
        template.render_captured_to(context, &mut output).map_err(|error| jinja(&error))?;
        let text = String::from_utf8(output.text).map_err(|error| TemplateError::Jinja(error.to_string()))?;
        match continuation {
            Some(continuation) => continuation.cut(text),
            None => Ok(text),
        }
    }

    /// As transformers picks: `tool_use` for tools where there is one, else `default`.
    fn pick(&self, tools: bool) -> Result<&Environment<'static>, TemplateError> {
        let find = |name: &str| self.named.iter().find(|named| named.name == name);
        let named = (if tools { find(TOOL_USE) } else { None })
            .or_else(|| find(DEFAULT))
            .ok_or(TemplateError::Missing)?;
        named.environment.as_ref().map_err(|error| TemplateError::Jinja(error.clone()))
    }

    fn context(&self, conversation: &Conversation, messages: Vec<Value>) -> Result<Value, TemplateError> {
        let list = |values: &Option<Vec<serde_json::Value>>| match values {
            Some(values) => Value::from(values.iter().map(from_json).collect::<Vec<_>>()),
            None => Value::from(()),
        };
        let tokens =
            self.special_tokens.iter().map(|(name, token)| (name.clone(), Value::from(token.as_str())));
        let own = conversation.variables.iter().map(|(name, value)| (name.clone(), from_json(value)));
        let fixed = [
            ("messages", Value::from(messages)),
            ("tools", list(&conversation.tools)),
            ("documents", list(&conversation.documents)),
            ("add_generation_prompt", Value::from(conversation.generation_prompt()?)),
        ];
        let fixed = fixed.into_iter().map(|(name, value)| (name.to_owned(), value));
        Ok(Value::from_pairs(tokens.chain(own).chain(fixed).collect::<Vec<_>>()))
    }
}

/// A prompt that does not grow without end.
struct Capped {
    text: Vec<u8>,
    max_bytes: usize,
}

impl io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.max_bytes - self.text.len() {
            return Err(io::Error::other(format!("the prompt has more than {} bytes", self.max_bytes)));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn jinja(error: &minijinja::Error) -> TemplateError {
    TemplateError::Jinja(match (error.kind(), std::error::Error::source(error)) {
        (ErrorKind::OutOfFuel, _) => "the template takes too many steps".to_owned(),
        (ErrorKind::WriteFailure, Some(cause)) => cause.to_string(),
        _ => error.to_string(),
    })
}
