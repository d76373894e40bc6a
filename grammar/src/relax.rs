//! The part of a schema that can be enforced, for requests that would rather have less than nothing.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value};

use crate::lower::parse;
use crate::watch::computed;
use crate::{Compiler, GrammarError, GrammarSpec, Limits};

/// Keywords that are left out one at a time; with more of them, the whole schema is.
const MAX_DROPPED: usize = 32;

/// A keyword of a schema that is not enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relaxation {
    /// Empty where it is the whole schema.
    pub keyword: String,
    /// JSON pointer to the schema that has it.
    pub path: String,
    pub reason: String,
}

/// A schema that every value of another one satisfies, and what it lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relaxed {
    pub schema: String,
    pub relaxations: Vec<Relaxation>,
}

impl Compiler {
    /// Leaves out of a schema what cannot be enforced: the keywords that are refused, one after the other; of a schema
    /// that is too large or too slow to compile, or that nothing satisfies, everything.
    ///
    /// # Errors
    /// [`GrammarError::Json`] for what is no schema, [`GrammarError::Cancelled`].
    pub fn relax(
        &self,
        schema: &str,
        limits: &Limits,
        cancelled: &AtomicBool,
    ) -> Result<Relaxed, GrammarError> {
        let start = computed();
        let mut relaxations = Vec::new();
        let mut value = match parse(schema, limits) {
            Ok(value) => value,
            Err(error @ GrammarError::Limit { .. }) => return Ok(Relaxed::whole(error)),
            Err(error) => return Err(error),
        };
        loop {
            let text = value.to_string();
            let refused = match self.compile(&GrammarSpec::JsonSchema(text.clone()), limits, cancelled) {
                Ok(_) => return Ok(Relaxed { schema: text, relaxations }),
                Err(_) if cancelled.load(Ordering::Relaxed) => return Err(GrammarError::Cancelled),
                Err(error) => error,
            };
            let GrammarError::Keyword { keyword, path, message } = &refused else {
                return Ok(Relaxed::whole(refused));
            };
            let exhausted =
                relaxations.len() >= MAX_DROPPED || computed().saturating_sub(start) >= limits.time;
            match drop_keyword(&mut value, path, keyword) {
                Some((path, keyword)) if !exhausted => {
                    relaxations.push(Relaxation { keyword, path, reason: message.clone() });
                }
                _ => return Ok(Relaxed::whole(refused)),
            }
        }
    }
}

impl Relaxed {
    /// Any JSON value.
    fn whole(error: GrammarError) -> Self {
        let all = Relaxation { keyword: String::new(), path: String::new(), reason: error.to_string() };
        Self { schema: "{}".to_owned(), relaxations: vec![all] }
    }
}

/// Takes `keyword` out of the schema at `path`, or else the outermost keyword on the way there within which less would
/// mean more: it is of no use to let through all that `not` is to keep out. Gives the place and name of what went.
fn drop_keyword(schema: &mut Value, path: &str, keyword: &str) -> Option<(String, String)> {
    let steps: Vec<String> =
        path.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~")).collect();
    let (mut place, mut pointer) = (&mut *schema, String::new());
    for (at, step) in steps.iter().enumerate() {
        // A name of a property is no keyword, whatever it is.
        let is_name = at > 0 && steps.get(at - 1).is_some_and(|before| NAMED.contains(&before.as_str()));
        if !is_name && REVERSED.contains(&step.as_str()) {
            remove(place.as_object_mut()?, step);
            return Some((pointer, step.clone()));
        }
        pointer.push('/');
        pointer.push_str(&step.replace('~', "~0").replace('/', "~1"));
        place = match place {
            Value::Object(entries) => entries.get_mut(step)?,
            Value::Array(items) => items.get_mut(step.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    let entries = place.as_object_mut()?;
    entries.contains_key(keyword).then(|| remove(entries, keyword))?;
    Some((pointer, keyword.to_owned()))
}

/// Keywords with schemas that a value must not, or must not always, satisfy.
const REVERSED: [&str; 4] = ["not", "if", "oneOf", "contains"];
/// Keywords whose entries have names of the schema's own.
const NAMED: [&str; 6] =
    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"];

/// Removes a keyword, and those that mean something else without it.
fn remove(entries: &mut Map<String, Value>, keyword: &str) {
    let others: &[&str] = match keyword {
        "if" => &["then", "else"],
        "contains" => &["minContains", "maxContains", "unevaluatedItems"],
        "properties" | "patternProperties" => &["additionalProperties", "unevaluatedProperties"],
        "prefixItems" | "items" => &["items", "additionalItems", "unevaluatedItems"],
        "allOf" | "anyOf" | "oneOf" | "$ref" | "$dynamicRef" | "$recursiveRef" | "dependentSchemas" => {
            &["unevaluatedProperties", "unevaluatedItems"]
        }
        _ => &[],
    };
    for key in std::iter::once(&keyword).chain(others) {
        entries.shift_remove(*key);
    }
}
