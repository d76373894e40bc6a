use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::service::Guided;

/// What both APIs take.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[schema(as = SamplingRequest)]
pub(crate) struct Common {
    /// The served model's name; any other is taken, too.
    #[schema(example = "demo")]
    pub model: Option<String>,
    /// Lowers tokens for each time they are in the text.
    #[schema(minimum = -2, maximum = 2, example = 0)]
    pub frequency_penalty: Option<f32>,
    /// Lowers tokens that are in the text.
    #[schema(minimum = -2, maximum = 2, example = 0)]
    pub presence_penalty: Option<f32>,
    /// Added to the logits of tokens.
    pub logit_bias: Option<LogitBias>,
    /// Most tokens to generate.
    #[schema(example = 32)]
    pub max_tokens: Option<u32>,
    /// Most tokens where the client does not say: what the model brings.
    #[serde(skip)]
    pub own_max_tokens: Option<u32>,
    /// How many answers.
    #[schema(minimum = 1, example = 1)]
    pub n: Option<usize>,
    /// What the draws begin with; at random if absent.
    #[serde(default, deserialize_with = "seed")]
    #[schema(value_type = Option<i64>, example = 42)]
    pub seed: Option<u64>,
    /// The text ends before the first of these.
    pub stop: Option<Stop>,
    /// Whether the answer comes as events.
    #[schema(value_type = bool, required = false, example = false)]
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    /// Divides the logits before sampling; 0 takes the most likely token.
    #[schema(minimum = 0, example = 1)]
    pub temperature: Option<f32>,
    /// Only the most likely tokens that have this probability together are drawn from.
    #[schema(exclusive_minimum = 0, maximum = 1, example = 0.95)]
    pub top_p: Option<f32>,
    /// Names the end user for the operator's log.
    pub user: Option<String>,

    // Not OpenAI's.
    pub repetition_penalty: Option<f32>,
    pub top_k: Option<i32>,
    pub typical_p: Option<f32>,
    pub min_p: Option<f32>,
    pub min_tokens: Option<u32>,
    pub ignore_eos: Option<bool>,
    pub adapter_id: Option<String>,
    #[serde(flatten)]
    pub guided: Guided,
}

impl Common {
    pub fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Stop {
    One(String),
    Many(Vec<String>),
}

/// OpenAI's map from token id to bias, or TGI's array with one bias per token id.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum LogitBias {
    Map(Map<String, Value>),
    Array(Vec<f32>),
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
pub(crate) struct StreamOptions {
    /// Whether a last chunk has the token counts.
    #[serde(default)]
    #[schema(example = true)]
    pub include_usage: bool,
}

/// OpenAI's seed is any 64-bit integer, TGI's has no sign.
fn seed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Seed {
        Unsigned(u64),
        Signed(i64),
    }
    let seed = Option::<Seed>::deserialize(deserializer)?;
    Ok(seed.map(|seed| match seed {
        Seed::Unsigned(seed) => seed,
        Seed::Signed(seed) => seed.cast_unsigned(),
    }))
}
