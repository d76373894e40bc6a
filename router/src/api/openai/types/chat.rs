use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Common;
use crate::api::docs::schemas::{GrammarType, Message as MessageSchema, Tool, ToolChoice};

#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub(crate) struct ChatRequest {
    /// The conversation so far.
    #[schema(value_type = Vec<MessageSchema>, min_items = 1, example = json!([{"role": "user", "content": "What is deep learning?"}]))]
    pub messages: Vec<Message>,
    #[serde(flatten)]
    pub common: Common,
    /// Takes precedence over `max_tokens`.
    #[schema(example = 32)]
    pub max_completion_tokens: Option<u32>,
    /// Whether the answer has the log-probabilities of its tokens.
    #[schema(example = false)]
    pub logprobs: Option<bool>,
    /// So many of the most likely tokens at each place; needs `logprobs`.
    #[schema(maximum = 20)]
    pub top_logprobs: Option<u32>,

    /// A form that the text must have.
    #[schema(value_type = Option<GrammarType>)]
    pub response_format: Option<Value>,
    /// What the model may call.
    #[schema(value_type = Option<Vec<Tool>>)]
    pub tools: Option<Vec<Value>>,
    /// Which tool is called, if any.
    #[schema(value_type = ToolChoice, required = false)]
    pub tool_choice: Option<Value>,
    pub parallel_tool_calls: Option<bool>,
    /// TGI's: what is said to the model about its tools.
    pub tool_prompt: Option<String>,

    /// How hard a model that reasons does so: none, minimal, low, medium, high, xhigh or max.
    #[schema(example = "low")]
    pub reasoning_effort: Option<String>,

    /// A variable of the chat template (TGI).
    pub guideline: Option<String>,
    /// Further variables of the chat template.
    pub chat_template_kwargs: Option<Map<String, Value>>,
    pub documents: Option<Vec<Value>>,
    /// The prompt ends inside the last message, which the answer continues. Absent: where the assistant wrote it.
    pub continue_final_message: Option<bool>,
    /// The prompt ends with the beginning of the answer. Absent: unless the final message is continued.
    pub add_generation_prompt: Option<bool>,

    /// What changes the answer and is not served here; see [`unserved`](Self::unserved).
    #[schema(ignore)]
    pub functions: Option<Value>,
    #[schema(ignore)]
    pub function_call: Option<Value>,
    #[schema(ignore)]
    pub audio: Option<Value>,
    #[schema(ignore)]
    pub modalities: Option<Vec<String>>,
    #[schema(ignore)]
    pub web_search_options: Option<Value>,
}

impl ChatRequest {
    /// A field that asks for what is not served: it is refused rather than ignored.
    pub fn unserved(&self) -> Option<&'static str> {
        let sounds = self.modalities.iter().flatten().any(|modality| modality != "text");
        [
            ("functions", self.functions.is_some()),
            ("function_call", self.function_call.is_some()),
            ("audio", self.audio.is_some()),
            ("modalities", sounds),
            ("web_search_options", self.web_search_options.is_some()),
        ]
        .into_iter()
        .find_map(|(field, given)| given.then_some(field))
    }
}

/// A message. What is not named here reaches the template as it came (`name`, `tool_calls`, `tool_call_id`, ...).
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Message {
    pub role: String,
    pub content: Option<Content>,
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Part {
    #[serde(rename = "type")]
    pub kind: String,
    pub text: Option<String>,
    /// The text of a part of type `refusal`.
    pub refusal: Option<String>,
}
