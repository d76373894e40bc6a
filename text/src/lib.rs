//! The text side of a checkpoint: its tokenizer, its special tokens and its chat templates; and the conversations that it is
//! trained on. No device, no requests.

mod dataset;
mod settings;
mod template;
mod tokenizer;

pub use dataset::{LineError, MAX_ERRORS, MAX_LINE, Record, RecordForm};
pub use settings::TokenizerSettings;
pub use template::{Conversation, Sources, TemplateError, Templates};
pub use tokenizer::{eos_tokens, read_tokenizer};
use weirgate_models::ModelError;

/// Why a checkpoint's text side cannot be read. Every message names the file.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    #[error("{file}: {message}")]
    File { file: String, message: String },
    #[error(transparent)]
    Model(#[from] ModelError),
}
