//! Ollama's bodies. Durations are nanoseconds.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use weirgate_types::TokenId;

use crate::api::docs::schemas::any_of;

/// `POST /api/generate`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = OllamaGenerateRequest)]
pub(super) struct GenerateRequest {
    pub model: Option<String>,
    /// Former name of `model`.
    pub name: Option<String>,
    /// Empty: the model is loaded, or with `keep_alive` 0 unloaded.
    pub prompt: Option<String>,
    /// The text after the one that is wanted, for models that fill in.
    pub suffix: Option<String>,
    /// In place of the model's own.
    pub system: Option<String>,
    /// In place of the model's own.
    pub template: Option<String>,
    /// Of an earlier answer: what this one goes on from.
    pub context: Option<Vec<i64>>,
    /// Default: true.
    pub stream: Option<bool>,
    /// The prompt as it is, without any template.
    pub raw: Option<bool>,
    /// `json`, or a JSON Schema.
    pub format: Option<Value>,
    /// Base64.
    pub images: Option<Vec<String>>,
    #[serde(flatten)]
    pub common: Common,
}

/// `POST /api/chat`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = OllamaChatRequest)]
pub(super) struct ChatRequest {
    pub model: Option<String>,
    /// Former name of `model`.
    pub name: Option<String>,
    /// None: the model is loaded, or with `keep_alive` 0 unloaded.
    pub messages: Option<Vec<Message>>,
    /// Functions that the model may call, as at OpenAI.
    pub tools: Option<Vec<Value>>,
    /// Default: true.
    pub stream: Option<bool>,
    /// `json`, or a JSON Schema.
    pub format: Option<Value>,
    #[serde(flatten)]
    pub common: Common,
}

/// What both have.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = OllamaCommon)]
pub(super) struct Common {
    pub options: Option<Map<String, Value>>,
    /// How long the model stays loaded after this request: seconds, or a duration such as `5m`; negative: for ever.
    pub keep_alive: Option<Value>,
    /// Whether the model reasons first: a boolean, or `low`, `medium`, `high`.
    pub think: Option<Value>,
    pub logprobs: Option<bool>,
    /// 0 to 20.
    pub top_logprobs: Option<i64>,
    /// A prompt that is too long is cut (default) rather than refused.
    pub truncate: Option<bool>,
    /// A text that fills the context loses its older half (default) rather than ending.
    pub shift: Option<bool>,
    /// The prompt is rendered, and nothing generated.
    #[serde(rename = "_debug_render_only")]
    pub debug_render_only: Option<bool>,
}

/// A message, of a request or of an answer.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = OllamaMessage)]
pub(crate) struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    pub content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    /// Base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// Of a message of role `tool`: the function whose result it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl From<weirgate_store::Message> for Message {
    fn from(message: weirgate_store::Message) -> Self {
        Self { role: message.role, content: Some(message.content), ..Self::default() }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = OllamaToolCall)]
pub(crate) struct ToolCall {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub function: CalledFunction,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = OllamaCalledFunction)]
pub(crate) struct CalledFunction {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    pub name: String,
    /// An object.
    pub arguments: Value,
}

/// An object of `/api/generate`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaGenerateResponse)]
pub(super) struct GenerateResponse {
    pub model: String,
    pub created_at: String,
    pub response: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    #[serde(flatten)]
    pub state: State,
    /// Tokens of prompt and answer, for the next request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<Vec<TokenId>>,
}

/// An object of `/api/chat`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaChatResponse)]
pub(super) struct ChatResponse {
    pub model: String,
    pub created_at: String,
    pub message: Message,
    #[serde(flatten)]
    pub state: State,
}

/// How far an answer is.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = OllamaState)]
pub(super) struct State {
    pub done: bool,
    /// `stop`, `length`, `load` or `unload`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<Logprob>>,
    #[serde(flatten)]
    #[schema(value_type = Figures)]
    pub figures: Option<Figures>,
}

/// Of the last object; the others have none of these, so the document requires none.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = OllamaFigures)]
pub(super) struct Figures {
    #[schema(required = false)]
    pub total_duration: u64,
    #[schema(required = false)]
    pub load_duration: u64,
    #[schema(required = false)]
    pub prompt_eval_count: u32,
    #[schema(required = false)]
    pub prompt_eval_duration: u64,
    #[schema(required = false)]
    pub eval_count: u32,
    #[schema(required = false)]
    pub eval_duration: u64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaLogprob)]
pub(super) struct Logprob {
    #[serde(flatten)]
    pub token: LikelyToken,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top_logprobs: Vec<LikelyToken>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaLikelyToken)]
pub(super) struct LikelyToken {
    pub token: String,
    pub logprob: f32,
    /// Of the token's text in UTF-8.
    pub bytes: Vec<u8>,
}

any_of!(OllamaGenerateAnswer: GenerateResponse, Rendered);
any_of!(OllamaChatAnswer: ChatResponse, Rendered);

/// `_debug_render_only`'s answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaRendered)]
pub(super) struct Rendered {
    pub model: String,
    pub created_at: String,
    #[serde(rename = "_debug_info")]
    pub debug_info: RenderedTemplate,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaRenderedTemplate)]
pub(super) struct RenderedTemplate {
    pub rendered_template: String,
}

/// Whatever goes wrong.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaError)]
pub(super) struct ErrorBody {
    pub error: String,
}

/// `GET /api/tags`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaModels)]
pub(super) struct Tags {
    pub models: Vec<Listed>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaListedModel)]
pub(super) struct Listed {
    pub name: String,
    pub model: String,
    pub modified_at: String,
    /// Bytes.
    pub size: u64,
    /// Hexadecimal.
    pub digest: String,
    pub details: Details,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = OllamaModelDetails)]
pub(super) struct Details {
    pub parent_model: String,
    pub format: String,
    pub family: String,
    pub families: Vec<String>,
    pub parameter_size: String,
    pub quantization_level: String,
}

/// `GET /api/ps`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaRunningModels)]
pub(super) struct Processes {
    pub models: Vec<Running>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaRunningModel)]
pub(super) struct Running {
    pub name: String,
    pub model: String,
    pub size: u64,
    pub digest: String,
    pub details: Details,
    pub expires_at: String,
    pub size_vram: u64,
    pub context_length: usize,
}

/// `POST /api/show`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = OllamaShowRequest)]
pub(super) struct ShowRequest {
    pub model: Option<String>,
    /// Former name of `model`.
    pub name: Option<String>,
    /// These three are shown in place of the model's own.
    pub system: Option<String>,
    pub template: Option<String>,
    pub options: Option<Map<String, Value>>,
    pub verbose: Option<bool>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaShowResponse)]
pub(super) struct ShowResponse {
    pub license: String,
    pub modelfile: String,
    pub parameters: String,
    pub template: String,
    pub system: String,
    pub details: Details,
    pub messages: Vec<Message>,
    pub model_info: Map<String, Value>,
    /// Of the image encoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projector_info: Option<Map<String, Value>>,
    /// Only where `verbose` asks for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensors: Option<Vec<Value>>,
    pub capabilities: Vec<&'static str>,
    pub modified_at: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaVersion)]
pub(super) struct Version {
    pub version: String,
}

/// `POST /api/embed`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = OllamaEmbedRequest)]
pub(super) struct EmbedRequest {
    pub model: Option<String>,
    /// Former name of `model`.
    pub name: Option<String>,
    /// A text, or several.
    pub input: Option<Value>,
    /// Texts that are too long lose their ends; the default.
    pub truncate: Option<bool>,
    /// Elements of each vector; all of them by default.
    pub dimensions: Option<i64>,
    pub keep_alive: Option<Value>,
    pub options: Option<Map<String, Value>>,
}

/// `POST /api/embeddings`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = OllamaEmbeddingsRequest)]
pub(super) struct EmbeddingsRequest {
    pub model: Option<String>,
    /// Former name of `model`.
    pub name: Option<String>,
    pub prompt: Option<String>,
    pub keep_alive: Option<Value>,
    pub options: Option<Map<String, Value>>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaEmbedResponse)]
pub(super) struct EmbedResponse {
    pub model: String,
    /// Of length one each.
    pub embeddings: Vec<Vec<f32>>,
    #[serde(flatten)]
    #[schema(value_type = EmbedFigures)]
    pub figures: Option<EmbedFigures>,
}

/// What a request for embeddings took; times in nanoseconds. One without texts has none of these, so the document requires
/// none.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaEmbedFigures)]
pub(super) struct EmbedFigures {
    #[schema(required = false)]
    pub total_duration: u64,
    #[schema(required = false)]
    pub load_duration: u64,
    /// Tokens of all texts.
    #[schema(required = false)]
    pub prompt_eval_count: usize,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaEmbeddingsResponse)]
pub(super) struct EmbeddingsResponse {
    pub embedding: Vec<f32>,
}

/// `POST /api/create`: of today's clients, or with a Modelfile, of earlier ones.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = OllamaCreateRequest)]
pub(super) struct CreateRequest {
    pub model: Option<String>,
    /// Former name of `model`.
    pub name: Option<String>,
    /// The model that this one is made of; pulled where it is not here.
    pub from: Option<String>,
    /// Digests of blobs by file name: GGUF files, or a safetensors folder's files.
    pub files: Option<Map<String, Value>>,
    /// Digests of GGUF adapters by file name.
    pub adapters: Option<Map<String, Value>>,
    /// A Go template.
    pub template: Option<String>,
    /// A text, or several.
    pub license: Option<Value>,
    pub system: Option<String>,
    /// Options by name; they go before those of `from`.
    pub parameters: Option<Map<String, Value>>,
    /// Said before every conversation.
    pub messages: Option<Vec<Message>>,
    /// One of the quantizations that `weirgate quantize` knows, in any case.
    pub quantize: Option<String>,
    /// Former name of `quantize`.
    pub quantization: Option<String>,
    /// The text of a Modelfile, in place of all of these.
    pub modelfile: Option<String>,
    /// Of a Modelfile in the folder that `--modelfile-folder` names; refused without one.
    pub path: Option<String>,
    /// Default: true.
    pub stream: Option<bool>,
}

/// `POST /api/copy`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = OllamaCopyRequest)]
pub(super) struct CopyRequest {
    #[schema(required)]
    pub source: Option<String>,
    #[schema(required)]
    pub destination: Option<String>,
}

/// `DELETE /api/delete`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = OllamaDeleteRequest)]
pub(super) struct DeleteRequest {
    pub model: Option<String>,
    /// Former name of `model`.
    pub name: Option<String>,
}

/// `POST /api/pull` and `POST /api/push`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = OllamaTransferRequest)]
pub(super) struct TransferRequest {
    /// `[host/][namespace/]model[:tag]`, such as `hf.co/user/repository:Q4_K_M`.
    pub model: Option<String>,
    /// Former name of `model`.
    pub name: Option<String>,
    /// Plain http, where the registry speaks no https.
    pub insecure: Option<bool>,
    /// Default: true.
    pub stream: Option<bool>,
}

/// A line of progress.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaProgress)]
pub(super) struct ProgressLine {
    pub status: String,
    pub digest: Option<String>,
    /// Bytes.
    pub total: Option<u64>,
    /// Bytes.
    pub completed: Option<u64>,
}
