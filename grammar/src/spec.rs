/// What a text must look like.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GrammarSpec {
    /// A JSON value that is valid under this JSON Schema. Written compactly, keys in the schema's order.
    JsonSchema(String),
    /// Any JSON object.
    JsonObject,
    /// A match of the whole text, in the syntax of Rust's `regex` crate.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A grammar in llguidance's variant of Lark.
    Lark(String),
}

impl GrammarSpec {
    /// Bytes of text in it.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::JsonSchema(text) | Self::Regex(text) | Self::Lark(text) => text.len(),
            Self::JsonObject => 0,
            Self::Choice(choices) => choices.iter().map(|choice| choice.len() + 1).sum(),
        }
    }
}
