//! Chat templates: Jinja set up the way transformers sets it up (`transformers.utils.chat_template_utils`).
//!
//! A template comes with the model, from whoever made it. Jinja keeps it away from the machine, but not from memory: whoever
//! renders one bounds its own memory.

mod conversation;
mod environment;
mod filters;
mod json;
mod methods;
mod render;
mod source;
mod strftime;

pub use conversation::Conversation;
pub use render::{Sources, Templates};

/// Why a conversation could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("template not found")]
    Missing,
    /// Jinja's message, with the line of the template; or what the conversation lacks.
    #[error("{0}")]
    Jinja(String),
}

#[cfg(test)]
mod tests;
