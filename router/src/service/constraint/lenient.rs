//! Schemas with `strict: false`: what of them can be enforced is, and the text that came is checked against them whole.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use jsonschema::{PatternOptions, Validator};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use weirgate_grammar::{Compiler, GrammarError, GrammarSpec, Limits, Relaxation, Relaxed, Rule};

use super::{Constraint, Form};

/// Steps back that one match of a regular expression may take.
const BACKTRACKS: usize = 100_000;

/// What the texts of a request are checked against once they are complete.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    content: Option<Check>,
    /// Of the arguments, by the tool's name.
    tools: HashMap<String, Check>,
}

#[derive(Debug)]
struct Check {
    validator: Validator,
    relaxed: Vec<RelaxedKeyword>,
}

/// What became of a schema with `strict: false`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct SchemaCheck {
    /// The number of the tool call whose arguments this is about; without it, it is about the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call: Option<usize>,
    /// What the text was not made to obey.
    pub relaxed: Vec<RelaxedKeyword>,
    /// Whether the text satisfies the whole schema all the same.
    pub valid: bool,
}

/// A keyword of a schema that was not enforced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct RelaxedKeyword {
    /// Empty where nothing of the schema was enforced.
    pub keyword: String,
    /// JSON pointer to the schema that has it.
    pub path: String,
    pub reason: String,
}

impl From<Relaxation> for RelaxedKeyword {
    fn from(Relaxation { keyword, path, reason }: Relaxation) -> Self {
        Self { keyword, path, reason }
    }
}

impl Checks {
    /// What is to be told of a text that is complete.
    pub fn content(&self, text: &str) -> Option<SchemaCheck> {
        Some(self.content.as_ref()?.verdict(None, text))
    }

    /// What is to be told of call number `index`.
    pub fn call(&self, index: usize, name: &str, arguments: &str) -> Option<SchemaCheck> {
        Some(self.tools.get(name)?.verdict(Some(index), arguments))
    }
}

impl Check {
    /// # Errors
    /// When the schema is none, by its own draft's rules.
    fn new(schema: &Value, relaxed: Vec<Relaxation>) -> Result<Self, GrammarError> {
        let patterns = PatternOptions::fancy_regex().backtrack_limit(BACKTRACKS);
        let options = jsonschema::options().offline().should_validate_formats(true);
        let built = options.with_pattern_options(patterns).build(schema);
        let validator = built.map_err(|error| GrammarError::Json(error.to_string()))?;
        Ok(Self { validator, relaxed: relaxed.into_iter().map(Into::into).collect() })
    }

    /// Asks only whether, not why not: that would take time without bound.
    fn verdict(&self, tool_call: Option<usize>, text: &str) -> SchemaCheck {
        let value = serde_json::from_str::<Value>(text);
        let valid = value.is_ok_and(|value| self.validator.is_valid(&value));
        SchemaCheck { tool_call, relaxed: self.relaxed.clone(), valid }
    }
}

/// Relaxes schemas, with one compiler.
pub(super) struct Relaxer<'a> {
    pub compiler: &'a Compiler,
    pub limits: &'a Limits,
    pub cancelled: &'a AtomicBool,
}

impl Relaxer<'_> {
    /// The constraint that can be enforced, and what is to be checked afterwards; that is nothing where all is strict.
    ///
    /// # Errors
    /// When a schema is none, or the compilation was cancelled.
    pub fn relax(
        &self,
        mut constraint: Constraint,
    ) -> Result<(Constraint, Option<Arc<Checks>>), GrammarError> {
        let mut checks = Checks::default();
        let strict = constraint.strict;
        match &mut constraint.form {
            Form::Whole(GrammarSpec::JsonSchema(text)) if !strict => {
                checks.content = Some(self.replace(text)?);
            }
            Form::Whole(_) => {}
            Form::Calls(calls) => {
                if let Some(Rule::Schema(text)) = &mut calls.content
                    && !strict
                {
                    checks.content = Some(self.replace(text)?);
                }
                for tool in calls.tools.iter_mut().filter(|tool| !tool.strict) {
                    let Relaxed { schema, relaxations } = self.relaxed(&tool.parameters.to_string())?;
                    checks.tools.insert(tool.name.clone(), Check::new(&tool.parameters, relaxations)?);
                    let schema = serde_json::from_str(&schema).unwrap_or_default();
                    // Whatever is left of their schema, arguments are an object.
                    tool.parameters = if schema == json!({}) { json!({ "type": "object" }) } else { schema };
                }
            }
        }
        let any = checks.content.is_some() || !checks.tools.is_empty();
        Ok((constraint, any.then(|| Arc::new(checks))))
    }

    fn replace(&self, text: &mut String) -> Result<Check, GrammarError> {
        let Relaxed { schema, relaxations } = self.relaxed(text)?;
        let whole = serde_json::from_str(text).map_err(|error| GrammarError::Json(error.to_string()))?;
        *text = schema;
        Check::new(&whole, relaxations)
    }

    fn relaxed(&self, text: &str) -> Result<Relaxed, GrammarError> {
        self.compiler.relax(text, self.limits, self.cancelled)
    }
}
