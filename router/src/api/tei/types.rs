use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// `POST /embed`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = TeiEmbedRequest)]
pub(super) struct EmbedRequest {
    /// A text or its token ids, or several of either.
    pub inputs: Inputs,
    /// Vectors have length one; the default.
    pub normalize: Option<bool>,
    /// Texts that are too long lose their ends; by default they are refused.
    pub truncate: Option<bool>,
    /// The name of one of the model's prompts, which is put before each text.
    pub prompt_name: Option<String>,
    /// Elements of each vector; all of them by default.
    #[schema(minimum = 1)]
    pub dimensions: Option<usize>,
    pub model: Option<String>,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(as = TeiInput)]
pub(super) enum Inputs {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<i64>),
    TokenLists(Vec<Vec<i64>>),
}

/// `POST /rerank`: with `texts` it is answered as text-embeddings-inference does, with `documents` as Cohere and Jina do.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(super) struct RerankRequest {
    pub model: Option<String>,
    #[schema(example = "What is deep learning?")]
    pub query: String,
    /// Texts, or objects with a `text`.
    #[schema(value_type = Option<Vec<Object>>)]
    pub documents: Option<Vec<Value>>,
    pub texts: Option<Vec<String>>,
    /// Results at most, the best ones; all of them by default.
    #[schema(minimum = 1)]
    pub top_n: Option<usize>,
    /// Results have their documents.
    pub return_documents: Option<bool>,
    /// Results have their texts.
    pub return_text: Option<bool>,
    /// Scores as the model has them, whatever function it was saved with.
    pub raw_scores: Option<bool>,
    /// Texts that are too long lose their ends; so it is by default with `documents`, and not with `texts`.
    pub truncate: Option<bool>,
}

/// A document's score, best first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RerankResult {
    /// Which of the documents it is.
    pub index: usize,
    pub relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<Document>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RerankDocument)]
pub(super) struct Document {
    pub text: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RerankResponse {
    pub id: String,
    pub model: String,
    pub results: Vec<RerankResult>,
    pub usage: RerankUsage,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(super) struct RerankUsage {
    pub prompt_tokens: usize,
    pub total_tokens: usize,
}

/// A text's score, best first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TeiRank)]
pub(super) struct Rank {
    /// Which of the texts it is.
    pub index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    pub score: f32,
}

/// Either form of an answer.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum RerankAnswer {
    Results(RerankResponse),
    Ranks(Vec<Rank>),
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TeiErrorResponse)]
pub(super) struct ErrorBody {
    pub error: String,
    /// `Validation`, `Overloaded`, `Backend` or `Unhealthy`.
    #[schema(value_type = String)]
    pub error_type: &'static str,
}
