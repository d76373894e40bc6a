use std::fmt::Display;

/// Why a grammar is refused, in words for whoever sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// A [`Limits`](crate::Limits) field is exceeded.
    #[error("the grammar's {what} is {value}; the limit is {limit}")]
    Limit { what: &'static str, value: String, limit: String },
    #[error("the schema is not JSON: {0}")]
    Json(String),
    #[error("the regular expression is malformed: {0}")]
    Regex(String),
    /// The schema has keywords that cannot be enforced; `path` is a JSON pointer to the first.
    #[error("the schema's keyword '{keyword}' at '{path}' is not supported: {message}")]
    Keyword { keyword: String, path: String, message: String },
    /// The grammar cannot be compiled, or fails in its first steps.
    #[error("the grammar is refused: {0}")]
    Refused(String),
    #[error("the grammar cannot produce any text")]
    Empty,
    /// Compilation was cancelled.
    #[error("the compilation was cancelled")]
    Cancelled,
}

impl GrammarError {
    pub(crate) fn limit(what: &'static str, value: impl Display, limit: impl Display) -> Self {
        Self::Limit { what, value: value.to_string(), limit: limit.to_string() }
    }
}
