use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::service::Guided;

/// What both APIs take.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Common {
    pub model: Option<String>,
    pub frequency_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub logit_bias: Option<LogitBias>,
    pub max_tokens: Option<u32>,
    pub n: Option<usize>,
    #[serde(default, deserialize_with = "seed")]
    pub seed: Option<u64>,
    pub stop: Option<Stop>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    pub temperature: Option<f32>,
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

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Stop {
    One(String),
    Many(Vec<String>),
}

/// OpenAI's map from token id to bias, or TGI's array with one bias per token id.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum LogitBias {
    Map(Map<String, Value>),
    Array(Vec<f32>),
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct StreamOptions {
    #[serde(default)]
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
