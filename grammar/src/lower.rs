//! From a specification to the library's form of it.

use std::collections::HashMap;

use llguidance::api::TopLevelGrammar;
use serde_json::{Value, json};

use crate::classes::of_python;
use crate::schema::normalized;
use crate::spec::Rule;
use crate::watch::Watch;
use crate::{GrammarError, GrammarSpec, Limits, Vocabulary};

/// The library's form of a specification, with its schema or the list of its schemas.
pub(crate) struct Lowered {
    pub grammar: TopLevelGrammar,
    pub schema: Option<Value>,
}

impl Lowered {
    /// # Errors
    /// When a schema or a regular expression is malformed or beyond the limits.
    pub fn new(
        spec: &GrammarSpec,
        watch: &Watch<'_>,
        vocabulary: &Vocabulary,
        whitespace: Whitespace,
    ) -> Result<Self, GrammarError> {
        let plain = |grammar| Ok(Self { grammar, schema: None });
        match spec {
            GrammarSpec::JsonObject => plain(json_text(json!({ "type": "object" }), vocabulary, whitespace)),
            GrammarSpec::JsonSchema(text) => {
                let schema = parse(text, watch.limits)?;
                let grammar = json_text(normalized(&schema, watch)?, vocabulary, whitespace);
                Ok(Self { grammar, schema: Some(schema) })
            }
            GrammarSpec::Regex(pattern) => {
                plain(TopLevelGrammar::from_regex(&of_python(pattern, watch.limits.nesting())))
            }
            GrammarSpec::Choice(choices) if choices.is_empty() => Err(GrammarError::Empty),
            GrammarSpec::Choice(choices) => {
                let quoted: Vec<String> = choices.iter().map(|choice| quoted(choice)).collect();
                plain(TopLevelGrammar::from_lark(format!("start: {}", quoted.join(" | "))))
            }
            GrammarSpec::Lark(text) => plain(TopLevelGrammar::from_lark(text.clone())),
            GrammarSpec::Rule(rule) => {
                let mut lark = Lark {
                    vocabulary,
                    watch,
                    names: HashMap::new(),
                    text: String::new(),
                    schemas: Vec::new(),
                };
                let start = lark.expression(rule)?;
                let grammar = TopLevelGrammar::from_lark(format!("start: {start}\n{}", lark.text));
                Ok(Self { grammar, schema: Some(Value::Array(lark.schemas)) })
            }
        }
    }
}

/// A JSON text that is all of an answer.
fn json_text(schema: Value, vocabulary: &Vocabulary, whitespace: Whitespace) -> TopLevelGrammar {
    let style = whitespace.style();
    if !vocabulary.is_spaced() {
        return TopLevelGrammar::from_json_schema(styled(schema, style));
    }
    let style = Style { blanks: style.blanks.or_else(|| Some(r"\x20".to_owned())), ..style };
    TopLevelGrammar::from_lark(format!("start: /\\x20/? text\ntext: %json {}", styled(schema, style)))
}

/// Blanks in a JSON text that is all of an answer. Texts within another form have those of Python's `json.dumps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Whitespace {
    /// None, so that a weak model cannot write blanks for ever; one at a time where the vocabulary's tokens bring them
    /// along.
    #[default]
    Compact,
    /// Up to [`MAX_BLANKS`] at a time, wherever JSON allows them.
    Flexible,
}

/// Enough for a line's end and the indentation of a deep value.
const MAX_BLANKS: usize = 64;

impl Whitespace {
    pub fn name(self) -> &'static str {
        match self {
            Self::Compact => "compact",
            Self::Flexible => "flexible",
        }
    }

    fn style(self) -> Style {
        let blanks = match self {
            Self::Compact => None,
            Self::Flexible => Some(format!(r"[\x20\x0A\x0D\x09]{{1,{MAX_BLANKS}}}")),
        };
        Style { item: ",", key: ":", blanks }
    }
}

struct Style {
    /// Separators of items and of keys from values.
    item: &'static str,
    key: &'static str,
    /// A pattern for what may stand between any two parts beside the separators.
    blanks: Option<String>,
}

const SPACED: Style = Style { item: ", ", key: ": ", blanks: None };

pub(crate) fn parse(text: &str, limits: &Limits) -> Result<Value, GrammarError> {
    let schema: Value = serde_json::from_str(text).map_err(|error| GrammarError::Json(error.to_string()))?;
    limits.check_schema(&schema)?;
    Ok(schema)
}

/// Sets the library's options, and so overrides any that the schema brings along: those could relax it.
fn styled(mut schema: Value, style: Style) -> Value {
    if let Some(entries) = schema.as_object_mut() {
        let options = json!({ "whitespace_flexible": false, "whitespace_pattern": style.blanks,
            "item_separator": style.item, "key_separator": style.key });
        entries.insert("x-guidance".into(), options);
    }
    schema
}

fn quoted(text: &str) -> String {
    json!(text).to_string()
}

/// Writes rules in the library's variant of Lark; equal alternatives and schemas get one name.
struct Lark<'a> {
    vocabulary: &'a Vocabulary,
    watch: &'a Watch<'a>,
    names: HashMap<&'a Rule, String>,
    text: String,
    schemas: Vec<Value>,
}

impl<'a> Lark<'a> {
    fn expression(&mut self, rule: &'a Rule) -> Result<String, GrammarError> {
        match rule {
            Rule::Text(text) => Ok(self.literal(text)),
            Rule::Sequence(parts) => Ok(self.list(parts)?.join(" ")),
            Rule::Many(part) => Ok(format!("({})*", self.expression(part)?)),
            Rule::Regex(pattern) => {
                let pattern = of_python(pattern, self.watch.limits.nesting());
                Ok(format!("/{}/", pattern.replace('/', "\\/")))
            }
            Rule::AnyOf(parts) if parts.is_empty() => Err(GrammarError::Empty),
            Rule::AnyOf(_) | Rule::Schema(_) => self.name(rule),
        }
    }

    fn list(&mut self, parts: &'a [Rule]) -> Result<Vec<String>, GrammarError> {
        parts.iter().map(|part| self.expression(part)).collect()
    }

    fn name(&mut self, rule: &'a Rule) -> Result<String, GrammarError> {
        if let Some(name) = self.names.get(rule) {
            return Ok(name.clone());
        }
        let name = format!("r{}", self.names.len());
        self.names.insert(rule, name.clone());
        let body = match rule {
            Rule::Schema(text) => {
                let schema = parse(text, self.watch.limits)?;
                let normalized = normalized(&schema, self.watch).map_err(|error| match error {
                    GrammarError::Keyword { keyword, path, message } => GrammarError::Keyword {
                        keyword,
                        path: format!("/{}{path}", self.schemas.len()),
                        message,
                    },
                    other => other,
                })?;
                let body = format!("%json {}", styled(normalized, SPACED));
                self.schemas.push(schema);
                body
            }
            Rule::AnyOf(parts) => self.list(parts)?.join(" | "),
            other => self.expression(other)?,
        };
        self.text.push_str(&format!("{name}: {body}\n"));
        Ok(name)
    }

    /// Added tokens as themselves, what lies between them as text.
    fn literal(&self, text: &str) -> String {
        let parts = self.vocabulary.split_added(text).into_iter().map(|part| match part {
            Ok(token) => format!("<[{token}]>"),
            Err(text) => quoted(text),
        });
        let parts: Vec<String> = parts.collect();
        if parts.is_empty() { "\"\"".into() } else { parts.join(" ") }
    }
}
