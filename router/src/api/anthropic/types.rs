//! Request and response bodies, and the events of a stream.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::api::text_or::TextOr;

/// What a message is asked for with. What is not named here is passed over.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = AnthropicMessagesRequest)]
pub(crate) struct MessagesRequest {
    /// Most tokens to generate.
    #[schema(minimum = 1, example = 32)]
    pub max_tokens: u32,
    #[serde(flatten)]
    pub conversation: ConversationRequest,
    /// Texts that end the answer.
    pub stop_sequences: Option<Vec<String>>,
    /// Whether the answer comes as events.
    pub stream: Option<bool>,
    /// Divides the logits before sampling; 0 takes the most likely token.
    #[schema(minimum = 0, example = 1)]
    pub temperature: Option<f32>,
    pub top_k: Option<i32>,
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    pub metadata: Option<Metadata>,

    /// What asks for state, or for what is not served here: refused rather than passed over.
    #[schema(ignore)]
    pub thread: Option<Value>,
    #[schema(ignore)]
    pub compaction: Option<Value>,
}

/// What a prompt is made of.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = AnthropicConversation)]
pub(crate) struct ConversationRequest {
    #[schema(example = "demo")]
    pub model: String,
    /// The conversation so far. A last message of the assistant's is continued.
    #[schema(min_items = 1)]
    pub messages: Vec<InputMessage>,
    /// What the model is told before it.
    pub system: Option<TextOr<InputBlock>>,
    /// What the model may call.
    pub tools: Option<Vec<ToolDefinition>>,
    pub tool_choice: Option<ToolChoice>,
    /// Whether a model that can reason does; by default as its chat template has it.
    pub thinking: Option<Thinking>,
    pub output_config: Option<OutputConfig>,

    /// What is not served here, and refused rather than passed over.
    #[schema(ignore)]
    pub mcp_servers: Option<Value>,
    #[schema(ignore)]
    pub container: Option<Value>,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = AnthropicMetadata)]
pub(crate) struct Metadata {
    /// Names the end user for the operator's log.
    pub user_id: Option<String>,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = AnthropicInputMessage)]
pub(crate) struct InputMessage {
    /// `user`, `assistant` or `system`.
    #[schema(example = "user")]
    pub role: String,
    pub content: TextOr<InputBlock>,
}

/// A part of a message. Pictures and files are refused: the models here read text.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = AnthropicInputBlock)]
pub(crate) enum InputBlock {
    Text {
        text: String,
    },
    Image {},
    Document {
        source: DocumentSource,
    },
    ToolUse {
        id: String,
        name: String,
        #[schema(value_type = Object)]
        input: Map<String, Value>,
    },
    ToolResult {
        tool_use_id: String,
        #[schema(value_type = Option<Value>)]
        content: Option<TextOr<InputBlock>>,
    },
    Thinking {
        thinking: String,
    },
    RedactedThinking {},
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = AnthropicDocumentSource)]
pub(crate) enum DocumentSource {
    Text { data: String },
    Base64 {},
    Url {},
    File {},
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = AnthropicTool)]
pub(crate) struct ToolDefinition {
    /// `custom`, or absent: tools that Anthropic runs or has trained for are not there.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    #[schema(example = "get_weather")]
    pub name: String,
    pub description: Option<String>,
    /// JSON Schema of the arguments, an object.
    #[schema(value_type = Option<Object>)]
    pub input_schema: Option<Value>,
    /// Whether the schema is enforced in full or refused; by default, as far as it can be.
    pub strict: Option<bool>,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = AnthropicToolChoice)]
pub(crate) enum ToolChoice {
    /// The model chooses.
    Auto {
        #[serde(default)]
        disable_parallel_tool_use: bool,
    },
    /// A tool is called.
    Any {
        #[serde(default)]
        disable_parallel_tool_use: bool,
    },
    /// This tool is called.
    Tool {
        name: String,
    },
    None,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = AnthropicThinking)]
pub(crate) enum Thinking {
    Enabled,
    Adaptive,
    Disabled,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = AnthropicOutputConfig)]
pub(crate) struct OutputConfig {
    /// How hard a model that reasons does so: low, medium, high, xhigh or max.
    pub effort: Option<String>,
    pub format: Option<OutputFormat>,
}

/// A form that the text must have.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = AnthropicOutputFormat)]
pub(crate) enum OutputFormat {
    JsonSchema {
        #[schema(value_type = Object)]
        schema: Value,
    },
}

/// An answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = AnthropicMessage)]
pub(crate) struct Message {
    pub id: String,
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "message")]
    pub kind: &'static str,
    #[schema(value_type = String, example = "assistant")]
    pub role: &'static str,
    pub model: String,
    pub content: Vec<OutputBlock>,
    pub stop_reason: Option<StopReason>,
    /// The text of `stop_sequences` that ended the answer.
    pub stop_sequence: Option<String>,
    pub usage: Usage,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = AnthropicOutputBlock)]
pub(crate) enum OutputBlock {
    Text {
        text: String,
    },
    Thinking {
        thinking: String,
        /// Always empty.
        #[schema(value_type = String)]
        signature: &'static str,
    },
    ToolUse {
        id: String,
        name: String,
        #[schema(value_type = Object)]
        input: Map<String, Value>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AnthropicStopReason)]
pub(crate) enum StopReason {
    EndTurn,
    MaxTokens,
    StopSequence,
    ToolUse,
}

/// The prompt's tokens are those of `input_tokens` and of `cache_read_input_tokens` together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = AnthropicUsage)]
pub(crate) struct Usage {
    pub input_tokens: u32,
    /// Always 0: what is cached is not billed.
    pub cache_creation_input_tokens: u32,
    pub cache_read_input_tokens: u32,
    pub output_tokens: u32,
}

/// An event of a stream.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = AnthropicEvent)]
pub(crate) enum Event {
    MessageStart {
        message: Message,
    },
    ContentBlockStart {
        index: usize,
        content_block: OutputBlock,
    },
    ContentBlockDelta {
        index: usize,
        delta: Delta,
    },
    ContentBlockStop {
        index: usize,
    },
    MessageDelta {
        delta: MessageDelta,
        usage: Usage,
    },
    MessageStop,
    /// The last event of a stream that failed.
    Error {
        error: ErrorDetail,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "type")]
#[schema(as = AnthropicDelta)]
pub(crate) enum Delta {
    #[serde(rename = "text_delta")]
    Text { text: String },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: String },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: String },
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = AnthropicMessageDelta)]
pub(crate) struct MessageDelta {
    pub stop_reason: StopReason,
    pub stop_sequence: Option<String>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = AnthropicError)]
pub(crate) struct ErrorBody {
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "error")]
    pub kind: &'static str,
    pub error: ErrorDetail,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = AnthropicErrorDetail)]
pub(crate) struct ErrorDetail {
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "invalid_request_error")]
    pub kind: &'static str,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<ErrorDetails>,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = AnthropicErrorDetails)]
pub(crate) struct ErrorDetails {
    #[schema(value_type = String, example = "thread_unsupported_request")]
    pub error_code: &'static str,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = AnthropicTokenCount)]
pub(crate) struct TokenCount {
    pub input_tokens: usize,
}
