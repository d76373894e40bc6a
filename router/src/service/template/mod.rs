//! Chat templates: Jinja in processes of their own, and Go's, whose interpreter counts what it does.
//!
//! A template comes with the model, from whoever made it. Jinja keeps it away from the machine, but not from memory:
//! one string doubled forty times is a terabyte, and an allocation that fails ends the process. No count of steps or
//! of output bytes prevents that, so templates are compiled and rendered in processes of their own ([`worker`]), whose
//! address space the kernel bounds. This side ([`sandbox`]) never runs a template; it sends conversations, waits no
//! longer than a deadline, and replaces a process that ended.

mod frame;
mod go;
mod sandbox;
mod worker;

pub use weirgate_text::Conversation;
pub use worker::{COMMAND, run};

use sandbox::Sandbox;

/// A model's chat templates.
pub struct ChatTemplate {
    language: Language,
    /// The templates as they are written.
    text: String,
}

enum Language {
    /// The model has no template.
    None,
    /// There is nothing but the texts themselves, with a blank line between them.
    Texts,
    Jinja(Sandbox),
    /// One that cannot be read fails the requests that need it, not the load.
    Go(Result<weirgate_store::Template, weirgate_store::TemplateError>),
}

/// Why a conversation could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("template not found")]
    Missing,
    /// Jinja's message, with the line of the template; or what the conversation lacks.
    #[error("{0}")]
    Jinja(String),
    #[error(transparent)]
    Go(#[from] weirgate_store::TemplateError),
    /// The template's process ended: out of memory, or out of stack.
    #[error("the template takes more than {} MiB of memory, or nests too deeply", worker::MEMORY_BYTES >> 20)]
    TooLarge,
    #[error("the template takes more than {} s", sandbox::DEADLINE.as_secs())]
    TooSlow,
    /// Not the template's fault.
    #[error("the template cannot be rendered: {0}")]
    Process(String),
}

impl ChatTemplate {
    /// `sources` are `(name, text)`; a single template has the name `default`. `special_tokens` are `bos_token`,
    /// `eos_token` and the like, by name. Nothing is run yet.
    pub fn new(sources: Vec<(String, String)>, special_tokens: Vec<(String, String)>) -> Self {
        let text = sources.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("\n");
        let language = match sources.is_empty() {
            true => Language::None,
            false => Language::Jinja(Sandbox::new(sources, special_tokens)),
        };
        Self { language, text }
    }

    /// A template in Go's language.
    pub fn go(text: &str) -> Self {
        Self { language: Language::Go(weirgate_store::Template::parse(text)), text: text.to_owned() }
    }

    /// For models without a template, where that is no error: the messages' texts alone.
    pub fn texts() -> Self {
        Self { language: Language::Texts, text: String::new() }
    }

    /// Whether it is in Go's language and asks for a field of this name, as `Tools`.
    pub fn asks_for(&self, field: &str) -> bool {
        matches!(&self.language, Language::Go(Ok(template)) if template.mentions(field))
    }

    pub fn is_missing(&self) -> bool {
        matches!(self.language, Language::None)
    }

    /// Whether it leaves it to the tokenizer to mark where a text begins; Jinja templates write that mark.
    pub fn lacks_marks(&self) -> bool {
        matches!(self.language, Language::Texts | Language::Go(_))
    }

    /// Why the first template that does not compile does not. Starts the process that will render.
    pub fn broken(&self) -> Option<String> {
        match &self.language {
            Language::None | Language::Texts => None,
            Language::Jinja(sandbox) => sandbox.broken(),
            Language::Go(template) => template.as_ref().err().map(ToString::to_string),
        }
    }

    /// The templates as they are written: a model's form of tool calls and of reasoning is told by them.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The prompt text of a conversation; see [`Conversation::render_by`] for tool calls.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn render(&self, conversation: &Conversation) -> Result<String, TemplateError> {
        self.render_as(conversation, Conversation::clone)
    }

    /// The same, of what `seen` makes of the conversation.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn render_as(
        &self,
        conversation: &Conversation,
        seen: impl Fn(&Conversation) -> Conversation,
    ) -> Result<String, TemplateError> {
        conversation.render_by(|conversation| match &self.language {
            Language::None => Err(TemplateError::Missing),
            Language::Texts => Ok(texts(&seen(conversation))),
            Language::Jinja(sandbox) => sandbox.render(&seen(conversation)),
            Language::Go(template) => {
                let template = template.as_ref().map_err(Clone::clone)?;
                Ok(template.prompt(&go::conversation(&seen(conversation)))?)
            }
        })
    }
}

/// The texts of the messages that have one.
fn texts(conversation: &Conversation) -> String {
    let texts = conversation.messages.iter().filter_map(|message| message.get("content")?.as_str());
    texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests;
