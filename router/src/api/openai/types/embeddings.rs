use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::PromptInput;

/// `POST /v1/embeddings`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct EmbeddingsRequest {
    /// A text or its token ids, or several of either.
    pub input: PromptInput,
    pub model: Option<String>,
    /// Numbers, or the bytes of little-endian 32-bit floats.
    pub encoding_format: Option<EncodingFormat>,
    /// Elements of each vector, which is cut and brought to length one again; all of them by default.
    #[schema(minimum = 1)]
    pub dimensions: Option<usize>,
    /// Not used.
    pub user: Option<String>,
    /// Texts that are too long lose their ends; by default they are refused.
    pub truncate: Option<bool>,
    /// The name of one of the model's prompts, which is put before each text.
    pub prompt_name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EncodingFormat {
    Float,
    Base64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddingsResponse {
    /// Empty under the profile `tgi`.
    pub id: String,
    #[schema(value_type = String, example = "list")]
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
    pub data: Vec<EmbeddingObject>,
    pub usage: EmbeddingsUsage,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddingObject {
    #[schema(value_type = String, example = "embedding")]
    pub object: &'static str,
    pub index: usize,
    pub embedding: EmbeddingVector,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum EmbeddingVector {
    Numbers(Vec<f32>),
    /// Base64 of little-endian 32-bit floats.
    Bytes(String),
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct EmbeddingsUsage {
    pub prompt_tokens: usize,
    /// Always 0.
    pub completion_tokens: usize,
    pub total_tokens: usize,
}
