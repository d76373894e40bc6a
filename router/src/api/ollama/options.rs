//! `options`: what may be set for a request, beside load-time settings that a paged server has no use for.

use serde_json::{Map, Value};
use weirgate_types::{FilterOrder, Frequency, Mirostat, MirostatVersion};

use super::errors::Refusal;
use crate::service::{ContextLimit, MaxNewTokens, Parameters};

/// Accepted with their types checked, and without effect: weights, threads and caches are the server's.
const LOAD_TIME: [(&str, Kind); 11] = [
    ("numa", Kind::Boolean),
    ("num_batch", Kind::Integer),
    ("num_gpu", Kind::Integer),
    ("main_gpu", Kind::Integer),
    ("low_vram", Kind::Boolean),
    ("f16_kv", Kind::Boolean),
    ("logits_all", Kind::Boolean),
    ("vocab_only", Kind::Boolean),
    ("use_mmap", Kind::Boolean),
    ("use_mlock", Kind::Boolean),
    ("num_thread", Kind::Integer),
];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Integer,
    Number,
    Boolean,
}

impl Kind {
    /// In the words of Ollama, whose options are Go's.
    fn name(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::Number => "float32",
            Self::Boolean => "boolean",
        }
    }
}

/// Ollama's options with its defaults.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Options {
    pub num_keep: i64,
    pub seed: i64,
    pub num_predict: i64,
    pub num_ctx: Option<i64>,
    pub top_k: i64,
    pub top_p: f32,
    pub min_p: f32,
    pub tfs_z: f32,
    pub typical_p: f32,
    pub repeat_last_n: i64,
    pub temperature: f32,
    pub repeat_penalty: f32,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    pub mirostat: i64,
    pub mirostat_tau: f32,
    pub mirostat_eta: f32,
    pub penalize_newline: bool,
    pub stop: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            num_keep: 4,
            seed: -1,
            num_predict: -1,
            num_ctx: None,
            top_k: 40,
            top_p: 0.9,
            min_p: 0.0,
            tfs_z: 1.0,
            typical_p: 1.0,
            repeat_last_n: 64,
            temperature: 0.8,
            repeat_penalty: 1.1,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            mirostat: 0,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            penalize_newline: true,
            stop: Vec::new(),
        }
    }
}

impl Options {
    /// The options of several layers, each before the next: the model's own, then the request's.
    ///
    /// # Errors
    /// An option whose value is of another type.
    pub fn read<'a>(layers: impl IntoIterator<Item = &'a Map<String, Value>>) -> Result<Self, Refusal> {
        let mut options = Self::default();
        for (name, value) in layers.into_iter().flatten() {
            if !value.is_null() {
                options.set(name, value)?;
            }
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<(), Refusal> {
        match name {
            "num_keep" => self.num_keep = integer(name, value)?,
            "seed" => self.seed = integer(name, value)?,
            "num_predict" => self.num_predict = integer(name, value)?,
            "num_ctx" => self.num_ctx = Some(integer(name, value)?),
            "top_k" => self.top_k = integer(name, value)?,
            "top_p" => self.top_p = number(name, value)?,
            "min_p" => self.min_p = number(name, value)?,
            "tfs_z" => self.tfs_z = number(name, value)?,
            "typical_p" => self.typical_p = number(name, value)?,
            "repeat_last_n" => self.repeat_last_n = integer(name, value)?,
            "temperature" => self.temperature = number(name, value)?,
            "repeat_penalty" => self.repeat_penalty = number(name, value)?,
            "presence_penalty" => self.presence_penalty = number(name, value)?,
            "frequency_penalty" => self.frequency_penalty = number(name, value)?,
            "mirostat" => self.mirostat = integer(name, value)?,
            "mirostat_tau" => self.mirostat_tau = number(name, value)?,
            "mirostat_eta" => self.mirostat_eta = number(name, value)?,
            "penalize_newline" => {
                self.penalize_newline = value.as_bool().ok_or_else(|| mistyped(name, "boolean"))?;
            }
            "stop" => self.stop = texts(name, value)?,
            _ => match LOAD_TIME.iter().find(|(known, _)| *known == name) {
                Some((_, kind)) => check(name, value, *kind)?,
                None => tracing::debug!(option = name, "unknown, and ignored"),
            },
        }
        Ok(())
    }

    /// The sampling of a request, in llama.cpp's order and over its window.
    ///
    /// # Errors
    /// A `mirostat` of which there is no version.
    pub fn parameters(&self) -> Result<Parameters, Refusal> {
        let share = |p: f32| (p < 1.0).then_some(p.max(f32::MIN_POSITIVE));
        let mirostat = |version| Some(Mirostat { version, tau: self.mirostat_tau, eta: self.mirostat_eta });
        let new = u32::try_from(self.num_predict).ok().map_or(MaxNewTokens::Open, MaxNewTokens::Given);
        Ok(Parameters {
            do_sample: true,
            greedy: self.temperature <= 0.0,
            temperature: Some(self.temperature).filter(|t| *t > 0.0),
            top_k: i32::try_from(self.top_k).ok().filter(|k| *k > 0),
            top_p: share(self.top_p),
            typical_p: share(self.typical_p),
            min_p: Some(self.min_p).filter(|p| *p > 0.0),
            tfs_z: share(self.tfs_z),
            order: FilterOrder::TemperatureLast,
            mirostat: match self.mirostat {
                0 => None,
                1 => mirostat(MirostatVersion::V1),
                2 => mirostat(MirostatVersion::V2),
                other => {
                    return Err(Refusal::bad(format!(
                        "option \"mirostat\" must be 0, 1 or 2. Given: {other}"
                    )));
                }
            },
            repetition_penalty: Some(self.repeat_penalty),
            frequency_penalty: Some(Frequency::Count(self.frequency_penalty)),
            presence_penalty: Some(self.presence_penalty),
            // A negative number is as many as the context has, hence all.
            penalty_window: Some(u32::try_from(self.repeat_last_n).unwrap_or(u32::MAX)),
            penalize_newline: self.penalize_newline,
            seed: u64::try_from(self.seed).ok(),
            stop: self.stop.clone(),
            ..Parameters::new(new)
        })
    }

    /// Where the context ends, and what happens there. `default` is the server's `num_ctx`, if it has one.
    pub fn context(&self, default: Option<usize>, truncate: bool, shift: bool) -> ContextLimit {
        let asked = self.num_ctx.and_then(|tokens| usize::try_from(tokens).ok()).filter(|tokens| *tokens > 0);
        ContextLimit {
            tokens: asked.or(default),
            keep: usize::try_from(self.num_keep).ok(),
            truncate,
            // -2: the context is filled, and no more.
            shift: shift && self.num_predict != -2,
            preceding: Vec::new(),
        }
    }
}

fn mistyped(name: &str, kind: &str) -> Refusal {
    Refusal::bad(format!("option {name:?} must be of type {kind}"))
}

/// A number with a fraction is cut, as by Ollama.
fn integer(name: &str, value: &Value) -> Result<i64, Refusal> {
    let whole = value.as_i64().or_else(|| value.as_f64().map(|number| number as i64));
    whole.ok_or_else(|| mistyped(name, Kind::Integer.name()))
}

fn number(name: &str, value: &Value) -> Result<f32, Refusal> {
    value.as_f64().map(|number| number as f32).ok_or_else(|| mistyped(name, Kind::Number.name()))
}

fn texts(name: &str, value: &Value) -> Result<Vec<String>, Refusal> {
    let list: Option<Vec<String>> = match value {
        // The model layer's form, and that of clients which take the documentation by its word.
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(list) => list.iter().map(|entry| entry.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    let list = list.ok_or_else(|| mistyped(name, "array"))?;
    Ok(list.into_iter().filter(|text| !text.is_empty()).collect())
}

fn check(name: &str, value: &Value, kind: Kind) -> Result<(), Refusal> {
    let fits = match kind {
        Kind::Integer | Kind::Number => value.is_number(),
        Kind::Boolean => value.is_boolean(),
    };
    if fits { Ok(()) } else { Err(mistyped(name, kind.name())) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Options, String> {
        let map = value.as_object().cloned().unwrap_or_default();
        Options::read([&map]).map_err(|refusal| refusal.message())
    }

    fn parameters(value: Value) -> Parameters {
        read(value).unwrap().parameters().unwrap_or_else(|refusal| panic!("{}", refusal.message()))
    }

    #[test]
    fn defaults_are_those_of_ollamas_code() {
        let defaults = parameters(json!({}));
        assert_eq!((defaults.temperature, defaults.top_k, defaults.top_p), (Some(0.8), Some(40), Some(0.9)));
        assert_eq!((defaults.repetition_penalty, defaults.penalty_window), (Some(1.1), Some(64)));
        assert_eq!(
            (defaults.frequency_penalty, defaults.presence_penalty),
            (Some(Frequency::Count(0.0)), Some(0.0))
        );
        assert_eq!((defaults.tfs_z, defaults.typical_p, defaults.min_p), (None, None, None));
        assert_eq!((defaults.seed, defaults.mirostat, defaults.penalize_newline), (None, None, true));
        assert_eq!(
            (defaults.max_new_tokens, defaults.order),
            (MaxNewTokens::Open, FilterOrder::TemperatureLast)
        );
        assert!(defaults.sampling());
    }

    #[test]
    fn the_request_goes_over_the_model_and_null_says_nothing() {
        let model = json!({"temperature": 0.2, "stop": ["a", "b"], "top_k": 7});
        let own = json!({"temperature": null, "stop": ["c"], "top_k": 8.9});
        let options = Options::read([&model, &own].map(|layer| layer.as_object().unwrap())).unwrap();
        assert_eq!((options.temperature, options.top_k), (0.2, 8));
        assert_eq!(options.stop, ["c"]);
    }

    #[test]
    fn types_are_checked_in_ollamas_words_and_unknown_options_ignored() {
        for (value, kind) in [
            (json!({"top_k": "3"}), "option \"top_k\" must be of type integer"),
            (json!({"temperature": []}), "option \"temperature\" must be of type float32"),
            (json!({"stop": [1]}), "option \"stop\" must be of type array"),
            (json!({"penalize_newline": 1}), "option \"penalize_newline\" must be of type boolean"),
            (json!({"numa": 1}), "option \"numa\" must be of type boolean"),
            (json!({"num_thread": true}), "option \"num_thread\" must be of type integer"),
        ] {
            assert_eq!(read(value).unwrap_err(), kind);
        }
        assert_eq!(
            read(json!({"f16_kv": true, "num_gpu": 1, "of_tomorrow": {}})).unwrap(),
            Options::default()
        );
        assert!(read(json!({"mirostat": 3})).unwrap().parameters().is_err());
    }

    #[test]
    fn every_sampler_reaches_the_service() {
        let all = parameters(json!({
            "num_predict": 9, "seed": 5, "top_k": 0, "top_p": 1.0, "min_p": 0.25, "tfs_z": 0.5, "typical_p": 0.75,
            "repeat_last_n": -1, "temperature": 0.0, "repeat_penalty": 1.5, "presence_penalty": 0.5,
            "frequency_penalty": -0.5, "mirostat": 2.0, "mirostat_tau": 3.0, "mirostat_eta": 0.25,
            "penalize_newline": false, "stop": ["x"],
        }));
        assert_eq!((all.max_new_tokens, all.seed), (MaxNewTokens::Given(9), Some(5)));
        assert_eq!((all.top_k, all.top_p), (None, None));
        assert_eq!((all.min_p, all.tfs_z, all.typical_p), (Some(0.25), Some(0.5), Some(0.75)));
        assert_eq!((all.penalty_window, all.greedy, all.sampling()), (Some(u32::MAX), true, false));
        assert_eq!((all.repetition_penalty, all.presence_penalty), (Some(1.5), Some(0.5)));
        assert_eq!(all.frequency_penalty, Some(Frequency::Count(-0.5)));
        assert_eq!(all.mirostat, Some(Mirostat { version: MirostatVersion::V2, tau: 3.0, eta: 0.25 }));
        assert_eq!((all.penalize_newline, all.stop), (false, vec!["x".to_owned()]));
    }

    #[test]
    fn the_context_is_the_requests_or_the_servers() {
        let options = |value| read(value).unwrap();
        let of = |value: Value| options(value).context(Some(100), true, true);
        assert_eq!((of(json!({})).tokens, of(json!({"num_ctx": 64})).tokens), (Some(100), Some(64)));
        assert_eq!((of(json!({})).keep, of(json!({"num_keep": -1})).keep), (Some(4), None));
        assert_eq!((of(json!({})).shift, of(json!({"num_predict": -2})).shift), (true, false));
    }
}
