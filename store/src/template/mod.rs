//! Prompt templates in the language of Go's `text/template`, as Modelfiles and Ollama's registry have them.
//!
//! Templates come from strangers, so this is an interpreter of our own with limits on length, nesting, steps and
//! output; it knows the part of the language that templates of models use: `if`, `range`, `with`, `break`,
//! `continue`, variables, pipelines, the built-in functions, and Ollama's `json`, `currentDate`, `yesterdayDate` and
//! `toTypeScriptType`. Reference: the documentation of Go's package `text/template`.

mod chat;
mod format;
mod functions;
mod lex;
mod parse;
mod run;
mod value;

use serde_json::Value as Json;
use thiserror::Error;

pub use chat::Conversation;

use parse::Node;
use run::Budget;
use value::Value;

/// Longest template, in bytes.
pub const MAX_TEMPLATE_BYTES: usize = 256 << 10;
/// Longest text that a template makes, and longest value on the way to it, in bytes.
pub const MAX_OUTPUT_BYTES: usize = 4 << 20;
/// Deepest nesting of actions and parentheses.
const MAX_DEPTH: usize = 64;
/// Most variables that can be named at one place.
const MAX_VARIABLES: usize = 1_000;
/// Most nodes visited, functions called, values looked at, and pieces of text read or copied.
const MAX_STEPS: usize = 1_000_000;

/// What is wrong with a template, or went wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TemplateError {
    #[error("the template is {got} bytes long, at most {MAX_TEMPLATE_BYTES} are accepted")]
    TooLong { got: usize },
    #[error("template line {line}: {message}")]
    Syntax { line: usize, message: String },
    #[error("template: {0}")]
    Failed(String),
    #[error("the template nests deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("the template has more than {MAX_VARIABLES} variables")]
    TooManyVariables,
    #[error("the template takes more than {MAX_STEPS} steps")]
    TooManySteps,
    #[error("the template makes more than {MAX_OUTPUT_BYTES} bytes")]
    TooMuchOutput,
}

/// A template that has been read.
#[derive(Debug, Clone)]
pub struct Template {
    nodes: Vec<Node>,
}

impl Template {
    /// # Errors
    /// See [`TemplateError`].
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.len() > MAX_TEMPLATE_BYTES {
            return Err(TemplateError::TooLong { got: text.len() });
        }
        Ok(Self { nodes: parse::parse(text)? })
    }

    /// Whether the template asks for a field of this name, as `Tools`, at any depth.
    pub fn mentions(&self, field: &str) -> bool {
        parse::mentions(&self.nodes, field)
    }

    /// The template's text for `data`, which is what `.` means. A field is looked up by its own name, then by its name
    /// in snake case (`.ToolCalls` finds `tool_calls`); a missing one is empty.
    ///
    /// # Errors
    /// See [`TemplateError`].
    pub fn render(&self, data: &Json) -> Result<String, TemplateError> {
        run::run(&self.nodes, Value::from_json(data), &mut Budget::default())
    }
}
