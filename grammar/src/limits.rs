//! What a grammar may cost.

use std::time::Duration;

use regex_syntax::ast::{self, Ast, RepetitionKind, RepetitionRange};
use serde_json::Value;

use crate::spec::Rule;
use crate::{GrammarError, GrammarSpec};

/// Bounds on a grammar; the text's are checked before anything is built from it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Bytes of a schema, a Lark grammar or all choices together.
    pub bytes: usize,
    /// Nesting of a schema.
    pub depth: usize,
    /// Entries of all `properties` of a schema together.
    pub properties: usize,
    /// Bytes of a regular expression.
    pub regex_bytes: usize,
    /// The largest count of a repetition, and the product of nested ones.
    pub repetition: u64,
    /// States of the lexer, about 2 kB each.
    pub states: usize,
    /// That one compilation computes, without what it waits for a processor; looked at between its stages, each of which
    /// is bounded by `states` as well.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 256 * 1024,
            depth: 64,
            properties: 5_000,
            regex_bytes: 64 * 1024,
            repetition: 20_000,
            states: 100_000,
            time: Duration::from_secs(2),
        }
    }
}

impl Limits {
    /// # Errors
    /// [`GrammarError::Limit`] or [`GrammarError::Regex`].
    pub(crate) fn check_text(&self, spec: &GrammarSpec) -> Result<(), GrammarError> {
        at_most("size in bytes", spec.size(), self.bytes)?;
        match spec {
            GrammarSpec::Regex(pattern) => self.check_regex(pattern),
            GrammarSpec::Rule(rule) => rule.parts().try_for_each(|part| match part {
                Rule::Regex(pattern) => self.check_regex(pattern),
                _ => Ok(()),
            }),
            _ => Ok(()),
        }
    }

    /// Of the groups of a regular expression.
    pub(crate) fn nesting(&self) -> u32 {
        self.depth.try_into().unwrap_or(u32::MAX)
    }

    fn check_regex(&self, pattern: &str) -> Result<(), GrammarError> {
        at_most("regular expression's size in bytes", pattern.len(), self.regex_bytes)?;
        let ast = ast::parse::ParserBuilder::new()
            .nest_limit(self.nesting())
            .build()
            .parse(pattern)
            .map_err(|error| GrammarError::Regex(error.to_string()))?;
        at_most("regular expression's repetition count", repetitions(&ast), self.repetition)
    }

    /// # Errors
    /// [`GrammarError::Limit`].
    pub(crate) fn check_schema(&self, schema: &Value) -> Result<(), GrammarError> {
        // The depth is bounded by the JSON parser's own limit, so recursion is safe.
        at_most("nesting depth", depth(schema), self.depth)?;
        at_most("number of properties", properties(schema), self.properties)
    }
}

fn at_most<T: PartialOrd + std::fmt::Display>(
    what: &'static str,
    value: T,
    limit: T,
) -> Result<(), GrammarError> {
    if value <= limit { Ok(()) } else { Err(GrammarError::limit(what, value, limit)) }
}

fn children(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(entries) => Box::new(entries.values()),
        _ => Box::new(std::iter::empty()),
    }
}

fn depth(value: &Value) -> usize {
    children(value).map(depth).max().map_or(0, |deepest| deepest + 1)
}

fn properties(value: &Value) -> usize {
    let own = value.get("properties").and_then(Value::as_object).map_or(0, serde_json::Map::len);
    own + children(value).map(properties).sum::<usize>()
}

/// The largest product of nested repetition counts.
fn repetitions(ast: &Ast) -> u64 {
    match ast {
        Ast::Repetition(repetition) => {
            let count = match &repetition.op.kind {
                RepetitionKind::Range(
                    RepetitionRange::Exactly(n)
                    | RepetitionRange::AtLeast(n)
                    | RepetitionRange::Bounded(_, n),
                ) => u64::from(*n).max(1),
                _ => 1,
            };
            count.saturating_mul(repetitions(&repetition.ast))
        }
        Ast::Group(group) => repetitions(&group.ast),
        Ast::Alternation(parts) => parts.asts.iter().map(repetitions).max().unwrap_or(1),
        Ast::Concat(parts) => parts.asts.iter().map(repetitions).max().unwrap_or(1),
        _ => 1,
    }
}
