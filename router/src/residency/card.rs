//! What can be told about a model without running it.

use std::time::SystemTime;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use weirgate_models::{EncoderSpec, ModelFiles, ModelSpec, TensorSource};
use weirgate_store::{ModelSettings, SHORT_ARRAY, Show};

use crate::tools::ModelForms;

/// What a model brings beside its weights and its tokenizer, as a Modelfile says it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Layers {
    /// Options by name.
    pub parameters: Map<String, Value>,
    pub system: Option<String>,
    /// A Go template.
    pub template: Option<String>,
    /// Said before every conversation.
    pub messages: Vec<Map<String, Value>>,
    pub licenses: Vec<String>,
}

/// A model as lists and descriptions show it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Card {
    pub name: String,
    /// `gguf` or `safetensors`.
    pub format: String,
    /// The architecture, as GGUF names it.
    pub family: String,
    /// Of the weights and of what was made for them.
    pub families: Vec<String>,
    /// The model that this one was made of; empty where it was made of files.
    pub parent: String,
    /// As `7.2B`.
    pub parameter_size: String,
    pub quantization: String,
    /// Of the weights.
    pub bytes: u64,
    /// Hexadecimal; changes when the model does.
    pub digest: String,
    pub modified: Option<SystemTime>,
    /// Its figures under GGUF's keys.
    pub info: Map<String, Value>,
    /// Of chats, as the model brings it.
    pub template: String,
    pub capabilities: Vec<&'static str>,
    pub layers: Layers,
    /// An address that stands for where it came from; empty: nobody knows.
    pub source: String,
    /// Its `model.json`, of a model of Jan's.
    pub document: Option<Map<String, Value>>,
    /// It is known, and its files are not here.
    pub absent: bool,
    /// They are on their way.
    pub coming: bool,
}

impl Card {
    /// The card of a checkpoint; its name comes with the configuration.
    pub fn describe(files: &ModelFiles, spec: &ModelSpec, tensors: &dyn TensorSource) -> Self {
        let main = spec.tensors.layers.first().map(|layer| layer.down.as_str());
        let names: Vec<&str> = tensor_names(spec).collect();
        let sizes = [
            ("context_length", spec.max_positions),
            ("embedding_length", spec.hidden_size),
            ("block_count", spec.layers.len()),
            ("feed_forward_length", spec.intermediate_size),
            ("attention.head_count", spec.heads),
            ("attention.head_count_kv", spec.kv_heads),
            ("attention.key_length", spec.head_dim),
            ("vocab_size", spec.vocab_size),
        ];
        Self::of_tensors(files, tensors, (&spec.architecture, &names, main), &sizes)
    }

    /// The card of an encoder.
    pub fn of_encoder(files: &ModelFiles, spec: &EncoderSpec, tensors: &dyn TensorSource) -> Self {
        let main = spec.layers.first().and_then(|layer| layer.down.weights.first()).map(String::as_str);
        let names: Vec<&str> = spec.tensor_shapes().into_iter().map(|(name, _)| name).collect();
        let sizes = [
            ("context_length", spec.max_tokens),
            ("embedding_length", spec.hidden_size),
            ("block_count", spec.layers.len()),
            ("feed_forward_length", spec.intermediate_size),
            ("attention.head_count", spec.heads),
            ("attention.key_length", spec.head_dim),
            ("vocab_size", spec.vocab_size),
        ];
        Self::of_tensors(files, tensors, (&spec.architecture, &names, main), &sizes)
    }

    /// What the tensors `names` tell, of which `main` has the type of most.
    fn of_tensors(
        files: &ModelFiles,
        tensors: &dyn TensorSource,
        (architecture, names, main): (&str, &[&str], Option<&str>),
        sizes: &[(&str, usize)],
    ) -> Self {
        let family = family(files).unwrap_or_else(|| architecture.to_owned());
        let parameters = names
            .iter()
            .filter_map(|name| tensors.info(name).ok())
            .map(|(_, shape)| shape.iter().map(|size| *size as u64).product::<u64>())
            .sum();
        let quantization = main.and_then(|name| tensors.info(name).ok()).map(|(dtype, _)| dtype.to_string());
        Self {
            format: if files.gguf().is_some() { "gguf" } else { "safetensors" }.to_owned(),
            parameter_size: human_count(parameters),
            quantization: quantization.unwrap_or_default(),
            bytes: tensors.total_bytes(),
            modified: modified(files),
            info: info(&family, parameters, sizes),
            families: vec![family.clone()],
            family,
            ..Self::default()
        }
    }

    /// With its name and digest, unless it has them, and with what its chat template tells.
    pub fn named(self, id: &str, template: &str, forms: &ModelForms, fills_in: bool) -> Self {
        let known = !self.digest.is_empty();
        let capabilities = [
            (true, "completion"),
            (!template.is_empty(), "tools"),
            (fills_in, "insert"),
            (forms.reasoning.is_some(), "thinking"),
        ];
        let identity = format!("{id}\n{}\n{:?}\n{}", self.bytes, self.modified, self.info.len());
        let capabilities = capabilities.into_iter().filter(|(has, _)| *has).map(|(_, name)| name);
        let digest = || Sha256::digest(identity).iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            name: if known { self.name } else { shown_name(id) },
            digest: if known { self.digest } else { digest() },
            template: template.to_owned(),
            // An embedder has its own from the start.
            capabilities: if self.capabilities.is_empty() {
                capabilities.collect()
            } else {
                self.capabilities
            },
            ..self
        }
    }

    /// What is shown of a model that is not the store's; with `verbose`, long arrays, too.
    pub fn shown(&self, verbose: bool) -> Show {
        let long = |value: &Value| value.as_array().is_some_and(|list| list.len() > SHORT_ARRAY);
        let shown = |value: &Value| if !verbose && long(value) { Value::Null } else { value.clone() };
        Show {
            template: self.template.clone(),
            model_info: self.info.iter().map(|(key, value)| (key.clone(), shown(value))).collect(),
            capabilities: self.capabilities.clone(),
            ..Show::new(&tagged(&self.name), &ModelSettings::default())
        }
    }

    /// Whether this name, in any case, is the model's: a name without a tag is the latest.
    pub fn is_called(&self, name: &str) -> bool {
        tagged(name).eq_ignore_ascii_case(&tagged(&self.name))
    }
}

/// A name with its tag, `latest` where it has none.
pub(crate) fn tagged(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') { name.to_owned() } else { format!("{name}:latest") }
}

/// What a served model is called: its id, or, of a path, the last part without `.gguf`.
fn shown_name(id: &str) -> String {
    let path = id.starts_with(['/', '.', '~']);
    let shown = if path { id.trim_end_matches('/').rsplit('/').next().unwrap_or(id) } else { id };
    shown.strip_suffix(".gguf").unwrap_or(shown).to_owned()
}

/// As GGUF's `general.architecture` or as `model_type` has it.
fn family(files: &ModelFiles) -> Option<String> {
    if let Some(gguf) = files.gguf() {
        return gguf.metadata().text("general.architecture").ok().flatten().map(str::to_owned);
    }
    let config: Value = serde_json::from_slice(&files.read("config.json").ok().flatten()?).ok()?;
    Some(config.get("model_type")?.as_str()?.to_owned())
}

/// Of the file, or of the folder's configuration; the model in the binary has the binary's.
fn modified(files: &ModelFiles) -> Option<SystemTime> {
    let path = match (files.folder(), files.gguf()) {
        (Some(folder), _) => folder.join("config.json"),
        (None, Some(_)) => files.label().into(),
        (None, None) => std::env::current_exe().ok()?,
    };
    std::fs::metadata(path).ok()?.modified().ok()
}

fn tensor_names(spec: &ModelSpec) -> impl Iterator<Item = &str> {
    let names = &spec.tensors;
    let ends = [&names.embedding, &names.final_norm].into_iter().chain(&names.head);
    let layers = names.layers.iter().flat_map(|layer| {
        let single = [&layer.attn_norm, &layer.output, &layer.ffn_norm, &layer.down];
        let lists = [&layer.qkv, &layer.qkv_bias, &layer.gate_up, &layer.gate_up_bias];
        single
            .into_iter()
            .chain(lists.into_iter().flatten())
            .chain(&layer.output_bias)
            .chain(&layer.down_bias)
    });
    ends.chain(layers).map(String::as_str)
}

/// A number of parameters as Ollama shows it: `7B`, `7.2B`, `137M`, `136.73M`, `12K`.
fn human_count(count: u64) -> String {
    let scaled = |unit: u64, decimals: usize, suffix: &str| {
        if count.is_multiple_of(unit) {
            format!("{}{suffix}", count / unit)
        } else {
            format!("{:.decimals$}{suffix}", count as f64 / unit as f64)
        }
    };
    match count {
        1_000_000_000.. => scaled(1_000_000_000, 1, "B"),
        1_000_000.. => scaled(1_000_000, 2, "M"),
        1_000.. => format!("{}K", count / 1_000),
        _ => count.to_string(),
    }
}

/// Under the keys that a GGUF file has them.
fn info(family: &str, parameters: u64, sizes: &[(&str, usize)]) -> Map<String, Value> {
    let general = [
        ("general.architecture".to_owned(), json!(family)),
        ("general.parameter_count".to_owned(), json!(parameters)),
    ];
    let own = sizes.iter().map(|(key, size)| (format!("{family}.{key}"), json!(size)));
    general.into_iter().chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::ChatTemplate;

    fn called(id: &str) -> Card {
        let forms = ModelForms::of(&ChatTemplate::texts(), "");
        Card::default().named(id, "", &forms, false)
    }

    #[test]
    fn a_name_without_a_tag_is_the_latest() {
        assert_eq!(tagged("llama3"), "llama3:latest");
        assert_eq!(tagged("llama3:8b"), "llama3:8b");
        assert_eq!(tagged("localhost:5000/ns/m"), "localhost:5000/ns/m:latest");
    }

    #[test]
    fn a_model_answers_to_its_id_in_any_case_and_a_path_to_its_last_part() {
        for name in ["Org/Name", "org/name", "org/name:latest", "ORG/NAME:LATEST"] {
            assert!(called("Org/Name").is_called(name), "{name}");
        }
        for name in ["name", "org/name:7b", "org", "", "xorg/name"] {
            assert!(!called("Org/Name").is_called(name), "{name}");
        }
        assert!(called("/data/models/tiny.Q4_0.gguf").is_called("tiny.Q4_0"));
        assert!(called("./models/qwen/").is_called("qwen:latest"));
    }

    /// The examples of reference/dialects.md §1.7.
    #[test]
    fn parameter_counts_read_as_ollamas() {
        for (count, text) in [
            (7_000_000_000, "7B"),
            (7_241_732_096, "7.2B"),
            (137_000_000, "137M"),
            (136_727_040, "136.73M"),
            (12_345, "12K"),
            (999, "999"),
        ] {
            assert_eq!(human_count(count), text);
        }
    }

    #[test]
    fn long_arrays_are_shown_when_asked_for() {
        let all = json!({"short": [1, 2, 3, 4, 5], "long": [1, 2, 3, 4, 5, 6], "n": 1});
        let card = Card { info: all.as_object().unwrap().clone(), ..Card::default() };
        assert_eq!(card.shown(false).model_info["long"], Value::Null);
        assert_eq!(card.shown(false).model_info["short"], all["short"]);
        assert_eq!(card.shown(true).model_info, card.info);
    }

    #[test]
    fn capabilities_are_what_the_templates_tell() {
        assert_eq!(called("m").capabilities, ["completion"]);
        let text = "{{ '<think>' }}</think>{{ tools }}";
        let forms = ModelForms::of(&ChatTemplate::texts(), text);
        let all = Card::default().named("m", text, &forms, true);
        assert_eq!(all.capabilities, ["completion", "tools", "insert", "thinking"]);
    }
}
