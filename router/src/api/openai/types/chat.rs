use serde::Deserialize;
use serde_json::{Map, Value};

use super::Common;

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ChatRequest {
    pub messages: Vec<Message>,
    #[serde(flatten)]
    pub common: Common,
    pub max_completion_tokens: Option<u32>,
    pub logprobs: Option<bool>,
    pub top_logprobs: Option<u32>,

    pub response_format: Option<Value>,
    pub tools: Option<Vec<Value>>,
    pub tool_choice: Option<Value>,
    pub parallel_tool_calls: Option<bool>,
    /// TGI's: what is said to the model about its tools.
    pub tool_prompt: Option<String>,

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
    pub functions: Option<Value>,
    pub function_call: Option<Value>,
    pub audio: Option<Value>,
    pub modalities: Option<Vec<String>>,
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
