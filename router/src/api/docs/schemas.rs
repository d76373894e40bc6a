//! Schemas that no type of the wire gives: what is read as free JSON, what one type serves where TGI's document names
//! several, and what is one of several. Names are TGI's where it has one.
#![expect(dead_code, reason = "these describe values; nothing is built of them")]

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::api::openai::{
    ChatChoice, ChatChunkChoice, ChatRequest, CompletionRequest, Delta, ErrorObject, TextChoice, Usage,
};
pub(crate) use crate::api::tgi::ErrorResponse;
use crate::api::tgi::{GenerateRequest, GenerateResponse, Parameters, SimpleToken, StreamResponse};

/// A component that is any of the others named.
macro_rules! any_of {
    ($name:ident: $($option:ty),+) => {
        pub(crate) enum $name {}

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                let any = utoipa::openapi::schema::AnyOfBuilder::new();
                any$(.item(utoipa::openapi::Ref::from_schema_name(<$option as utoipa::ToSchema>::name())))+.into()
            }
        }

        impl utoipa::ToSchema for $name {
            fn schemas(schemas: &mut Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::Schema>)>) {
                $(
                    let schema = <$option as utoipa::PartialSchema>::schema();
                    schemas.push((<$option as utoipa::ToSchema>::name().into_owned(), schema));
                    <$option as utoipa::ToSchema>::schemas(schemas);
                )+
            }
        }
    };
}
pub(crate) use any_of;

any_of!(SagemakerRequest: GenerateRequest, ChatRequest, CompletionRequest);
any_of!(SagemakerResponse: GenerateResponses, ChatCompletion, CompletionFinal);
any_of!(SagemakerStreamResponse: StreamResponse, ChatCompletionChunk, Chunk);
any_of!(OutputMessage: TextMessage, ToolCallMessage);
any_of!(ChatCompletionDelta: TextMessage, ToolCallDelta, Delta);
any_of!(Completion: Chunk, CompletionFinal);
any_of!(ErrorAnswer: OpenAiErrorResponse, ErrorResponse);

/// What `/generate`, `/generate_stream` and `/tokenize` read.
#[derive(ToSchema)]
#[schema(as = GenerateRequest)]
pub(crate) struct GenerateOnce {
    /// The prompt.
    #[schema(example = "Once upon a time")]
    inputs: String,
    #[schema(required = false, example = json!({"max_new_tokens": 20}))]
    parameters: Parameters,
}

/// One answer; the array is that of TGI's older API.
#[derive(ToSchema)]
pub(crate) struct GenerateResponses(Vec<GenerateResponse>);

#[derive(ToSchema)]
pub(crate) struct TokenizeResponse(Vec<SimpleToken>);

/// What answers and chunks have around their choices.
macro_rules! envelope {
    ($(#[$meta:meta])* $name:ident($object:ident) of $choice:ty, usage: $(#[$usage_meta:meta])* $usage:ty) => {
        $(#[$meta])*
        #[derive(ToSchema)]
        pub(crate) struct $name {
            /// Empty under the profile `tgi`.
            id: String,
            object: $object,
            /// Seconds since 1970.
            #[schema(example = 1706270835)]
            created: u64,
            model: String,
            system_fingerprint: String,
            choices: Vec<$choice>,
            $(#[$usage_meta])*
            usage: $usage,
        }
    };
}

/// The word that TGI's document has here.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
enum TextObject {
    TextCompletion,
}

envelope!(ChatCompletion(String) of ChatChoice, usage: Usage);
envelope!(
    /// One event of a stream; the last one's data is `[DONE]`.
    ChatCompletionChunk(String) of ChatChunkChoice, usage: Option<Usage>
);
envelope!(CompletionFinal(TextObject) of TextChoice, usage: Usage);
envelope!(
    /// One event of a stream; the last one's data is `[DONE]`.
    Chunk(TextObject) of TextChoice, usage: Option<Usage>
);

/// OpenAI's error object, with TGI's `error_type` beside it. Every profile but `tgi` answers `/v1` with it.
#[derive(ToSchema)]
pub(crate) struct OpenAiErrorResponse {
    error: ErrorObject,
    error_type: String,
}

/// The event that ends a failed stream of `/v1` under the profile `tgi`, before `[DONE]`.
#[derive(ToSchema)]
pub(crate) struct StreamFailure {
    error: StreamFailureReason,
}

#[derive(ToSchema)]
pub(crate) struct StreamFailureReason {
    message: String,
    #[schema(example = 422)]
    http_status_code: u16,
}

/// A form that the text must have. `json_object` and `json_schema` are OpenAI's, the others TGI's.
#[derive(ToSchema, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum GrammarType {
    Json {
        /// A JSON schema, or its text.
        value: Value,
    },
    Regex {
        value: String,
    },
    JsonSchema {
        /// OpenAI's form.
        json_schema: Option<JsonSchemaFormat>,
        /// TGI's form.
        value: Option<JsonSchemaFormat>,
    },
    JsonObject {
        /// A JSON schema, or its text.
        #[serde(default)]
        value: Option<Value>,
    },
    Text,
}

#[derive(ToSchema, Serialize, Deserialize)]
pub(crate) struct JsonSchemaFormat {
    name: Option<String>,
    #[schema(value_type = Object)]
    schema: Value,
    strict: Option<bool>,
}

#[derive(ToSchema)]
pub(crate) struct Tool {
    #[schema(example = "function")]
    r#type: String,
    function: FunctionDefinition,
}

/// In a request's tool, `parameters` or TGI's `arguments` is the JSON schema of the arguments; in an answer's tool call,
/// `arguments` is the text of their JSON.
#[derive(ToSchema, Serialize, Deserialize)]
pub(crate) struct FunctionDefinition {
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    name: String,
    #[serde(default)]
    parameters: Value,
    #[serde(default)]
    arguments: Value,
}

#[derive(ToSchema, Serialize, Deserialize)]
pub(crate) struct FunctionName {
    name: String,
}

/// Which tool is called, if any.
#[derive(ToSchema, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum ToolType {
    Mode(ToolMode),
    /// A tool by its name: OpenAI's form.
    Function {
        #[serde(default)]
        r#type: String,
        function: FunctionName,
    },
}

#[derive(ToSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ToolMode {
    /// The model chooses.
    Auto,
    /// No tool is called.
    None,
    /// A tool is called.
    Required,
}

#[derive(ToSchema)]
pub(crate) struct ToolChoice(Option<ToolType>);

#[derive(ToSchema)]
pub(crate) struct ToolCall {
    id: String,
    r#type: String,
    function: FunctionDefinition,
}

#[derive(ToSchema)]
pub(crate) struct TextMessage {
    #[schema(example = "assistant")]
    role: String,
    content: String,
}

#[derive(ToSchema)]
pub(crate) struct ToolCallMessage {
    #[schema(example = "assistant")]
    role: String,
    tool_calls: Vec<ToolCall>,
}

/// TGI's form of a chunk with a part of a tool call.
#[derive(ToSchema)]
pub(crate) struct ToolCallDelta {
    #[schema(example = "assistant")]
    role: String,
    tool_calls: DeltaToolCall,
}

#[derive(ToSchema)]
pub(crate) struct DeltaToolCall {
    index: u32,
    id: String,
    r#type: String,
    function: Function,
}

#[derive(ToSchema)]
pub(crate) struct Function {
    name: Option<String>,
    arguments: String,
}

/// A message of a conversation. Whatever else it has reaches the chat template as it came.
#[derive(ToSchema)]
pub(crate) struct Message {
    #[schema(example = "user")]
    role: String,
    /// May be absent beside `tool_calls`.
    content: Option<MessageContent>,
    #[schema(example = "David")]
    name: Option<String>,
    tool_calls: Option<Vec<ToolCall>>,
    /// In a message of role `tool`: the call that it answers.
    tool_call_id: Option<String>,
}

#[derive(ToSchema, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum MessageContent {
    Text(String),
    Parts(Vec<MessageChunk>),
}

/// A part of a message. Images are refused by models that do not see.
#[derive(ToSchema, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum MessageChunk {
    Text { text: String },
    ImageUrl { image_url: Url },
}

#[derive(ToSchema, Serialize, Deserialize)]
pub(crate) struct Url {
    url: String,
}
