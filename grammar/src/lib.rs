//! Weirgate's grammars: from a JSON schema, a regular expression, a list of choices or a Lark grammar to masks over a
//! tokenizer's vocabulary, for [`weirgate_engine::EngineHandle::submit_constrained`].
//!
//! A [`Compiler`] belongs to one [`Vocabulary`]. [`Compiler::compile`] is the whole of what can go wrong before a
//! response begins: it checks the limits, compiles, and takes the first steps of a generation as a trial.

mod cache;
mod compile;
mod error;
mod limits;
mod matcher;
mod spec;
mod vocabulary;

pub use compile::{Compiled, Compiler};
pub use error::GrammarError;
pub use limits::Limits;
pub use spec::GrammarSpec;
pub use vocabulary::{Vocabulary, VocabularyError};
