use serde::Deserialize;
use utoipa::ToSchema;

use super::Common;

#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct CompletionRequest {
    /// What is continued.
    #[schema(example = "Once upon a time")]
    pub prompt: PromptInput,
    #[serde(flatten)]
    pub common: Common,
    /// What follows the text to be written; for models that say how to ask for it.
    pub suffix: Option<String>,
    /// Whether the prompt comes before the text.
    #[schema(example = false)]
    pub echo: Option<bool>,
    /// Answers to generate, of which the `n` most likely are returned.
    pub best_of: Option<usize>,
    /// Log-probabilities of the tokens, and of so many of the most likely ones.
    pub logprobs: Option<u32>,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(as = Prompt)]
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
