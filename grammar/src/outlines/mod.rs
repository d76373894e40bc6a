//! Regular expressions and JSON schemas as one automaton over bytes. outlines-core turns a schema into a regular
//! expression; its states are built while they are needed, and a mask over the vocabulary belongs to each of them.
//!
//! Only what outlines-core's conversion gets right is handed to it ([`schema`]): it ignores many keywords, and grows
//! without bound on others.

mod automaton;
mod pattern;
mod schema;
mod state;

use std::sync::Arc;

use llguidance::toktrie::TokEnv;

use crate::classes::of_python;
use crate::{GrammarError, GrammarSpec, Limits};
pub(crate) use automaton::Automaton;
pub(crate) use state::State;

/// Nesting of a regular expression that comes from a schema: some levels for each one of the schema's.
const CONVERTED_DEPTH: u32 = 500;

/// Compiles what this backend is for; `None` for the other kinds of grammar.
///
/// # Errors
/// When a limit is exceeded, the text is malformed, or the schema has keywords that the conversion does not honour.
pub(crate) fn compile(
    spec: &GrammarSpec,
    limits: &Limits,
    environment: &TokEnv,
) -> Result<Option<Arc<Automaton>>, GrammarError> {
    let (pattern, depth) = match spec {
        // The limit was kept to before the classes were written out.
        GrammarSpec::Regex(pattern) => (of_python(pattern, limits.nesting()), limits.nesting() + 2),
        GrammarSpec::Choice(choices) if choices.is_empty() => return Err(GrammarError::Empty),
        GrammarSpec::Choice(choices) => {
            let quoted: Vec<String> = choices.iter().map(|choice| regex_syntax::escape(choice)).collect();
            (quoted.join("|"), limits.nesting())
        }
        GrammarSpec::JsonObject => (schema::to_regex(r#"{"type":"object"}"#, limits)?, CONVERTED_DEPTH),
        GrammarSpec::JsonSchema(text) => (schema::to_regex(text, limits)?, CONVERTED_DEPTH),
        GrammarSpec::Lark(_) | GrammarSpec::Rule(_) => return Ok(None),
    };
    let hir = pattern::whole(&pattern, depth)?;
    Ok(Some(Arc::new(Automaton::new(&hir, environment.clone())?)))
}

#[cfg(test)]
mod tests;
