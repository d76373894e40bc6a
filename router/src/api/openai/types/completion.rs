use serde::Deserialize;

use super::Common;

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct CompletionRequest {
    pub prompt: PromptInput,
    #[serde(flatten)]
    pub common: Common,
    /// What follows the text to be written; for models that say how to ask for it.
    pub suffix: Option<String>,
    pub echo: Option<bool>,
    pub best_of: Option<usize>,
    pub logprobs: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum PromptInput {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<i64>),
    TokenLists(Vec<Vec<i64>>),
}

impl PromptInput {
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Text(_) => false,
            Self::Texts(texts) => texts.is_empty(),
            Self::Tokens(tokens) => tokens.is_empty(),
            Self::TokenLists(lists) => lists.is_empty(),
        }
    }
}
