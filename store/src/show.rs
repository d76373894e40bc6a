//! All there is to say about one model.

use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Map, Value, json};
use weirgate_models::{GgufTensorType, ModelFiles, read_spec};

use crate::entry::{Details, Entry, Message, ModelSettings, Parameters};
use crate::modelfile::Command;
use crate::template::Template;
use crate::{Store, StoreError};

/// Columns that an option's name takes in the text of all options.
const NAME_COLUMNS: usize = 30;
/// What ends the reasoning of models that reason, by their chat templates.
const REASONING_ENDS: [&str; 2] = ["</think>", "<|END_THINKING|>"];
/// Longer arrays of a file's metadata are shown as null, unless all is asked for.
pub const SHORT_ARRAY: usize = 5;

/// What Ollama's `/api/show` answers.
#[derive(Debug, Clone)]
pub struct Show {
    pub license: String,
    /// A Modelfile that makes the same model.
    pub modelfile: String,
    /// One option a line.
    pub parameters: String,
    /// The Go template; the checkpoint's own chat template where there is none.
    pub template: String,
    pub system: String,
    pub messages: Vec<Message>,
    pub details: Details,
    /// The checkpoint's metadata, by GGUF's names.
    pub model_info: Map<String, Value>,
    /// Of the image encoder.
    pub projector_info: Map<String, Value>,
    /// Empty unless all is asked for.
    pub tensors: Vec<TensorInfo>,
    /// Of `completion`, `embedding`, `tools`, `insert`, `thinking`, `vision`.
    pub capabilities: Vec<&'static str>,
    pub modified: SystemTime,
}

/// A tensor of a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorInfo {
    pub name: String,
    #[serde(rename = "type")]
    pub dtype: String,
    /// Rows before columns.
    pub shape: Vec<usize>,
}

impl Store {
    /// What is known of `entry`; with `verbose`, long arrays and tensors too.
    ///
    /// # Errors
    /// A layer that is missing or malformed. A checkpoint that cannot be read shows nothing, and is no error.
    pub fn show(&self, entry: &Entry, verbose: bool) -> Result<Show, StoreError> {
        let settings = self.settings(entry)?;
        let files = entry.location.open().ok();
        let longest = if verbose { usize::MAX } else { SHORT_ARRAY };
        let own_template = files.as_ref().and_then(chat_template);
        let projector = settings.projectors.first().and_then(|path| weirgate_models::Gguf::open(path).ok());
        Ok(Show {
            capabilities: match self.is_embedder(entry) || files.as_ref().is_some_and(is_pooled) {
                true => vec!["embedding"],
                false => capabilities(&settings, files.as_ref(), own_template.as_deref()),
            },
            template: settings.template.clone().or(own_template).unwrap_or_default(),
            details: entry.details.clone(),
            model_info: files.as_ref().map(|files| model_info(files, longest)).unwrap_or_default(),
            projector_info: projector.map(|gguf| gguf.metadata().to_json(longest)).unwrap_or_default(),
            tensors: if verbose { files.as_ref().map(tensors).unwrap_or_default() } else { Vec::new() },
            modified: entry.modified,
            ..Show::new(&entry.name, &settings)
        })
    }
}

impl Show {
    /// What the settings of the model `name` tell; nothing of its weights.
    pub fn new(name: &str, settings: &ModelSettings) -> Self {
        Self {
            license: settings.licenses.join("\n"),
            modelfile: modelfile(name, settings),
            parameters: parameter_lines(&settings.parameters),
            template: settings.template.clone().unwrap_or_default(),
            system: settings.system.clone().unwrap_or_default(),
            messages: settings.messages.clone(),
            details: Details::default(),
            model_info: Map::new(),
            projector_info: Map::new(),
            tensors: Vec::new(),
            capabilities: Vec::new(),
            modified: SystemTime::UNIX_EPOCH,
        }
    }
}

/// The name stands for the weights: paths of this machine are nobody's business.
fn modelfile(name: &str, settings: &ModelSettings) -> String {
    let mut commands = vec![Command::From(name.to_owned())];
    commands.extend(settings.template.clone().map(Command::Template));
    commands.extend(settings.system.clone().map(Command::System));
    for (name, value) in pairs(&settings.parameters) {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        commands.push(Command::Parameter(name.to_owned(), text));
    }
    commands.extend(settings.licenses.iter().cloned().map(Command::License));
    commands.extend(settings.messages.iter().cloned().map(Command::Message));
    // What cannot be said is said to be missing; the answer's other fields have it.
    let line = |command: &Command| command.line().unwrap_or_else(|error| format!("# {error}"));
    let lines: Vec<String> = commands.iter().map(line).collect();
    format!("# To build a model on this one, replace FROM by another model's name.\n\n{}\n", lines.join("\n"))
}

/// Options by name; of several texts, each.
fn pairs(parameters: &Parameters) -> Vec<(&str, &Value)> {
    let mut pairs: Vec<(&str, &Value)> = parameters
        .iter()
        .flat_map(|(name, value)| match value {
            Value::Array(values) => values.iter().map(|value| (name.as_str(), value)).collect(),
            value => vec![(name.as_str(), value)],
        })
        .collect();
    pairs.sort_by_key(|(name, _)| *name);
    pairs
}

fn parameter_lines(parameters: &Parameters) -> String {
    let line = |(name, value): (&str, &Value)| format!("{name:<NAME_COLUMNS$} {value}");
    let lines: Vec<String> = pairs(parameters).into_iter().map(line).collect();
    lines.join("\n")
}

/// The checkpoint's own Jinja template.
fn chat_template(files: &ModelFiles) -> Option<String> {
    let read = |name: &str| files.read(name).ok().flatten();
    if let Some(bytes) = read("chat_template.jinja") {
        return String::from_utf8(bytes.to_vec()).ok();
    }
    tokenizer_config(files)?.get("chat_template")?.as_str().map(str::to_owned)
}

/// Whether the checkpoint says how it is asked for the text between two others.
fn has_completion_template(files: &ModelFiles) -> bool {
    tokenizer_config(files)
        .is_some_and(|config| config.get("completion_template").is_some_and(Value::is_string))
}

fn tokenizer_config(files: &ModelFiles) -> Option<Value> {
    serde_json::from_slice(&files.read("tokenizer_config.json").ok().flatten()?).ok()
}

/// GGUF files of encoders are none that are served, and say what they are all the same.
fn is_pooled(files: &ModelFiles) -> bool {
    files.gguf().is_some_and(|gguf| gguf.metadata().keys().any(|key| key.ends_with(".pooling_type")))
}

/// Of a model that goes on from texts.
fn capabilities(
    settings: &ModelSettings,
    files: Option<&ModelFiles>,
    own_template: Option<&str>,
) -> Vec<&'static str> {
    let go = settings.template.as_deref().filter(|text| !text.is_empty());
    let template = go.and_then(|text| Template::parse(text).ok());
    let asks = |field: &str| template.as_ref().is_some_and(|template| template.mentions(field));
    // It is the weights that reason, whatever template is used.
    let mut texts = go.into_iter().chain(own_template);
    let reasons = texts.any(|text| REASONING_ENDS.iter().any(|mark| text.contains(mark)));
    let mut all = vec!["completion"];
    let vision = !settings.projectors.is_empty();
    for (has, name) in [
        (settings.load.embedding == Some(true), "embedding"),
        (vision, "vision"),
        (asks("Tools") || (go.is_none() && own_template.is_some_and(|text| text.contains("tools"))), "tools"),
        (asks("Suffix") || files.is_some_and(has_completion_template), "insert"),
        (asks("Thinking") || asks("Think") || reasons, "thinking"),
    ] {
        if has {
            all.push(name);
        }
    }
    all
}

/// A GGUF file's metadata; of a folder, the sizes by the same names.
fn model_info(files: &ModelFiles, longest: usize) -> Map<String, Value> {
    if let Some(gguf) = files.gguf() {
        let mut info = gguf.metadata().to_json(longest);
        let elements = gguf.files().iter().flat_map(|file| file.tensors());
        let count = elements.fold(0u64, |sum, tensor| {
            let product =
                tensor.shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size as u64));
            sum.saturating_add(product.unwrap_or(0))
        });
        info.insert("general.parameter_count".to_owned(), json!(count));
        return info;
    }
    let Ok(spec) = read_spec(files) else { return Map::new() };
    let model_type = files.read("config.json").ok().flatten();
    let config: Value = model_type.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let architecture = config.get("model_type").and_then(Value::as_str).unwrap_or("unknown");
    let mut info = Map::from_iter([("general.architecture".to_owned(), json!(architecture))]);
    for (key, size) in [
        ("context_length", spec.max_positions),
        ("embedding_length", spec.hidden_size),
        ("block_count", spec.layers.len()),
        ("feed_forward_length", spec.intermediate_size),
        ("attention.head_count", spec.heads),
        ("attention.head_count_kv", spec.kv_heads),
        ("vocab_size", spec.vocab_size),
    ] {
        info.insert(format!("{architecture}.{key}"), json!(size));
    }
    info
}

fn tensors(files: &ModelFiles) -> Vec<TensorInfo> {
    let Some(gguf) = files.gguf() else { return Vec::new() };
    let of = |tensor: &weirgate_models::GgufTensor| TensorInfo {
        name: tensor.name.clone(),
        dtype: match tensor.dtype {
            GgufTensorType::Known(dtype) => dtype.name().to_owned(),
            GgufTensorType::Other(id) => format!("type {id}"),
        },
        shape: tensor.shape.clone(),
    };
    gguf.files().iter().flat_map(|file| file.tensors()).map(of).collect()
}
