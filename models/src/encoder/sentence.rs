//! The files with which sentence-transformers says how texts become vectors.

use std::collections::BTreeMap;

use serde_json::Value;

use super::spec::Pooling;
use crate::arch::base::MAX_POSITIONS;
use crate::config::Config;
use crate::files::file_error;
use crate::{GgufMetadata, ModelError, ModelFiles};

const MODULES: &str = "modules.json";
const PROMPTS: &str = "config_sentence_transformers.json";
/// Where the longest text is said, by the kind of model that was trained.
const LENGTHS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// How a model's texts become vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentenceConfig {
    pub pooling: Pooling,
    /// The longest text in tokens, special ones included; `None`: as long as the model allows.
    pub max_tokens: Option<usize>,
    /// Texts to put before others, by name.
    pub prompts: BTreeMap<String, String>,
    /// Which of them is put before where none is named.
    pub default_prompt: Option<String>,
}

impl SentenceConfig {
    fn plain(pooling: Pooling) -> Self {
        Self { pooling, max_tokens: None, prompts: BTreeMap::new(), default_prompt: None }
    }

    /// Reads `modules.json` and the files that it leads to, or a GGUF file's pooling; `None` where there is none.
    ///
    /// # Errors
    /// A malformed file, or a module or a pooling that is not supported; names the file and the key.
    pub fn read(files: &ModelFiles) -> Result<Option<Self>, ModelError> {
        if let Some(gguf) = files.gguf() {
            return Ok(gguf_pooling(gguf.metadata())?.map(Self::plain));
        }
        let Some(bytes) = files.read(MODULES)? else { return Ok(None) };
        let error = |message: String| file_error(files.label_of(MODULES), message);
        let modules: Vec<Value> = serde_json::from_slice(&bytes)
            .map_err(|reason| error(format!("is not a JSON list: {reason}")))?;
        let mut pooling = None;
        for module in &modules {
            let text = |key: &str| module.get(key).and_then(Value::as_str).unwrap_or_default();
            let kind = text("type");
            match kind.rsplit('.').next().unwrap_or(kind) {
                // Vectors are brought to length one, or not, as a request's interface has it.
                "Transformer" | "Normalize" => {}
                "Pooling" => pooling = Some(read_pooling(files, text("path"))?),
                other => return Err(error(format!("module '{other}' is not supported"))),
            }
        }
        let prompts = Config::read(files, PROMPTS)?;
        let (prompts, default_prompt) = match &prompts {
            Some(config) => read_prompts(config)?,
            None => (BTreeMap::new(), None),
        };
        Ok(Some(Self {
            pooling: pooling.ok_or_else(|| error("names no Pooling".to_owned()))?,
            max_tokens: read_max_tokens(files)?,
            prompts,
            default_prompt,
        }))
    }
}

/// `<architecture>.pooling_type`, by llama.cpp's numbers. 0 is none, and 4 a reranker's head, which is not read.
fn gguf_pooling(metadata: &GgufMetadata) -> Result<Option<Pooling>, ModelError> {
    let Some(architecture) = metadata.text("general.architecture")? else { return Ok(None) };
    let key = format!("{architecture}.pooling_type");
    match metadata.size(&key)? {
        None | Some(0 | 4) => Ok(None),
        Some(1) => Ok(Some(Pooling::Mean)),
        Some(2) => Ok(Some(Pooling::Cls)),
        Some(3) => Ok(Some(Pooling::Last)),
        Some(other) => {
            Err(metadata.wrong(&key, &format!("is {other}; 1 (mean), 2 (first) and 3 (last) are supported")))
        }
    }
}

/// `<path>/config.json`: one mode by its name, or one of several flags.
fn read_pooling(files: &ModelFiles, path: &str) -> Result<Pooling, ModelError> {
    const FLAG: &str = "pooling_mode_";
    let folder = files.folder().filter(|_| is_folder_name(path)).map(|folder| folder.join(path));
    let Some(folder) = folder else {
        return Err(file_error(files.label_of(MODULES), format!("'{path}' is no folder of the checkpoint")));
    };
    let own = ModelFiles::open(&folder)?;
    let Some(config) = Config::read(&own, "config.json")? else {
        return Err(file_error(own.label_of("config.json"), "is missing"));
    };
    if !config.flag("include_prompt", true)? {
        return Err(config.error("include_prompt", "is false, which is not supported"));
    }
    let mut modes: Vec<&str> = match config.value("pooling_mode") {
        Some(Value::String(mode)) => vec![mode.as_str()],
        Some(_) => config.optional_texts("pooling_mode")?.unwrap_or_default(),
        None => Vec::new(),
    };
    if modes.is_empty() {
        for key in config.keys().filter(|key| key.starts_with(FLAG)) {
            if config.flag(key, false)? {
                modes.push(
                    key.trim_start_matches(FLAG).trim_end_matches("_tokens").trim_end_matches("_token"),
                );
            }
        }
    }
    match modes.as_slice() {
        [] | ["mean"] => Ok(Pooling::Mean),
        ["cls"] => Ok(Pooling::Cls),
        ["lasttoken"] => Ok(Pooling::Last),
        ["max"] => Ok(Pooling::Max),
        other => {
            let message =
                format!("'{}' is not supported; mean, cls, lasttoken and max are", other.join(", "));
            Err(config.error("pooling_mode", message))
        }
    }
}

/// One plain name, so that it cannot lead out of the checkpoint.
fn is_folder_name(path: &str) -> bool {
    !matches!(path, "" | "." | "..") && !path.contains(['/', '\\', '\0', ':'])
}

fn read_prompts(config: &Config) -> Result<(BTreeMap<String, String>, Option<String>), ModelError> {
    let mut prompts = BTreeMap::new();
    if let Some(named) = config.object("prompts")? {
        for name in named.keys() {
            prompts.insert(name.to_owned(), named.text(name)?.to_owned());
        }
    }
    let default = config.optional_text("default_prompt_name")?;
    if let Some(name) = default
        && !prompts.contains_key(name)
    {
        return Err(config.error("default_prompt_name", format!("'{name}' is none of the prompts")));
    }
    Ok((prompts, default.map(str::to_owned)))
}

fn read_max_tokens(files: &ModelFiles) -> Result<Option<usize>, ModelError> {
    for name in LENGTHS {
        if let Some(config) = Config::read(files, name)? {
            return config.optional_size("max_seq_length", MAX_POSITIONS);
        }
    }
    Ok(None)
}
