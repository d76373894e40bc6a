//! What every dialect lowers to before validation: one prompt and the wishes about its continuation.

use std::sync::Arc;

use weirgate_types::{FilterOrder, Frequency, Mirostat};

use super::constraint::Constraint;
use super::context::ContextLimit;
use super::template::{ChatTemplate, Conversation};

/// One prompt to continue, not yet validated.
#[derive(Clone)]
pub(crate) struct Request {
    pub prompt: Prompt,
    /// Keep only the last so many tokens of the prompt.
    pub truncate: Option<usize>,
    /// A context of the request's own; without it, prompt and output have to fit what the server allows.
    pub context: Option<ContextLimit>,
    pub parameters: Parameters,
    /// The most `top_n_tokens` this dialect allows.
    pub max_top_n_tokens: u32,
    /// The most stop strings this dialect allows.
    pub max_stop_sequences: usize,
    pub text: TextOptions,
    /// Special tokens that are text to whoever reads the answer: the marks of calls and of reasoning.
    pub marks: Vec<String>,
    /// Requests of different tenants share no cached prefixes.
    pub tenant: Tenant,
}

/// Who asks, as far as the API key tells; all the same without keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tenant(pub u64);

#[derive(Clone)]
pub(crate) enum Prompt {
    /// As it is, special tokens included.
    Text(String),
    /// Ids as the client sent them.
    Tokens(Vec<i64>),
    /// The text before and after the one that is wanted, to be rendered by the model's completion template.
    Infill { text: String, suffix: String },
    /// To be rendered by the model's chat template, which alone writes special tokens.
    Chat(Conversation),
    /// To be rendered by a template of the request's own.
    Templated(Arc<ChatTemplate>, Conversation),
}

/// How a dialect wants its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TextOptions {
    /// The stop string stays at the end of the text.
    pub keep_stop: bool,
    /// Special tokens have text in each token's piece (never in the full text).
    pub special_pieces: bool,
}

/// How many tokens to generate at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MaxNewTokens {
    /// The client's number: an error if it cannot fit.
    Given(u32),
    /// The server's default: shortened to what fits.
    Default(u32),
    /// Until the total-token limit.
    Open,
}

impl MaxNewTokens {
    pub fn new(given: Option<u32>, default: Option<u32>) -> Self {
        match (given, default) {
            (Some(given), _) => Self::Given(given),
            (None, Some(default)) => Self::Default(default),
            (None, None) => Self::Open,
        }
    }
}

/// Wishes as the client stated them; `None` is "not said".
#[derive(Debug, Clone)]
pub(crate) struct Parameters {
    /// TGI's `best_of`, with TGI's rules.
    pub best_of: Option<usize>,
    /// OpenAI's `n`: sequences to answer with.
    pub choices: usize,
    pub max_new_tokens: MaxNewTokens,
    pub min_new_tokens: u32,
    pub ignore_eos: bool,
    pub do_sample: bool,
    /// Greedy whatever else is said (OpenAI's temperature 0).
    pub greedy: bool,
    pub temperature: Option<f32>,
    pub top_k: Option<i32>,
    pub top_p: Option<f32>,
    pub typical_p: Option<f32>,
    pub min_p: Option<f32>,
    pub tfs_z: Option<f32>,
    pub order: FilterOrder,
    pub mirostat: Option<Mirostat>,
    pub repetition_penalty: Option<f32>,
    pub frequency_penalty: Option<Frequency>,
    pub presence_penalty: Option<f32>,
    /// The last tokens that the penalties look at; `None`: as the dialects other than Ollama's have it.
    pub penalty_window: Option<u32>,
    /// Whether line feeds count.
    pub penalize_newline: bool,
    pub logit_bias: Vec<(i64, f32)>,
    pub seed: Option<u64>,
    pub watermark: bool,
    pub stop: Vec<String>,
    pub top_n_tokens: u32,
    pub prompt_logprobs: bool,
    /// A LoRA adapter, by its name.
    pub adapter: Option<String>,
    /// A grammar, a response format or tools were asked for.
    pub constraint: Option<Constraint>,
}

impl Parameters {
    pub fn new(max_new_tokens: MaxNewTokens) -> Self {
        Self {
            best_of: None,
            choices: 1,
            max_new_tokens,
            min_new_tokens: 0,
            ignore_eos: false,
            do_sample: false,
            greedy: false,
            temperature: None,
            top_k: None,
            top_p: None,
            typical_p: None,
            min_p: None,
            tfs_z: None,
            order: FilterOrder::TemperatureFirst,
            mirostat: None,
            repetition_penalty: None,
            frequency_penalty: None,
            presence_penalty: None,
            penalty_window: None,
            penalize_newline: true,
            logit_bias: Vec::new(),
            seed: None,
            watermark: false,
            stop: Vec::new(),
            top_n_tokens: 0,
            prompt_logprobs: false,
            adapter: None,
            constraint: None,
        }
    }

    /// TGI samples when asked to, or when any setting of a sampler is given.
    pub fn sampling(&self) -> bool {
        let set = self.temperature.is_some()
            || self.top_k.is_some()
            || self.top_p.is_some()
            || self.typical_p.is_some()
            || self.min_p.is_some();
        !self.greedy && (self.do_sample || set)
    }

    /// Sequences to generate.
    pub fn sequences(&self) -> usize {
        self.choices.max(self.best_of.unwrap_or(1))
    }
}
