use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::api::docs::schemas::{ChatCompletionDelta, OutputMessage};
use crate::service::SchemaCheck;

/// What every answer and every chunk begins with.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Envelope<C> {
    pub id: String,
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
    pub system_fingerprint: &'static str,
    pub choices: Vec<C>,
    /// Left out, `null`, or the counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ChatCompletionComplete)]
pub(crate) struct ChatChoice {
    pub index: usize,
    #[schema(value_type = OutputMessage)]
    pub message: AssistantMessage,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: &'static str,
    /// Always null; of the management API only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, required = false)]
    pub stop_reason: Option<()>,
    /// Of schemas with `strict: false` only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schema_checks: Vec<SchemaCheck>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct AssistantMessage {
    pub role: &'static str,
    /// `null` beside tool calls; in TGI's profile left out there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
}

impl AssistantMessage {
    /// Without anything said.
    pub fn new() -> Self {
        Self { role: "assistant", content: None, reasoning_content: None, tool_calls: None }
    }
}

/// A tool call, whole or a chunk's.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ToolCallPart)]
pub(crate) struct ToolCall {
    /// In chunks only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// In a call's first chunk only, but for TGI's profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    pub function: CalledFunction,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct CalledFunction {
    /// Always `null`; in TGI's profile only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub description: Option<Option<String>>,
    /// In a call's first chunk only; in TGI's profile `null` in the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub name: Option<Option<String>>,
    /// JSON text, or a piece of it.
    pub arguments: String,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ChatCompletionChoice)]
pub(crate) struct ChatChunkChoice {
    pub index: usize,
    #[schema(value_type = ChatCompletionDelta)]
    pub delta: Delta,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: Option<&'static str>,
    /// Always null; of the management API only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, required = false)]
    pub stop_reason: Option<()>,
    /// In a choice's last chunk, of schemas with `strict: false` only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schema_checks: Vec<SchemaCheck>,
}

#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[schema(as = ChatCompletionPart)]
pub(crate) struct Delta {
    /// In a choice's first chunk only, or in each of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
}

#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[schema(as = ChatCompletionLogprobs)]
pub(crate) struct ChatLogprobs {
    pub content: Vec<ChatLogprob>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ChatCompletionLogprob)]
pub(crate) struct ChatLogprob {
    #[serde(flatten)]
    pub token: LikelyToken,
    pub top_logprobs: Vec<LikelyToken>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ChatCompletionTopLogprob)]
pub(crate) struct LikelyToken {
    pub token: String,
    pub logprob: f32,
    /// What the token stands for; `null` where that is a part of a character and its bytes are not known.
    pub bytes: Option<Vec<u8>>,
}

/// A choice of `/v1/completions`, whole or a chunk's.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = CompletionComplete)]
pub(crate) struct TextChoice {
    pub index: usize,
    pub text: String,
    #[schema(value_type = Option<CompletionLogprobs>)]
    pub logprobs: Option<CompletionLogprobs>,
    pub finish_reason: Option<&'static str>,
    /// Always null; of the management API only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, required = false)]
    pub stop_reason: Option<()>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum CompletionLogprobs {
    /// OpenAI's.
    Lists(TextLogprobs),
    /// TGI's contract: those of the generated tokens.
    Values(Vec<f32>),
}

/// Parallel lists, one entry per token.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(crate) struct TextLogprobs {
    pub tokens: Vec<String>,
    /// `null` for the first token of an echoed prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// `null` for a prompt's tokens.
    pub top_logprobs: Vec<Option<Map<String, Value>>>,
    /// Characters from the beginning of the text.
    pub text_offset: Vec<usize>,
}

#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub(crate) struct Usage {
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
    pub total_tokens: u32,
    /// Left out where nothing was cached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_details: Option<PromptTokensDetails>,
}

#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub(crate) struct PromptTokensDetails {
    pub cached_tokens: u32,
}

/// OpenAI's error object.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ErrorObject {
    pub message: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub param: Option<&'static str>,
    pub code: Option<&'static str>,
}
