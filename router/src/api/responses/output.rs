//! Response bodies, and the events of a stream.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::types::{ReasoningConfig, TextConfig};
use crate::api::openai::ChatLogprob;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ResponsesStatus)]
pub(crate) enum Status {
    InProgress,
    Completed,
    /// The answer reached its length.
    Incomplete,
    Failed,
}

/// An answer, with what it was asked for with.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ResponsesResponse)]
pub(crate) struct Response {
    pub id: String,
    #[schema(value_type = String, example = "response")]
    pub object: &'static str,
    /// Seconds since 1970.
    pub created_at: u64,
    pub completed_at: Option<u64>,
    pub status: Status,
    /// Always false.
    pub background: bool,
    pub error: Option<Failure>,
    pub incomplete_details: Option<IncompleteDetails>,
    pub instructions: Option<String>,
    pub max_output_tokens: Option<u32>,
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    pub model: String,
    pub output: Vec<OutputItem>,
    pub parallel_tool_calls: bool,
    /// Always null.
    #[schema(value_type = Option<String>)]
    pub previous_response_id: Option<()>,
    pub reasoning: ReasoningConfig,
    /// Always false.
    pub store: bool,
    pub temperature: f32,
    pub text: TextConfig,
    pub tool_choice: Value,
    #[schema(value_type = Vec<Object>)]
    pub tools: Vec<Map<String, Value>>,
    pub top_logprobs: u32,
    pub top_p: f32,
    /// Always `disabled`: an input that is too long is refused.
    #[schema(value_type = String, example = "disabled")]
    pub truncation: &'static str,
    /// Once the answer has ended.
    pub usage: Option<Usage>,
    pub user: Option<String>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ResponsesFailure)]
pub(crate) struct Failure {
    #[schema(value_type = String, example = "server_error")]
    pub code: &'static str,
    pub message: String,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = ResponsesIncompleteDetails)]
pub(crate) struct IncompleteDetails {
    #[schema(value_type = String, example = "max_output_tokens")]
    pub reason: &'static str,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = ResponsesUsage)]
pub(crate) struct Usage {
    pub input_tokens: u32,
    pub input_tokens_details: InputTokens,
    pub output_tokens: u32,
    pub output_tokens_details: OutputTokens,
    pub total_tokens: u32,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = ResponsesInputTokens)]
pub(crate) struct InputTokens {
    pub cached_tokens: u32,
    /// Always 0: what is cached is not billed.
    pub cache_write_tokens: u32,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = ResponsesOutputTokens)]
pub(crate) struct OutputTokens {
    pub reasoning_tokens: u32,
}

/// An item of an answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = ResponsesOutputItem)]
pub(crate) enum OutputItem {
    Message {
        id: String,
        status: Status,
        #[schema(value_type = String, example = "assistant")]
        role: &'static str,
        content: Vec<OutputPart>,
    },
    FunctionCall {
        id: String,
        status: Status,
        call_id: String,
        name: String,
        /// JSON text.
        arguments: String,
    },
    Reasoning {
        id: String,
        status: Status,
        /// Always empty: reasoning is told as it is.
        #[schema(value_type = Vec<Value>)]
        summary: [Value; 0],
        content: Vec<OutputPart>,
        /// Always null.
        #[schema(value_type = Option<String>)]
        encrypted_content: Option<()>,
    },
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = ResponsesOutputPart)]
pub(crate) enum OutputPart {
    OutputText {
        text: String,
        /// Always empty.
        #[schema(value_type = Vec<Value>)]
        annotations: [Value; 0],
        /// Where they were asked for; else empty.
        logprobs: Vec<ChatLogprob>,
    },
    ReasoningText {
        text: String,
    },
}

/// An event of a stream, with its number.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ResponsesEvent)]
pub(crate) struct Event {
    #[serde(flatten)]
    pub event: EventKind,
    pub sequence_number: u64,
}

/// Where a piece of text belongs.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ResponsesPlace)]
pub(crate) struct Place {
    pub item_id: String,
    pub output_index: usize,
    pub content_index: usize,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(tag = "type")]
#[schema(as = ResponsesEventKind)]
pub(crate) enum EventKind {
    #[serde(rename = "response.created")]
    Created { response: Response },
    #[serde(rename = "response.in_progress")]
    InProgress { response: Response },
    #[serde(rename = "response.output_item.added")]
    ItemAdded { output_index: usize, item: OutputItem },
    #[serde(rename = "response.content_part.added")]
    PartAdded {
        #[serde(flatten)]
        place: Place,
        part: OutputPart,
    },
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        #[serde(flatten)]
        place: Place,
        delta: String,
        logprobs: Vec<ChatLogprob>,
    },
    #[serde(rename = "response.output_text.done")]
    TextDone {
        #[serde(flatten)]
        place: Place,
        text: String,
        logprobs: Vec<ChatLogprob>,
    },
    #[serde(rename = "response.reasoning_text.delta")]
    ReasoningDelta {
        #[serde(flatten)]
        place: Place,
        delta: String,
    },
    #[serde(rename = "response.reasoning_text.done")]
    ReasoningDone {
        #[serde(flatten)]
        place: Place,
        text: String,
    },
    #[serde(rename = "response.content_part.done")]
    PartDone {
        #[serde(flatten)]
        place: Place,
        part: OutputPart,
    },
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta { item_id: String, output_index: usize, delta: String },
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone { item_id: String, output_index: usize, name: String, arguments: String },
    #[serde(rename = "response.output_item.done")]
    ItemDone { output_index: usize, item: OutputItem },
    #[serde(rename = "response.completed")]
    Completed { response: Response },
    #[serde(rename = "response.incomplete")]
    Incomplete { response: Response },
    #[serde(rename = "response.failed")]
    Failed { response: Response },
}
