//! Chat templates: Jinja set up the way transformers sets it up (`transformers.utils.chat_template_utils`).

mod environment;
mod json;

use minijinja::value::Value;
use minijinja::{Environment, ErrorKind};
use serde_json::Map;

use environment::{compile, from_json};

/// The template of a model that names none.
const DEFAULT: &str = "default";
/// Preferred, where a model has several, when tools are given.
const TOOL_USE: &str = "tool_use";

/// A model's chat templates.
pub(crate) struct ChatTemplate {
    named: Vec<Named>,
    /// `bos_token`, `eos_token` and the like, by name.
    special_tokens: Vec<(String, String)>,
}

struct Named {
    name: String,
    /// A template that does not compile fails the requests that need it, not the start.
    environment: Result<Environment<'static>, String>,
}

/// Why a conversation could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error("template not found")]
    Missing,
    /// Jinja's message, with the line of the template.
    #[error("{0}")]
    Jinja(String),
}

/// What a template sees.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conversation {
    /// Each with `role` and `content`, and whatever else the client sent.
    pub messages: Vec<Map<String, serde_json::Value>>,
    pub tools: Option<Vec<serde_json::Value>>,
    /// The last message is the assistant's and is to be continued rather than answered.
    pub continue_final_message: bool,
}

impl ChatTemplate {
    /// `sources` are `(name, text)`; a single template has the name `default`.
    pub fn new(sources: Vec<(String, String)>, special_tokens: Vec<(String, String)>) -> Self {
        let named =
            sources.into_iter().map(|(name, text)| Named { name, environment: compile(&text) }).collect();
        Self { named, special_tokens }
    }

    /// Why the first template that does not compile does not.
    pub fn broken(&self) -> Option<&str> {
        self.named.iter().find_map(|named| named.environment.as_ref().err().map(String::as_str))
    }

    /// The prompt text of a conversation.
    pub fn render(&self, conversation: &Conversation) -> Result<String, TemplateError> {
        let environment = self.pick(conversation.tools.is_some())?;
        let template = environment
            .get_template(environment::TEMPLATE_NAME)
            .map_err(|error| TemplateError::Jinja(error.to_string()))?;
        let text = template
            .render(self.context(conversation))
            .map_err(|error| TemplateError::Jinja(message(&error)))?;
        if conversation.continue_final_message { continue_final(text, conversation) } else { Ok(text) }
    }

    fn pick(&self, tools: bool) -> Result<&Environment<'static>, TemplateError> {
        let find = |name: &str| self.named.iter().find(|named| named.name == name);
        let named = (if tools { find(TOOL_USE) } else { None })
            .or_else(|| find(DEFAULT))
            .or_else(|| self.named.first())
            .ok_or(TemplateError::Missing)?;
        named.environment.as_ref().map_err(|error| TemplateError::Jinja(error.clone()))
    }

    fn context(&self, conversation: &Conversation) -> Value {
        let messages: Vec<Value> = conversation
            .messages
            .iter()
            .map(|message| from_json(&serde_json::Value::Object(message.clone())))
            .collect();
        let tools =
            conversation.tools.as_ref().map(|tools| tools.iter().map(from_json).collect::<Vec<Value>>());
        let mut variables = vec![
            ("messages".to_owned(), Value::from(messages)),
            ("tools".to_owned(), tools.map_or(Value::from(()), Value::from)),
            ("documents".to_owned(), Value::from(())),
            ("add_generation_prompt".to_owned(), Value::from(!conversation.continue_final_message)),
        ];
        variables.extend(
            self.special_tokens.iter().map(|(name, token)| (name.clone(), Value::from(token.as_str()))),
        );
        Value::from_pairs(variables)
    }
}

fn message(error: &minijinja::Error) -> String {
    match error.kind() {
        ErrorKind::OutOfFuel => "the template takes too many steps".to_owned(),
        _ => error.to_string(),
    }
}

/// Cuts the prompt right after the last message's text, so that the model goes on writing it.
fn continue_final(text: String, conversation: &Conversation) -> Result<String, TemplateError> {
    let last =
        conversation.messages.last().and_then(|message| message.get("content")?.as_str()).unwrap_or_default();
    let last = last.trim();
    match text.rfind(last) {
        Some(at) => Ok(text.get(..at + last.len()).unwrap_or(&text).trim_end().to_owned()),
        None => Err(TemplateError::Jinja(
            "the last message cannot be continued: the template does not show it as it is".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests;
