//! Request and response bodies, field for field as in TGI 2.4.1's `openapi.json`; 3.x's additions included.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::docs::schemas::GrammarType;
use crate::service::SchemaCheck;

/// `/` takes both kinds; the others ignore `stream`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = CompatGenerateRequest)]
pub(crate) struct GenerateRequest {
    /// The prompt.
    #[schema(example = "Once upon a time")]
    pub inputs: String,
    /// Without the key a request samples; with an empty object it does not (TGI's defaults differ).
    #[serde(default = "Parameters::absent")]
    #[schema(example = json!({"max_new_tokens": 20}))]
    pub parameters: Parameters,
    /// Only `/` and `/invocations` look at it.
    #[serde(default)]
    pub stream: bool,
}

#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = GenerateParameters)]
pub(crate) struct Parameters {
    /// Sequences to generate, of which the most likely one is the answer.
    #[schema(minimum = 0, example = 1)]
    pub best_of: Option<usize>,
    /// Divides the logits before sampling.
    #[schema(exclusive_minimum = 0, example = 0.7)]
    pub temperature: Option<f32>,
    /// Divides the logits of tokens that are in the text already; 1 changes nothing.
    #[schema(exclusive_minimum = 0, example = 1.03)]
    pub repetition_penalty: Option<f32>,
    /// Lowers tokens by how often they are in the text, relative to the text's length.
    #[schema(minimum = -2, maximum = 2, example = 0.1)]
    pub frequency_penalty: Option<f32>,
    /// Only so many of the most likely tokens are drawn from.
    #[schema(exclusive_minimum = 0, example = 10)]
    pub top_k: Option<i32>,
    /// Only the most likely tokens that have this probability together are drawn from.
    #[schema(exclusive_minimum = 0, exclusive_maximum = 1, example = 0.95)]
    pub top_p: Option<f32>,
    /// Only tokens about as likely as expected are drawn from (arXiv 2202.00666).
    #[schema(exclusive_minimum = 0, exclusive_maximum = 1, example = 0.95)]
    pub typical_p: Option<f32>,
    /// Absent, it means no, but not everywhere: see [`Parameters::absent`].
    #[schema(example = true)]
    pub do_sample: Option<bool>,
    /// Most tokens to generate.
    #[schema(minimum = 0, example = 20)]
    pub max_new_tokens: Option<u32>,
    /// Whether the prompt comes before the generated text.
    #[schema(example = false)]
    pub return_full_text: Option<bool>,
    /// The text ends with the first of these.
    #[schema(max_items = 4, example = json!(["photographer"]))]
    pub stop: Vec<String>,
    /// Only so many tokens at the end of the prompt are kept.
    #[schema(minimum = 1)]
    pub truncate: Option<usize>,
    /// Marks the text (arXiv 2301.10226).
    #[schema(example = false)]
    pub watermark: bool,
    /// Whether the answer tells of its tokens.
    pub details: bool,
    /// Whether the answer has the prompt's log-probabilities, too.
    pub decoder_input_details: bool,
    /// What the draws begin with; at random if absent.
    #[schema(example = 42)]
    pub seed: Option<u64>,
    /// Shows so many of the most likely tokens at each place.
    #[schema(example = 5)]
    pub top_n_tokens: Option<u32>,
    /// A form that the text must have.
    #[schema(value_type = Option<GrammarType>)]
    pub grammar: Option<serde_json::Value>,
    /// A LoRA adapter by its name.
    pub adapter_id: Option<String>,
    /// What users asked TGI for.
    pub min_p: Option<f32>,
    pub min_tokens: Option<u32>,
    pub ignore_eos: bool,
}

impl Parameters {
    /// The parameters of a request that has none: it samples.
    pub fn absent() -> Self {
        Self { do_sample: Some(true), ..Self::default() }
    }
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct GenerateResponse {
    pub generated_text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// Of a schema with `strict: false` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema_check: Option<SchemaCheck>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Details {
    pub finish_reason: FinishReason,
    pub generated_tokens: u32,
    pub seed: Option<u64>,
    pub prefill: Vec<PrefillToken>,
    pub tokens: Vec<Token>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_of_sequences: Option<Vec<BestOfSequence>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top_tokens: Vec<Vec<Token>>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct BestOfSequence {
    pub generated_text: String,
    pub finish_reason: FinishReason,
    pub generated_tokens: u32,
    pub seed: Option<u64>,
    pub prefill: Vec<PrefillToken>,
    pub tokens: Vec<Token>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top_tokens: Vec<Vec<Token>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FinishReason {
    Length,
    EosToken,
    StopSequence,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Token {
    pub id: u32,
    pub text: String,
    /// `null` where the probability is 0.
    #[schema(value_type = Option<f32>, required = true, example = -0.34)]
    pub logprob: f32,
    pub special: bool,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct PrefillToken {
    pub id: u32,
    pub text: String,
    /// `null` for the first token.
    #[schema(required = true, example = -0.34)]
    pub logprob: Option<f32>,
}

/// One event of a stream.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct StreamResponse {
    /// From 1.
    pub index: u32,
    pub token: Token,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top_tokens: Vec<Token>,
    pub generated_text: Option<String>,
    pub details: Option<StreamDetails>,
    /// In the last event, of a schema with `strict: false` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema_check: Option<SchemaCheck>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct StreamDetails {
    pub finish_reason: FinishReason,
    pub generated_tokens: u32,
    pub seed: Option<u64>,
    pub input_length: u32,
}

/// One token of `/tokenize`, with its place in the input in bytes.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct SimpleToken {
    pub id: u32,
    pub text: String,
    pub start: usize,
    pub stop: usize,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Info {
    pub model_id: String,
    pub model_sha: Option<String>,
    pub model_pipeline_tag: Option<String>,
    pub max_concurrent_requests: usize,
    pub max_best_of: usize,
    pub max_stop_sequences: usize,
    pub max_input_tokens: usize,
    pub max_total_tokens: usize,
    pub validation_workers: usize,
    pub max_client_batch_size: usize,
    pub router: &'static str,
    pub version: &'static str,
    pub sha: Option<&'static str>,
    pub docker_label: Option<&'static str>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ErrorResponse {
    pub error: String,
    #[schema(example = "validation")]
    pub error_type: &'static str,
}
