//! Request bodies.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::api::docs::schemas::any_of;
use crate::api::text_or::TextOr;

/// What a response is asked for with. What is not named here is passed over.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct ResponsesRequest {
    /// The served model's name; any other is taken, too.
    #[schema(example = "demo")]
    pub model: Option<String>,
    /// The conversation so far, or the first thing that is said in it.
    #[schema(example = "What is deep learning?")]
    pub input: TextOr<AnyItem>,
    /// What the model is told before it.
    pub instructions: Option<String>,
    /// Most tokens to generate.
    #[schema(minimum = 1, example = 32)]
    pub max_output_tokens: Option<u32>,
    /// Whether the answer comes as events.
    pub stream: Option<bool>,
    /// Divides the logits before sampling; 0 takes the most likely token.
    #[schema(minimum = 0, maximum = 2, example = 1)]
    pub temperature: Option<f32>,
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// What the model may call.
    #[schema(value_type = Option<Vec<FunctionTool>>)]
    pub tools: Option<Vec<Map<String, Value>>>,
    /// Which tool is called, if any: `none`, `auto`, `required`, `{"type": "function", "name": ...}` or
    /// `{"type": "allowed_tools", "mode": ..., "tools": [...]}`.
    pub tool_choice: Option<Value>,
    pub parallel_tool_calls: Option<bool>,
    /// The form that the text must have.
    pub text: Option<TextConfig>,
    pub reasoning: Option<ReasoningConfig>,
    /// `message.output_text.logprobs` has the text come with the log-probabilities of its tokens.
    pub include: Option<Vec<String>>,
    /// So many of the most likely tokens at each place, with their log-probabilities.
    #[schema(maximum = 20)]
    pub top_logprobs: Option<u32>,
    /// Comes back as it is.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
    /// Names the end user for the operator's log.
    pub user: Option<String>,

    /// What asks for state, or for what is not served; see [`unserved`](Self::unserved).
    #[schema(ignore)]
    pub previous_response_id: Option<Value>,
    #[schema(ignore)]
    pub conversation: Option<Value>,
    #[schema(ignore)]
    pub prompt: Option<Value>,
    #[schema(ignore)]
    pub background: Option<bool>,
}

impl ResponsesRequest {
    /// A field that asks for what is not served, and why: it is refused rather than passed over.
    pub fn unserved(&self) -> Option<(&'static str, &'static str)> {
        const STATE: &str =
            "is not supported: no response is kept here; send the whole conversation as `input`";
        [
            ("previous_response_id", self.previous_response_id.is_some(), STATE),
            ("conversation", self.conversation.is_some(), STATE),
            ("prompt", self.prompt.is_some(), "is not supported: no prompts are kept here"),
            ("background", self.background == Some(true), "is not supported: no response is kept here"),
        ]
        .into_iter()
        .find_map(|(field, asked, why)| asked.then_some((field, why)))
    }

    pub fn wants_logprobs(&self) -> bool {
        let included = self.include.iter().flatten().any(|what| what == "message.output_text.logprobs");
        included || self.top_logprobs.is_some_and(|top| top > 0)
    }
}

/// An item, which is a message where it does not say what it is.
#[derive(Debug, Clone, ToSchema)]
#[schema(as = ResponsesAnyItem, value_type = ItemOrMessage)]
pub(crate) struct AnyItem(pub InputItem);

any_of!(ItemOrMessage: InputItem, PlainMessage);

#[derive(ToSchema)]
#[schema(as = ResponsesPlainMessage)]
#[expect(dead_code, reason = "describes what is read as an item")]
pub(crate) struct PlainMessage {
    #[schema(example = "user")]
    role: String,
    content: TextOr<ContentPart>,
}

impl<'de> Deserialize<'de> for AnyItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut item = Map::deserialize(deserializer)?;
        item.entry("type").or_insert_with(|| "message".into());
        InputItem::deserialize(Value::Object(item)).map(Self).map_err(serde::de::Error::custom)
    }
}

/// An item of a conversation.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = ResponsesInputItem)]
pub(crate) enum InputItem {
    /// Something said.
    Message {
        #[schema(example = "user")]
        role: String,
        content: TextOr<ContentPart>,
    },
    /// A call of the assistant's.
    FunctionCall {
        call_id: String,
        name: String,
        /// JSON text.
        arguments: String,
    },
    /// A call's result.
    FunctionCallOutput { call_id: String, output: TextOr<ContentPart> },
    /// What the assistant thought.
    Reasoning { content: Option<Vec<ContentPart>> },
}

/// A part of a message. Pictures, sounds and files are refused: the models here read text.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = ResponsesContentPart)]
pub(crate) enum ContentPart {
    InputText { text: String },
    OutputText { text: String },
    ReasoningText { text: String },
    Refusal { refusal: String },
    InputImage {},
    InputAudio {},
    InputFile {},
}

/// A function that the model may call. Tools that OpenAI runs are not there.
#[derive(ToSchema)]
#[schema(as = ResponsesFunctionTool)]
#[expect(dead_code, reason = "describes what is read as it comes, and told again in the answer")]
pub(crate) struct FunctionTool {
    #[schema(example = "function")]
    r#type: String,
    #[schema(example = "get_weather")]
    name: String,
    description: Option<String>,
    /// JSON Schema of the arguments, an object.
    #[schema(value_type = Option<Object>)]
    parameters: Value,
    /// Whether the schema is enforced in full or refused (default), or as far as it can be.
    strict: Option<bool>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = ResponsesTextConfig)]
pub(crate) struct TextConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<TextFormat>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verbosity: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = ResponsesTextFormat)]
pub(crate) enum TextFormat {
    Text,
    JsonObject,
    JsonSchema {
        name: String,
        #[schema(value_type = Object)]
        schema: Value,
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        strict: Option<bool>,
    },
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = ResponsesReasoningConfig)]
pub(crate) struct ReasoningConfig {
    /// How hard a model that reasons does so: none, minimal, low, medium, high, xhigh or max.
    pub effort: Option<String>,
    /// Passed over: reasoning is told as it is.
    pub summary: Option<String>,
}
