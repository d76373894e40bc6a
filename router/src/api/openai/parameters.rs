//! What both APIs lower in the same way.

use serde_json::Value;
use weirgate_types::Frequency;

use super::quirks::Quirks;
use super::types::{Common, LogitBias, Stop};
use crate::api::Settings;
use crate::service::{
    MaxNewTokens, Parameters, Prompt, Request, ServiceError, Tenant, TextOptions, ValidationError,
};

/// OpenAI's bound on `top_logprobs`.
const MAX_TOP_LOGPROBS: u32 = 20;

/// What of a request only the answer depends on.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub quirks: &'static Quirks,
    /// The name to answer with.
    pub model: String,
    pub stream: bool,
    pub include_usage: bool,
    /// Choices per prompt; no more than the sequences generated.
    pub n: usize,
    pub logprobs: bool,
}

impl Shape {
    pub fn new(common: &Common, logprobs: bool, settings: &Settings) -> Self {
        let named = common.model.clone().filter(|name| !name.is_empty() && name != "tgi");
        Self {
            quirks: Quirks::of(settings.profile),
            model: named.unwrap_or_else(|| settings.model_id.clone()),
            stream: common.streams(),
            include_usage: common.stream_options.is_some_and(|options| options.include_usage),
            n: common.n.unwrap_or(1),
            logprobs,
        }
    }
}

/// A request to the service. `text` is how the answer's text is wanted.
pub(super) fn request(
    prompt: Prompt,
    parameters: Parameters,
    text: TextOptions,
    settings: &Settings,
) -> Request {
    let max_top_n_tokens = if Quirks::of(settings.profile).tgi_bounds {
        settings.max_top_n_tokens
    } else {
        settings.max_top_n_tokens.max(MAX_TOP_LOGPROBS)
    };
    Request { prompt, truncate: None, parameters, max_top_n_tokens, text, tenant: Tenant::default() }
}

/// Temperature 0 is greedy, whatever else is said; without a temperature both sample at 1. Values that switch a filter
/// off are taken for its absence, but for those that TGI refuses.
pub(super) fn parameters(
    common: &Common,
    max_new_tokens: MaxNewTokens,
    quirks: &Quirks,
) -> Result<Parameters, ServiceError> {
    if let Some(adapter) = &common.adapter_id {
        return Err(field("adapter_id", &format!("adapter {adapter:?} is not loaded")));
    }
    let frequency = if quirks.relative_frequency { Frequency::Relative } else { Frequency::Count };
    Ok(Parameters {
        choices: common.n.unwrap_or(1),
        min_new_tokens: common.min_tokens.unwrap_or(0),
        ignore_eos: common.ignore_eos.unwrap_or(false),
        do_sample: true,
        greedy: common.temperature == Some(0.0),
        temperature: common.temperature.filter(|t| *t != 0.0),
        top_p: common.top_p.filter(|p| quirks.tgi_bounds || *p != 1.0),
        top_k: common.top_k.filter(|k| !matches!(k, -1 | 0)),
        typical_p: common.typical_p.filter(|p| quirks.tgi_bounds || *p != 1.0),
        min_p: common.min_p,
        repetition_penalty: common.repetition_penalty,
        frequency_penalty: common.frequency_penalty.map(frequency),
        presence_penalty: common.presence_penalty,
        logit_bias: common.logit_bias.as_ref().map(logit_bias).transpose()?.unwrap_or_default(),
        seed: common.seed,
        stop: match &common.stop {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop.clone()],
            Some(Stop::Many(stops)) => stops.clone(),
        },
        ..Parameters::new(max_new_tokens)
    })
}

fn logit_bias(bias: &LogitBias) -> Result<Vec<(i64, f32)>, ServiceError> {
    match bias {
        LogitBias::Array(values) => {
            let entries = values.iter().zip(0i64..).filter(|(bias, _)| **bias != 0.0);
            Ok(entries.map(|(bias, token)| (token, *bias)).collect())
        }
        LogitBias::Map(map) => map.iter().map(|(token, bias)| logit_bias_entry(token, bias)).collect(),
    }
}

fn logit_bias_entry(token: &str, bias: &Value) -> Result<(i64, f32), ServiceError> {
    let token = token.parse().map_err(|_| field("logit_bias", "keys must be token ids"))?;
    let bias = bias.as_f64().ok_or_else(|| field("logit_bias", "values must be numbers"))?;
    Ok((token, bias as f32))
}

pub(super) fn field(field: &'static str, message: &str) -> ServiceError {
    ValidationError::Field { field, message: message.to_owned() }.into()
}
