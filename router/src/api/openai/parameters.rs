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
    Request {
        prompt,
        truncate: None,
        context: None,
        parameters,
        max_top_n_tokens,
        max_stop_sequences: settings.max_stop_sequences,
        text,
        marks: Vec::new(),
        tenant: Tenant::default(),
    }
}

/// Temperature 0 is greedy, whatever else is said; without a temperature both sample at 1. Values that switch a filter
/// off are taken for its absence, but for those that TGI refuses.
pub(super) fn parameters(
    common: &Common,
    max_new_tokens: MaxNewTokens,
    quirks: &Quirks,
) -> Result<Parameters, ServiceError> {
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
        adapter: common.adapter_id.clone(),
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

pub(crate) fn field(field: &'static str, message: &str) -> ServiceError {
    ValidationError::Field { field, message: message.to_owned() }.into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Profile;

    fn lowered(profile: Profile, body: Value) -> Result<Parameters, ServiceError> {
        let common: Common = serde_json::from_value(body).unwrap();
        parameters(&common, MaxNewTokens::Open, Quirks::of(profile))
    }

    #[test]
    fn the_frequency_penalty_is_the_profiles() {
        for (profile, expected) in
            [(Profile::Tgi, Frequency::Relative(0.5)), (Profile::OpenAi, Frequency::Count(0.5))]
        {
            let lowered = lowered(profile, json!({"frequency_penalty": 0.5})).unwrap();
            assert_eq!(lowered.frequency_penalty, Some(expected));
        }
    }

    #[test]
    fn a_temperature_of_zero_is_greedy_and_none_samples() {
        for (body, sampling) in [
            (json!({}), true),
            (json!({"temperature": 0}), false),
            (json!({"temperature": 0, "top_p": 0.5, "top_k": 3}), false),
            (json!({"temperature": 0.5}), true),
        ] {
            assert_eq!(lowered(Profile::OpenAi, body).unwrap().sampling(), sampling);
        }
    }

    #[test]
    fn a_seed_may_be_negative() {
        assert_eq!(lowered(Profile::OpenAi, json!({"seed": -1})).unwrap().seed, Some(u64::MAX));
        assert_eq!(lowered(Profile::OpenAi, json!({"seed": u64::MAX})).unwrap().seed, Some(u64::MAX));
        assert_eq!(lowered(Profile::OpenAi, json!({"seed": null})).unwrap().seed, None);
    }

    #[test]
    fn every_filter_is_passed_on_and_those_that_are_off_are_left_out() {
        let on = lowered(
            Profile::OpenAi,
            json!({"top_k": 3, "top_p": 0.5, "typical_p": 0.25, "min_p": 0.125,
            "min_tokens": 2, "ignore_eos": true, "presence_penalty": -1, "repetition_penalty": 1.5}),
        )
        .unwrap();
        assert_eq!(
            (on.top_k, on.top_p, on.typical_p, on.min_p),
            (Some(3), Some(0.5), Some(0.25), Some(0.125))
        );
        assert_eq!((on.min_new_tokens, on.ignore_eos), (2, true));
        assert_eq!((on.presence_penalty, on.repetition_penalty), (Some(-1.0), Some(1.5)));
        let off = lowered(Profile::OpenAi, json!({"top_k": -1, "top_p": 1.0, "typical_p": 1})).unwrap();
        assert_eq!((off.top_k, off.top_p, off.typical_p), (None, None, None));
        let tgi = lowered(Profile::Tgi, json!({"top_k": 0, "top_p": 1.0})).unwrap();
        assert_eq!((tgi.top_k, tgi.top_p), (None, Some(1.0)));
    }

    #[test]
    fn a_logit_bias_names_tokens_and_numbers() {
        assert!(lowered(Profile::OpenAi, json!({"logit_bias": {"x": 1}})).is_err());
        assert!(lowered(Profile::OpenAi, json!({"logit_bias": {"1": "x"}})).is_err());
        let array = lowered(Profile::Tgi, json!({"logit_bias": [0.0, 2.5]})).unwrap();
        assert_eq!(array.logit_bias, [(1, 2.5)]);
    }
}
