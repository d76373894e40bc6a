//! From what is known of a model to Jan's two forms of it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use axum::http::Uri;
use serde_json::{Map, Value, json};

use super::types::{ModelDetails, ModelHead, ModelInfo};
use crate::api::Settings;
use crate::residency::{Card, Models, Presence};

/// The keys of the list's `settings` and `parameters`, which has no others.
const SETTINGS: [&str; 4] = ["ctx_len", "ngl", "embedding", "n_parallel"];
const PARAMETERS: [&str; 5] = ["temperature", "token_limit", "top_k", "top_p", "stream"];
/// Where a `model.json` has them, over its versions.
const SECTIONS: [&str; 4] = ["settings", "parameters", "engine_parameters", "model_parameters"];

/// Numbers of the single form, and their ranges in the contract.
const ENGINE_NUMBERS: [(&str, f64, f64); 4] = [
    ("ctx_len", 128.0, 4096.0),
    ("ngl", 0.0, 100.0),
    ("n_parallel", 1.0, 10.0),
    ("cpu_threads", 1.0, f64::INFINITY),
];
const MODEL_NUMBERS: [(&str, f64, f64); 7] = [
    ("ctx_len", 0.0, 4096.0),
    ("ngl", 1.0, 100.0),
    ("n_parallel", 1.0, 10.0),
    ("temperature", 0.0, 2.0),
    ("token_limit", 1.0, 4096.0),
    ("top_k", 0.0, 100.0),
    ("top_p", 0.0, 1.0),
];
const PIECES: [&str; 4] = ["pre_prompt", "system_prompt", "user_prompt", "ai_prompt"];

/// A model as this dialect sees it.
pub(super) struct Seen<'a> {
    pub id: String,
    pub card: &'a Card,
    pub state: State,
    /// Of one that is loaded, which has its lengths.
    pub settings: Option<&'a Settings>,
    /// Of an adapter.
    pub parent: Option<String>,
    pub created: u64,
    pub owned_by: String,
}

/// Where a model is, in one word for both forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Known, without files.
    Absent,
    Downloading,
    Here(Presence),
}

impl State {
    pub fn of(models: &Models, card: &Card) -> Self {
        match card.absent {
            true if card.coming => Self::Downloading,
            true => Self::Absent,
            false => Self::Here(models.presence(card)),
        }
    }

    /// In a list; nothing is said of a model at rest.
    fn listed(self) -> Option<&'static str> {
        match self {
            Self::Downloading => Some("downloading"),
            Self::Here(Presence::Loading) => Some("starting"),
            Self::Here(Presence::Ready) => Some("ready"),
            Self::Here(Presence::Leaving) => Some("stopping"),
            Self::Absent | Self::Here(Presence::Unloaded | Presence::Stopped) => None,
        }
    }

    /// Of a model by itself.
    fn single(self) -> &'static str {
        match self {
            Self::Absent | Self::Downloading => "not_downloaded",
            Self::Here(Presence::Ready | Presence::Leaving) => "running",
            Self::Here(Presence::Stopped) => "stopped",
            Self::Here(Presence::Unloaded | Presence::Loading) => "downloaded",
        }
    }

    /// Whether a list with this filter shows it.
    pub fn passes(self, filter: &str) -> bool {
        match filter {
            "running" => self.single() == "running",
            "downloaded" => self.single() != "not_downloaded",
            "downloading" => self == Self::Downloading,
            _ => true,
        }
    }
}

impl Seen<'_> {
    fn text(&self, key: &str) -> Option<String> {
        self.card.document.as_ref()?.get(key)?.as_str().map(str::to_owned)
    }

    fn setting(&self, key: &str) -> Option<Value> {
        let document = self.card.document.as_ref()?;
        let sections = SECTIONS.iter().filter_map(|section| document.get(*section)?.as_object());
        let value = sections.filter_map(|section| section.get(key)).find(|value| !value.is_null())?;
        // The older documents write numbers and flags as strings.
        let parsed = value.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
        Some(parsed.filter(|value| value.is_number() || value.is_boolean()).unwrap_or_else(|| value.clone()))
    }

    /// Jan's later name of a length goes for the former one, too.
    fn parameter(&self, key: &str) -> Option<Value> {
        self.setting(key).or_else(|| (key == "token_limit").then(|| self.setting("max_tokens")).flatten())
    }

    fn source(&self) -> String {
        let given = self.text("source_url").filter(|url| {
            url.parse::<Uri>().is_ok_and(|uri| uri.scheme().is_some()) && !url.starts_with("file:")
        });
        given.unwrap_or_else(|| match self.card.source.is_empty() {
            true => address(&self.id),
            false => self.card.source.clone(),
        })
    }

    fn max_model_len(&self) -> usize {
        self.settings.map_or(0, |settings| settings.max_total_tokens)
    }

    fn metadata(&self) -> Map<String, Value> {
        let document = self.card.document.as_ref();
        let own = document.and_then(|document| document.get("metadata")?.as_object()).cloned();
        let mut metadata = own.unwrap_or_default();
        // A server's name that is not among the contract's.
        metadata.retain(|key, value| {
            key != "engine" || ["nitro", "openai", "hf_inference"].iter().any(|known| value == known)
        });
        for (key, value) in [("quantization", &self.card.quantization), ("size", &self.card.parameter_size)] {
            if !metadata.get(key).is_some_and(Value::is_string) {
                metadata.insert(key.to_owned(), json!(value));
            }
        }
        if let Some(context) = self.setting("ctx_len").filter(Value::is_number) {
            metadata.insert("ctx_len".to_owned(), context);
        } else if self.max_model_len() > 0 {
            metadata.insert("ctx_len".to_owned(), json!(self.max_model_len()));
        }
        metadata
    }

    fn texts(&self, keys: &[&'static str]) -> BTreeMap<&'static str, String> {
        let plain = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let texts = keys.iter().filter_map(|key| Some((*key, plain(self.parameter(key)?))));
        texts.collect()
    }

    /// Those of `keys` that the model has, each in its range.
    fn numbers(&self, keys: &[(&str, f64, f64)]) -> Map<String, Value> {
        let number = |(key, least, most): &(&str, f64, f64)| {
            let value = self.parameter(key)?;
            let number = value.as_f64()?;
            let shown = if (*least..=*most).contains(&number) {
                value
            } else {
                json!(number.clamp(*least, *most) as i64)
            };
            Some(((*key).to_owned(), shown))
        };
        keys.iter().filter_map(number).collect()
    }

    fn head(&self) -> ModelHead {
        let format = self.text("format").unwrap_or_else(|| match self.card.format.as_str() {
            "gguf" => "ggufv3".to_owned(),
            other => other.to_owned(),
        });
        let version = self.card.document.as_ref().and_then(|document| document.get("version"));
        let version =
            version.map(|version| version.as_str().map_or_else(|| version.to_string(), str::to_owned));
        let assets = self.card.document.as_ref().and_then(|document| document.get("assets")?.as_array());
        // Names alone: paths of this machine are nobody's business.
        let names =
            assets.into_iter().flatten().filter_map(Value::as_str).filter_map(|path| path.rsplit('/').next());
        ModelHead {
            id: self.id.clone(),
            object: "model",
            created: self.created,
            owned_by: self.owned_by.clone(),
            max_model_len: self.max_model_len(),
            root: self.parent.clone().unwrap_or_else(|| self.id.clone()),
            parent: self.parent.clone(),
            kind: "model",
            version: version.unwrap_or_else(|| "1".to_owned()),
            name: self.text("name").unwrap_or_else(|| self.id.clone()),
            description: self.text("description").unwrap_or_default(),
            format,
            source_url: self.source(),
            metadata: self.metadata(),
            assets: names.map(str::to_owned).collect(),
        }
    }

    /// For a list.
    pub fn listed(self) -> ModelInfo {
        ModelInfo {
            head: self.head(),
            state: self.state.listed(),
            settings: self.texts(&SETTINGS),
            parameters: self.texts(&PARAMETERS),
        }
    }

    /// By itself.
    pub fn single(self) -> ModelDetails {
        let mut engine = self.numbers(&ENGINE_NUMBERS);
        let mut model = self.numbers(&MODEL_NUMBERS);
        let embeds = self.setting("embedding").and_then(|value| value.as_bool());
        let embeds = embeds.unwrap_or_else(|| self.card.capabilities.contains(&"embedding"));
        for parameters in [&mut engine, &mut model] {
            parameters.insert("embedding".to_owned(), json!(embeds));
        }
        let joins = self.setting("cont_batching").and_then(|value| value.as_bool());
        engine.insert("cont_batching".to_owned(), json!(joins.unwrap_or(true)));
        let owned = |(key, value): (&String, &Value)| (key.clone(), value.clone());
        let pieces = PIECES.iter().filter_map(|key| Some(((*key).to_owned(), self.setting(key)?)));
        engine.extend(pieces.filter(|(_, text)| text.is_string()));
        ModelDetails {
            head: self.head(),
            state: self.state.single(),
            settings: SETTINGS.iter().filter_map(|key| engine.get_key_value(*key)).map(owned).collect(),
            engine_parameters: engine,
            parameters: model.clone(),
            model_parameters: model,
        }
    }
}

/// Where the model of this id came from, as far as the id tells: the hub, or somewhere on this machine.
fn address(id: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let escape = |byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    let escaped = |text: &str| text.bytes().map(escape).collect::<String>();
    match id.split_once('/') {
        Some((owner, name)) if !owner.is_empty() && !owner.starts_with(['.', '~']) && !name.contains('/') => {
            format!("https://huggingface.co/{}", escaped(id))
        }
        _ => format!("weirgate://models/{}", escaped(id.rsplit('/').next().unwrap_or(id))),
    }
}

/// Seconds since 1970, or 0.
pub(super) fn seconds(time: Option<SystemTime>) -> u64 {
    time.map_or(0, crate::api::seconds)
}
