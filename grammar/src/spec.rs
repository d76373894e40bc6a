/// What a text must look like.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GrammarSpec {
    /// A JSON value that is valid under this JSON Schema. Keys come in the schema's order, blanks as the compiler's
    /// [`Whitespace`](crate::Whitespace) says.
    JsonSchema(String),
    /// Any JSON object.
    JsonObject,
    /// A match of the whole text, in the syntax of Rust's `regex` crate; `\w`, `\s` and their complements are those of Python's `re`.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A grammar in llguidance's variant of Lark.
    Lark(String),
    /// Parts put together.
    Rule(Rule),
}

/// A grammar made of parts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Exactly this text. Where it names added tokens of the vocabulary (`<tool_call>`, `</s>`), it is these tokens.
    Text(String),
    /// A match of a regular expression.
    Regex(String),
    /// A JSON value that is valid under this JSON Schema, with the blanks of Python's `json.dumps`, which models are
    /// trained on.
    Schema(String),
    Sequence(Vec<Rule>),
    AnyOf(Vec<Rule>),
    /// Any number of times.
    Many(Box<Rule>),
}

impl GrammarSpec {
    /// The same as a part of others, with the blanks of parts; none for Lark, whose names would clash.
    pub fn into_rule(self) -> Option<Rule> {
        Some(match self {
            Self::JsonSchema(schema) => Rule::Schema(schema),
            Self::JsonObject => Rule::Schema(r#"{"type":"object"}"#.to_owned()),
            Self::Regex(pattern) => Rule::Regex(pattern),
            Self::Choice(choices) => Rule::AnyOf(choices.into_iter().map(Rule::Text).collect()),
            Self::Rule(rule) => rule,
            Self::Lark(_) => return None,
        })
    }

    /// Bytes of text in it.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::JsonSchema(text) | Self::Regex(text) | Self::Lark(text) => text.len(),
            Self::JsonObject => 0,
            Self::Choice(choices) => choices.iter().map(|choice| choice.len() + 1).sum(),
            Self::Rule(rule) => rule.texts().map(|text| text.len() + 1).sum(),
        }
    }
}

impl Rule {
    /// This rule and all its parts, outermost first.
    pub(crate) fn parts(&self) -> Box<dyn Iterator<Item = &Rule> + '_> {
        let inner: Box<dyn Iterator<Item = &Rule>> = match self {
            Self::Text(_) | Self::Regex(_) | Self::Schema(_) => Box::new(std::iter::empty()),
            Self::Sequence(parts) | Self::AnyOf(parts) => Box::new(parts.iter().flat_map(Self::parts)),
            Self::Many(part) => part.parts(),
        };
        Box::new(std::iter::once(self).chain(inner))
    }

    /// All that is written in it: texts, patterns and schemas.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.parts().filter_map(|part| match part {
            Self::Text(text) | Self::Regex(text) | Self::Schema(text) => Some(text.as_str()),
            _ => None,
        })
    }
}
