//! Request and response bodies, field for field as in TGI 2.4.1's `openapi.json`; 3.x's additions included.

use serde::{Deserialize, Serialize};

/// `/` takes both kinds; the others ignore `stream`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct GenerateRequest {
    pub inputs: String,
    /// Without the key a request samples; with an empty object it does not (TGI's defaults differ).
    #[serde(default = "Parameters::absent")]
    pub parameters: Parameters,
    #[serde(default)]
    pub stream: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Parameters {
    pub best_of: Option<usize>,
    pub temperature: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub top_k: Option<i32>,
    pub top_p: Option<f32>,
    pub typical_p: Option<f32>,
    /// Absent, it means no, but not everywhere: see [`Parameters::absent`].
    pub do_sample: Option<bool>,
    pub max_new_tokens: Option<u32>,
    pub return_full_text: Option<bool>,
    pub stop: Vec<String>,
    pub truncate: Option<usize>,
    pub watermark: bool,
    pub details: bool,
    pub decoder_input_details: bool,
    pub seed: Option<u64>,
    pub top_n_tokens: Option<u32>,
    pub grammar: Option<serde_json::Value>,
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

#[derive(Debug, Clone, Serialize)]
pub(crate) struct GenerateResponse {
    pub generated_text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
}

#[derive(Debug, Clone, Serialize)]
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

#[derive(Debug, Clone, Serialize)]
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FinishReason {
    Length,
    EosToken,
    StopSequence,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Token {
    pub id: u32,
    pub text: String,
    pub logprob: f32,
    pub special: bool,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct PrefillToken {
    pub id: u32,
    pub text: String,
    /// `null` for the first token.
    pub logprob: Option<f32>,
}

/// One event of a stream.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct StreamResponse {
    /// From 1.
    pub index: u32,
    pub token: Token,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top_tokens: Vec<Token>,
    pub generated_text: Option<String>,
    pub details: Option<StreamDetails>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct StreamDetails {
    pub finish_reason: FinishReason,
    pub generated_tokens: u32,
    pub seed: Option<u64>,
    pub input_length: u32,
}

/// One token of `/tokenize`, with its place in the input in bytes.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SimpleToken {
    pub id: u32,
    pub text: String,
    pub start: usize,
    pub stop: usize,
}

#[derive(Debug, Clone, Serialize)]
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

#[derive(Debug, Clone, Serialize)]
pub(crate) struct ErrorResponse {
    pub error: String,
    pub error_type: &'static str,
}
