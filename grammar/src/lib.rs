//! Weirgate's grammars: from a JSON schema, a regular expression, a list of choices or a Lark grammar to masks over a
//! tokenizer's vocabulary, for [`weirgate_engine::EngineHandle::submit_constrained`].
//!
//! A [`Compiler`] belongs to one [`Vocabulary`]. [`Compiler::compile`] is the whole of what can go wrong before a
//! response begins: it checks the limits, compiles, and takes the first steps of a generation as a trial. A [`Plan`] puts
//! free text before a grammar: reasoning, or what a model says before it calls a tool.

mod cache;
mod classes;
mod compile;
mod error;
mod limits;
mod lower;
mod matcher;
mod outlines;
mod relax;
mod schema;
mod spec;
mod stages;
mod triggers;
mod vocabulary;
mod watch;

pub use compile::{Backend, Compiled, Compiler};
pub use error::GrammarError;
pub use limits::Limits;
pub use lower::Whitespace;
pub use relax::{Relaxation, Relaxed};
pub use spec::{GrammarSpec, Rule};
pub use stages::{Plan, Stage, Staged};
pub use triggers::Trigger;
pub use vocabulary::{Vocabulary, VocabularyError};
