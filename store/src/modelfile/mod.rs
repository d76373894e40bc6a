//! Modelfiles: what a model is made of, one command a line.
//!
//! ```text
//! FROM llama3
//! PARAMETER temperature 0.7
//! SYSTEM """
//! You are terse.
//! """
//! ```
//!
//! A value ends with its line, unless it begins with `"` or `"""`: then it ends where a line does with the same. There
//! are no escapes. `#` at the beginning of a line is a comment. Commands are read in any case.

mod parameters;
mod parse;
mod write;

use thiserror::Error;

pub use parameters::{ParameterError, ParameterType, parameter_type, read_parameters};

use crate::entry::Message;

/// Largest Modelfile read, in bytes.
pub const MAX_MODELFILE_BYTES: usize = 16 << 20;

/// The commands of a Modelfile, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Modelfile {
    pub commands: Vec<Command>,
}

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A model's name, `@sha256:…` for a blob, or a path.
    From(String),
    /// Name and text of an option; see [`read_parameters`].
    Parameter(String, String),
    Template(String),
    System(String),
    Adapter(String),
    License(String),
    Message(Message),
}

/// What is wrong with a Modelfile.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ModelfileError {
    #[error("no FROM line")]
    NoFrom,
    #[error(
        "line {line}: command must be one of \"from\", \"license\", \"template\", \"system\", \"adapter\", \"parameter\", or \
         \"message\""
    )]
    Command { line: usize },
    #[error("line {line}: message role must be one of \"system\", \"user\", or \"assistant\"")]
    Role { line: usize },
    #[error("line {line}: a value is missing")]
    Value { line: usize },
    #[error("unexpected EOF: the quote of line {line} is not closed")]
    Quote { line: usize },
    #[error(
        "{command} cannot be written in a Modelfile: a line of its text ends in three quotes, or its text or name has \
         characters that a Modelfile has not"
    )]
    Unwritable { command: &'static str },
    #[error("the Modelfile is {got} bytes long, at most {MAX_MODELFILE_BYTES} are accepted")]
    TooLong { got: usize },
    #[error("the Modelfile is neither UTF-8 nor UTF-16 with a byte order mark")]
    Encoding,
}
