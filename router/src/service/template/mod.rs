//! Chat templates in processes of their own.
//!
//! A template comes with the model, from whoever made it. Jinja keeps it away from the machine, but not from memory:
//! one string doubled forty times is a terabyte, and an allocation that fails ends the process. No count of steps or
//! of output bytes prevents that, so templates are compiled and rendered in processes of their own ([`worker`]), whose
//! address space the kernel bounds. This side ([`sandbox`]) never runs a template; it sends conversations, waits no
//! longer than a deadline, and replaces a process that ended.

mod frame;
mod sandbox;
mod worker;

pub use weirgate_text::Conversation;
pub use worker::{COMMAND, run};

use sandbox::Sandbox;

/// A model's chat templates.
pub struct ChatTemplate {
    /// None where the model has no template.
    sandbox: Option<Sandbox>,
    /// The templates as they are written.
    text: String,
}

/// Why a conversation could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("template not found")]
    Missing,
    /// Jinja's message, with the line of the template; or what the conversation lacks.
    #[error("{0}")]
    Jinja(String),
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
        let sandbox = (!sources.is_empty()).then(|| Sandbox::new(sources, special_tokens));
        Self { sandbox, text }
    }

    /// Why the first template that does not compile does not. Starts the process that will render.
    pub fn broken(&self) -> Option<String> {
        self.sandbox.as_ref()?.broken()
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
        let sandbox = self.sandbox.as_ref().ok_or(TemplateError::Missing)?;
        conversation.render_by(|conversation| sandbox.render(conversation))
    }
}

#[cfg(test)]
mod tests;
