//! What a template sees of a conversation, prepared as transformers prepares it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::TemplateError;

/// Names a message's reasoning is sent under; templates read the first, those of gpt-oss the second.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
/// Marks where the text to be continued ends. The same as transformers', so that the same conversations are refused.
const MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";
/// Set by the server; not for `variables`.
const RESERVED: [&str; 5] =
    ["messages", "tools", "documents", "add_generation_prompt", "continue_final_message"];

/// A conversation and how to render it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Conversation {
    /// Each with `role` and `content`, and whatever else the client sent.
    pub messages: Vec<Map<String, Value>>,
    pub tools: Option<Vec<Value>>,
    pub documents: Option<Vec<Value>>,
    /// Further variables of the template (`chat_template_kwargs`). They win over special tokens of the same name.
    pub variables: Map<String, Value>,
    /// Whether the prompt ends with the header of the assistant's answer. Not said: yes, unless the last message is
    /// continued.
    pub add_generation_prompt: Option<bool>,
    /// The last message is the assistant's and is to be continued rather than answered.
    pub continue_final_message: bool,
}

impl Conversation {
    /// What a completion template sees: `prompt`, and the `suffix` that follows what is to be written.
    pub fn infill(prompt: &str, suffix: &str) -> Self {
        let variables = [("prompt", prompt), ("suffix", suffix)];
        let text = |(name, text): (&str, &str)| (name.to_owned(), Value::String(text.to_owned()));
        let message = [("role", "user"), ("content", prompt)].map(text);
        Self {
            messages: vec![message.into_iter().collect()],
            variables: variables.map(text).into_iter().collect(),
            ..Self::default()
        }
    }

    /// What `render` makes of this conversation with the arguments of tool calls that came as JSON text (OpenAI's form)
    /// as objects, as transformers documents them; with a template that cannot render that, with the text.
    ///
    /// # Errors
    /// Those of `render`.
    pub fn render_by<E>(&self, render: impl Fn(&Self) -> Result<String, E>) -> Result<String, E> {
        if let Some(decoded) = self.with_decoded_arguments()
            && let Ok(text) = render(&decoded)
        {
            return Ok(text);
        }
        render(self)
    }

    /// A copy whose tool calls' arguments are objects where they came as JSON text; `None` where none did.
    fn with_decoded_arguments(&self) -> Option<Self> {
        let mut changed = false;
        let mut copy = self.clone();
        let calls =
            copy.messages.iter_mut().filter_map(|message| message.get_mut("tool_calls")?.as_array_mut());
        for call in calls.flatten() {
            let Some(arguments) = call.get_mut("function").and_then(|function| function.get_mut("arguments"))
            else {
                continue;
            };
            if let Some(text) = arguments.as_str()
                && let Ok(object @ Value::Object(_)) = serde_json::from_str(text)
            {
                *arguments = object;
                changed = true;
            }
        }
        changed.then_some(copy)
    }

    pub(super) fn generation_prompt(&self) -> Result<bool, TemplateError> {
        match self.add_generation_prompt {
            Some(true) if self.continue_final_message => {
                Err(refuse("`continue_final_message` and `add_generation_prompt` cannot both be true"))
            }
            Some(given) => Ok(given),
            None => Ok(!self.continue_final_message),
        }
    }

    pub(super) fn check(&self) -> Result<(), TemplateError> {
        if self.messages.is_empty() {
            return Err(refuse("the conversation has no messages"));
        }
        match RESERVED.iter().find(|name| self.variables.contains_key(**name)) {
            Some(name) => Err(refuse(&format!("`chat_template_kwargs` cannot set `{name}`"))),
            None => Ok(()),
        }
    }

    /// The messages as a template expects them: without the fields that are null, and with the reasoning under the
    /// name that templates read.
    pub(super) fn prepared_messages(&self) -> Vec<Map<String, Value>> {
        self.messages.iter().map(prepare).collect()
    }
}

fn prepare(message: &Map<String, Value>) -> Map<String, Value> {
    let fields = || message.iter().filter(|(_, value)| !value.is_null());
    let reasoning = REASONING.iter().find_map(|name| message.get(*name).filter(|value| !value.is_null()));
    let mut prepared = Map::new();
    if let Some(reasoning) = reasoning {
        prepared.insert("thinking".to_owned(), reasoning.clone());
    }
    prepared.extend(fields().map(|(name, value)| (name.clone(), value.clone())));
    if let Some(reasoning) = reasoning {
        prepared.insert("reasoning_content".to_owned(), reasoning.clone());
    }
    prepared
}

/// The last message's text, which the model is to go on writing.
pub(super) struct Continuation {
    text: String,
}

impl Continuation {
    /// Marks the end of the last message's text, or of its last text part.
    pub fn mark(messages: &mut [Map<String, Value>]) -> Result<Self, TemplateError> {
        let content = messages.last_mut().and_then(|message| message.get_mut("content"));
        let text = match content {
            Some(Value::Array(parts)) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
            content => content,
        };
        match text {
            Some(Value::String(text)) => {
                let continuation = Self { text: text.clone() };
                text.push_str(MARK);
                Ok(continuation)
            }
            _ => Err(refuse("the last message has no text to continue")),
        }
    }

    /// Cuts the prompt at the mark, so that the model goes on right after the last message's text.
    pub fn cut(&self, mut prompt: String) -> Result<String, TemplateError> {
        let at = prompt.rfind(MARK.trim_end()).filter(|_| prompt.contains(self.text.trim()));
        let Some(at) = at else {
            return Err(refuse(
                "the last message cannot be continued: the template does not show it as it is",
            ));
        };
        let untrimmed = prompt.get(at..).is_some_and(|rest| rest.starts_with(MARK));
        prompt.truncate(at);
        if !untrimmed {
            // The template trims its messages: the blanks before the mark are no longer the message's own.
            prompt.truncate(prompt.trim_end().len());
        }
        Ok(prompt)
    }
}

fn refuse(message: &str) -> TemplateError {
    TemplateError::Jinja(message.to_owned())
}
