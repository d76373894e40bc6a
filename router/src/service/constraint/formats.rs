//! The shapes in which clients ask for a form: TGI's grammars, OpenAI's response formats, vLLM's guided decoding.

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use weirgate_grammar::GrammarSpec;

use super::{Constraint, Field};
use crate::service::error::ValidationError;

/// TGI's `grammar`: `{"type": "json" | "json_object" | "regex" | "json_schema", "value": ...}`.
///
/// # Errors
/// TGI's rules 17 and 18, and types that do not exist.
pub(crate) fn tgi_grammar(grammar: &Value, field: Field) -> Result<Constraint, ValidationError> {
    let spec = match (kind(grammar), grammar.get("value")) {
        ("json" | "json_object", Some(value)) => schema(value).ok_or(ValidationError::Grammar)?,
        // TGI refuses it; OpenAI's clients send it.
        ("json_object", None) => GrammarSpec::JsonObject,
        ("json", None) => return Err(ValidationError::Grammar),
        ("regex", Some(Value::String(pattern))) => GrammarSpec::Regex(pattern.clone()),
        ("json_schema", Some(value)) => {
            let inner = value.get("schema").and_then(schema);
            let spec = inner.ok_or_else(|| field.invalid("`schema` must be an object".to_owned()))?;
            return Ok(Constraint::whole(field, spec).with_strict(strict(value, field)?));
        }
        (kind, _) => {
            let message =
                format!("`type` {kind:?} with this `value` is none of json, json_object, json_schema, regex");
            return Err(field.invalid(message));
        }
    };
    Ok(Constraint::whole(field, spec))
}

/// `response_format`, in OpenAI's shape or in TGI's; none for text.
///
/// # Errors
/// When it has no such shape.
pub(crate) fn response_format(format: &Value, field: Field) -> Result<Option<Constraint>, ValidationError> {
    let own = |spec| Ok(Some(Constraint::whole(field, spec)));
    match kind(format) {
        _ if format.is_null() => Ok(None),
        "text" => Ok(None),
        "json_object" if format.get("value").is_none() => match format.get("schema") {
            Some(value) => own(schema(value).ok_or_else(|| no_schema(field))?),
            None => own(GrammarSpec::JsonObject),
        },
        "json_schema" if format.get("value").is_none() => {
            let inner = format.get("json_schema").unwrap_or(&Value::Null);
            let spec = inner.get("schema").and_then(schema).ok_or_else(|| no_schema(field))?;
            Ok(Some(Constraint::whole(field, spec).with_strict(strict(inner, field)?)))
        }
        _ => tgi_grammar(format, field).map(Some),
    }
}

fn no_schema(field: Field) -> ValidationError {
    field.invalid("`json_schema` needs a `schema` that is an object".to_owned())
}

/// vLLM's extra fields.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub(crate) struct Guided {
    pub guided_json: Option<Value>,
    pub guided_regex: Option<String>,
    pub guided_choice: Option<Vec<String>>,
    pub guided_grammar: Option<String>,
    pub structured_outputs: Option<StructuredOutputs>,
}

/// The later form of the same.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StructuredOutputs {
    pub json: Option<Value>,
    pub regex: Option<String>,
    pub choice: Option<Vec<String>>,
    pub grammar: Option<String>,
    pub json_object: Option<bool>,
}

/// What vLLM's fields ask for.
///
/// # Errors
/// When they ask for more than one thing, or a schema is none.
pub(crate) fn guided(guided: &Guided) -> Result<Option<Constraint>, ValidationError> {
    let newer = guided.structured_outputs.clone().unwrap_or_default();
    let mut found = Vec::new();
    for (field, value) in [("guided_json", &guided.guided_json), ("structured_outputs", &newer.json)] {
        if let Some(value) = value {
            let field = Field::Other(field);
            found.push((field, schema(value).ok_or_else(|| no_schema(field))?));
        }
    }
    let mut add = |field: &'static str, spec: Option<GrammarSpec>| {
        found.extend(spec.map(|spec| (Field::Other(field), spec)));
    };
    add("guided_regex", guided.guided_regex.clone().map(GrammarSpec::Regex));
    add("structured_outputs", newer.regex.map(GrammarSpec::Regex));
    add("guided_choice", guided.guided_choice.clone().map(GrammarSpec::Choice));
    add("structured_outputs", newer.choice.map(GrammarSpec::Choice));
    add("guided_grammar", guided.guided_grammar.clone().map(GrammarSpec::Lark));
    add("structured_outputs", newer.grammar.map(GrammarSpec::Lark));
    add("structured_outputs", newer.json_object.and_then(|wanted| wanted.then_some(GrammarSpec::JsonObject)));
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(_), Some((Field::Other(field), _))) => {
            Err(ValidationError::Field { field, message: "only one form can be asked for".to_owned() })
        }
        (first, _) => Ok(first.map(|(field, spec)| Constraint::whole(field, spec))),
    }
}

/// Whether a schema is to be enforced in full: unless it says that it need not be.
fn strict(value: &Value, field: Field) -> Result<bool, ValidationError> {
    match value.get("strict") {
        None | Some(Value::Null) => Ok(true),
        Some(Value::Bool(strict)) => Ok(*strict),
        Some(_) => Err(field.invalid("`strict` must be true or false".to_owned())),
    }
}

fn kind(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// A schema as an object or as its text.
fn schema(value: &Value) -> Option<GrammarSpec> {
    match value {
        Value::Object(_) | Value::Bool(_) => Some(GrammarSpec::JsonSchema(value.to_string())),
        Value::String(text) => Some(GrammarSpec::JsonSchema(text.clone())),
        _ => None,
    }
}
