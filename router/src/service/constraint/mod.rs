//! What a request asks about the form of its text, and its compilation.

mod formats;
mod grammars;
mod lenient;

use weirgate_grammar::{GrammarSpec, Plan};

use super::error::ValidationError;
use crate::tools::{Calls, Thinking};
pub(crate) use formats::{Guided, guided, response_format, tgi_grammar};
pub(crate) use grammars::{Enforced, Grammars};
pub(crate) use lenient::{Checks, SchemaCheck};

/// What every sequence of a request must look like.
#[derive(Debug, Clone)]
pub(crate) struct Constraint {
    /// The field of the request that it came in.
    pub field: Field,
    pub form: Form,
    /// Whether the schema of the text is enforced in full or refused; of tools, each says so itself.
    pub strict: bool,
}

/// A field that asks for a form; it decides how a refusal is worded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    /// TGI's `grammar`, and whatever is answered in TGI's words.
    Grammar,
    Other(&'static str),
}

#[derive(Debug, Clone)]
pub(crate) enum Form {
    /// Of all of the text.
    Whole(GrammarSpec),
    Calls(Calls),
}

impl Constraint {
    pub fn whole(field: Field, spec: GrammarSpec) -> Self {
        Self { field, form: Form::Whole(spec), strict: true }
    }

    pub fn calls(calls: Calls) -> Self {
        Self { field: Field::Other("tools"), form: Form::Calls(calls), strict: true }
    }

    pub fn with_strict(self, strict: bool) -> Self {
        Self { strict, ..self }
    }

    /// Calls, or a text of this form.
    ///
    /// # Errors
    /// When the form cannot be one of two.
    pub fn or_calls(self, calls: Calls) -> Result<Self, ValidationError> {
        let content = match self.form {
            Form::Whole(spec) => spec.into_rule(),
            Form::Calls(_) => None,
        };
        let content =
            content.ok_or_else(|| self.field.refused("cannot be combined with tools".to_owned()))?;
        Ok(Self::calls(Calls { content: Some(content), ..calls }).with_strict(self.strict))
    }

    /// The tools that may be called.
    pub fn tools(&self) -> Option<&Calls> {
        match &self.form {
            Form::Whole(_) => None,
            Form::Calls(calls) => Some(calls),
        }
    }

    fn plan(&self, thinking: &Thinking) -> Result<Plan, String> {
        match &self.form {
            Form::Whole(spec) => Ok(thinking.before(spec.clone())),
            Form::Calls(calls) => calls.plan(thinking),
        }
    }
}

impl Field {
    /// A grammar that does not read as one (TGI's rule 18).
    fn invalid(self, message: String) -> ValidationError {
        match self {
            Self::Grammar => ValidationError::InvalidGrammar(message),
            Self::Other(field) => ValidationError::Field { field, message },
        }
    }

    /// A grammar that cannot be enforced (TGI's rule 19).
    fn refused(self, message: String) -> ValidationError {
        match self {
            Self::Grammar => ValidationError::RefusedGrammar(message),
            Self::Other(field) => ValidationError::Field { field, message },
        }
    }
}

#[cfg(test)]
mod tests;
