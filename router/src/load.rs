//! From a checkpoint's files to a model that can be served. The only module that knows how models are loaded.

use std::sync::Arc;

use serde_json::Value;
use tokenizers::Tokenizer;
use weirgate_engine::{
    CompileSettings, CudaDevice, Device, Executor, LoadOptions, RopeRule, kv_block_bytes, load_cpu, load_cuda,
};
use weirgate_models::{
    GenerationConfig, ModelFiles, ModelSpec, Quantized, TensorSource, open_tensors, read_spec,
};
use weirgate_types::TokenId;

use crate::config::{ModelLocation, RopeOverride, RouterConfig};
use crate::device;
use crate::error::RouterError;
use crate::memory;
use crate::residency::Card;
use crate::service::ChatTemplate;
use crate::sizing::{self, BLOCK_SIZE, DeviceKind, Measured, Sizing};

/// A tokenizer that says its limit is this or more says it has none (transformers writes 1e30).
const NO_LIMIT: f64 = 1e9;
/// Special tokens a template may name, as transformers passes them.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The text side of a model.
pub(crate) struct TextModel {
    pub tokenizer: Arc<Tokenizer>,
    pub template: ChatTemplate,
    /// How the model is asked for the text between two others.
    pub completion_template: Option<ChatTemplate>,
    pub eos_tokens: Vec<TokenId>,
    /// The tokenizer's `model_max_length`, if it has one.
    pub max_length: Option<usize>,
}

/// A loaded model.
pub(crate) struct Loaded {
    pub text: TextModel,
    pub executor: Box<dyn Executor>,
    pub rope: RopeRule,
    pub sizing: Sizing,
    /// Of this machine's memory that the KV cache may take.
    pub pool_bytes: u64,
    pub card: Card,
    pub spec: ModelSpec,
}

/// Loads the model that `config` names. The small files come first, so that what is wrong with them is said at once.
pub(crate) fn load(config: &RouterConfig) -> Result<Loaded, RouterError> {
    let files = match &config.model {
        ModelLocation::Embedded => ModelFiles::embedded(weirgate_demo_model::FILES),
        ModelLocation::Local(path) => ModelFiles::open(path)?,
    };
    load_files(config, &files, Pace::Full)
}

/// How a load uses the processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// All that the engine will have.
    Full,
    /// The calling thread alone; the executor has to be given its threads afterwards.
    Quiet,
}

/// Loads a checkpoint as `config` says.
pub(crate) fn load_files(
    config: &RouterConfig,
    files: &ModelFiles,
    pace: Pace,
) -> Result<Loaded, RouterError> {
    let mut spec = read_spec(files)?;
    match config.engine.rope_scaling {
        Some(RopeOverride::Linear { factor }) => {
            spec.override_rope(weirgate_models::RopeOverride::Linear, factor)?
        }
        Some(RopeOverride::Dynamic { factor }) => {
            spec.override_rope(weirgate_models::RopeOverride::Dynamic, factor)?
        }
        None => {}
    }
    let text = read_text_model(files, config)?;
    let stored = open_tensors(files)?;
    let quantized;
    let tensors: &dyn TensorSource = match config.engine.quantize {
        Some(mix) => {
            spec.check_tensors(stored.as_ref())?;
            quantized = Quantized::new(&spec, stored.as_ref(), mix)?;
            &quantized
        }
        None => stored.as_ref(),
    };
    let device = device::choose(&config.engine)?;
    let (executor, sizing) = match &device {
        Device::Cpu { .. } => on_cpu(config, &spec, tensors, &text, pace)?,
        Device::Cuda(device) => on_gpu(config, device, &spec, tensors, &text)?,
    };
    let pool_bytes = match device {
        Device::Cpu { .. } => (sizing.blocks as u64).saturating_mul(sizing.block_bytes as u64),
        Device::Cuda(_) => 0,
    };
    let card = Card::describe(files, &spec, tensors);
    Ok(Loaded { text, executor, rope: RopeRule::of(&spec), sizing, pool_bytes, card, spec })
}

/// Sizes come first: the weights will take what they take in the file.
fn on_cpu(
    config: &RouterConfig,
    spec: &ModelSpec,
    tensors: &dyn TensorSource,
    text: &TextModel,
    pace: Pace,
) -> Result<(Box<dyn Executor>, Sizing), RouterError> {
    let free_bytes = memory::free_bytes().map(|free| free.saturating_sub(tensors.total_bytes()));
    let measured = measure(spec, tensors, text, (DeviceKind::Cpu, free_bytes))?;
    let sizing = Sizing::resolve(&config.limits, &config.engine, measured)?;
    tracing::info!("{}", sizing.table(kv_dtype(spec, tensors)?));
    let options = LoadOptions {
        threads: if pace == Pace::Full { sizing.threads } else { 1 },
        block_size: BLOCK_SIZE,
        blocks: sizing.blocks,
        max_step_tokens: sizing.max_step_tokens,
        max_seqs: sizing.max_seqs.min(sizing.max_step_tokens),
        max_seq_len: sizing.max_total_tokens,
        kv_dtype: None,
    };
    Ok((load_cpu(spec, tensors, &options)?, sizing))
}

/// Sizes come last: what is free for the KV cache is known once the weights are there and the largest step was taken.
fn on_gpu(
    config: &RouterConfig,
    device: &CudaDevice,
    spec: &ModelSpec,
    tensors: &dyn TensorSource,
    text: &TextModel,
) -> Result<(Box<dyn Executor>, Sizing), RouterError> {
    let engine = &config.engine;
    let max_step_tokens = DeviceKind::Cuda.step_tokens(engine);
    let options = LoadOptions {
        threads: 1,
        block_size: BLOCK_SIZE,
        blocks: 0,
        max_step_tokens,
        max_seqs: sizing::max_seqs(engine).min(max_step_tokens),
        max_seq_len: config.limits.max_total_tokens.unwrap_or(model_tokens(spec, text)),
        kv_dtype: None,
    };
    let compile = CompileSettings { libraries: Vec::new(), cache: engine.kernel_cache.clone() };
    let model = load_cuda(spec, tensors, &options, device, &compile)?;
    tracing::info!("{}", model.description());
    let free_bytes = model.free_bytes(engine.cuda_memory_fraction)?;
    let measured = measure(spec, tensors, text, (DeviceKind::Cuda, Some(free_bytes)))?;
    let sizing = Sizing::resolve(&config.limits, engine, measured)?;
    tracing::info!("{}", sizing.table(kv_dtype(spec, tensors)?));
    Ok((model.with_cache(sizing.blocks, sizing.max_total_tokens)?, sizing))
}

/// The longest sequence the checkpoint and its tokenizer allow.
fn model_tokens(spec: &ModelSpec, text: &TextModel) -> usize {
    text.max_length.map_or(spec.max_positions, |limit| limit.min(spec.max_positions))
}

fn measure(
    spec: &ModelSpec,
    tensors: &dyn TensorSource,
    text: &TextModel,
    (device, free_bytes): (DeviceKind, Option<u64>),
) -> Result<Measured, RouterError> {
    Ok(Measured {
        model_tokens: model_tokens(spec, text),
        block_bytes: kv_block_bytes(spec, tensors, BLOCK_SIZE)?,
        free_bytes,
        device,
        processors: std::thread::available_parallelism().map_or(1, usize::from),
    })
}

/// What the KV cache is stored as, for the table.
fn kv_dtype(spec: &ModelSpec, tensors: &dyn TensorSource) -> Result<&'static str, RouterError> {
    let elements = 2 * spec.layers.len() * spec.kv_heads * spec.head_dim;
    Ok(if kv_block_bytes(spec, tensors, 1)? == elements * 4 { "f32" } else { "f16" })
}

fn read_text_model(files: &ModelFiles, config: &RouterConfig) -> Result<TextModel, RouterError> {
    let tokenizer = read_tokenizer(files)?;
    let settings = TokenizerSettings::read(files, config)?;
    let template = ChatTemplate::new(settings.templates(files)?, settings.special_tokens());
    if let Some(error) = template.broken() {
        tracing::warn!("the chat template does not compile, chat requests will fail: {error}");
    }
    let completion_template = settings.own.get("completion_template").and_then(Value::as_str).map(|text| {
        ChatTemplate::new(vec![("default".to_owned(), text.to_owned())], settings.special_tokens())
    });
    let mut eos_tokens = GenerationConfig::read(files)?.eos_token_ids;
    if eos_tokens.is_empty() {
        eos_tokens.extend(settings.token("eos_token").and_then(|token| tokenizer.token_to_id(&token)));
    }
    let max_length =
        settings.own.get("model_max_length").and_then(Value::as_f64).filter(|n| *n >= 1.0 && *n < NO_LIMIT);
    Ok(TextModel {
        tokenizer: Arc::new(tokenizer),
        template,
        completion_template,
        eos_tokens,
        max_length: max_length.map(|n| n as usize),
    })
}

fn read_tokenizer(files: &ModelFiles) -> Result<Tokenizer, RouterError> {
    const NAME: &str = "tokenizer.json";
    let error =
        |message: String| RouterError::File { file: format!("{} of {}", NAME, files.label()), message };
    let bytes = files
        .read(NAME)?
        .ok_or_else(|| error("is missing; only fast tokenizers are supported".to_owned()))?;
    let mut tokenizer =
        Tokenizer::from_bytes(&*bytes).map_err(|reason| error(format!("is malformed: {reason}")))?;
    // What is stored with the file is for training; the limits here are the server's.
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|reason| error(reason.to_string()))?;
    Ok(tokenizer)
}

/// `tokenizer_config.json`, or the file given in its place.
struct TokenizerSettings {
    own: Value,
    /// Given by the operator: its template goes before the model's other sources.
    replaced: bool,
}

impl TokenizerSettings {
    fn read(files: &ModelFiles, config: &RouterConfig) -> Result<Self, RouterError> {
        if let Some(path) = &config.tokenizer_config_path {
            let file = path.display().to_string();
            let text = std::fs::read(path)
                .map_err(|error| RouterError::File { file: file.clone(), message: error.to_string() })?;
            return Ok(Self { own: parse(&text, file)?, replaced: true });
        }
        Ok(Self { own: read_json(files, "tokenizer_config.json")?.unwrap_or(Value::Null), replaced: false })
    }

    /// A special token: a string, or an object with its `content`.
    fn token(&self, name: &str) -> Option<String> {
        let value = self.own.get(name)?;
        value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
    }

    fn special_tokens(&self) -> Vec<(String, String)> {
        SPECIAL_TOKENS.iter().filter_map(|name| Some(((*name).to_owned(), self.token(name)?))).collect()
    }

    /// The model's templates: `chat_template.jinja` with its folder of others, else `chat_template.json`, else these
    /// settings, else `processor_config.json`.
    fn templates(&self, files: &ModelFiles) -> Result<Vec<(String, String)>, RouterError> {
        let own = named_templates(self.own.get("chat_template"));
        if self.replaced && !own.is_empty() {
            return Ok(own);
        }
        let mut templates = additional_templates(files)?;
        if let Some(bytes) = files.read("chat_template.jinja")? {
            templates.insert(0, ("default".to_owned(), String::from_utf8_lossy(&bytes).into_owned()));
        }
        if !templates.is_empty() {
            return Ok(templates);
        }
        let of_file = |name: &str| -> Result<_, RouterError> {
            Ok(named_templates(read_json(files, name)?.unwrap_or(Value::Null).get("chat_template")))
        };
        let templates = of_file("chat_template.json")?;
        match (templates.is_empty(), own.is_empty()) {
            (false, _) => Ok(templates),
            (true, false) => Ok(own),
            (true, true) => of_file("processor_config.json"),
        }
    }
}

/// The folder in which transformers keeps a model's templates other than the default one, each named as its file.
fn additional_templates(files: &ModelFiles) -> Result<Vec<(String, String)>, RouterError> {
    const FOLDER: &str = "additional_chat_templates";
    let Some(folder) = files.folder().map(|folder| folder.join(FOLDER)).filter(|folder| folder.is_dir())
    else {
        return Ok(Vec::new());
    };
    let others = ModelFiles::open(&folder)?;
    let mut names: Vec<String> = std::fs::read_dir(&folder)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".jinja"))
        .collect();
    names.sort_unstable();
    let mut templates = Vec::new();
    for name in names {
        if let Some(bytes) = others.read(&name)? {
            templates.push((
                name.trim_end_matches(".jinja").to_owned(),
                String::from_utf8_lossy(&bytes).into_owned(),
            ));
        }
    }
    Ok(templates)
}

/// One template, or a list of `{"name", "template"}`.
fn named_templates(value: Option<&Value>) -> Vec<(String, String)> {
    match value {
        Some(Value::String(text)) => vec![("default".to_owned(), text.clone())],
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(|entry| {
                let text = |key: &str| entry.get(key)?.as_str().map(str::to_owned);
                Some((text("name")?, text("template")?))
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn read_json(files: &ModelFiles, name: &str) -> Result<Option<Value>, RouterError> {
    match files.read(name)? {
        Some(bytes) => Ok(Some(parse(&bytes, format!("{name} of {}", files.label()))?)),
        None => Ok(None),
    }
}

fn parse(text: &[u8], file: String) -> Result<Value, RouterError> {
    serde_json::from_slice(text)
        .map_err(|error| RouterError::File { file, message: format!("is not JSON: {error}") })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_come_as_a_string_or_a_named_list() {
        let named = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(named_templates(Some(&json!("x"))), [named("default", "x")]);
        let list = json!([{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}, {"name": "c"}]);
        assert_eq!(named_templates(Some(&list)), [named("default", "a"), named("tool_use", "b")]);
        assert!(named_templates(None).is_empty());
    }

    #[test]
    fn special_tokens_are_strings_or_objects() {
        let own =
            json!({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null});
        let settings = TokenizerSettings { own, replaced: false };
        assert_eq!(
            settings.special_tokens(),
            [("bos_token".to_owned(), "<s>".to_owned()), ("eos_token".to_owned(), "</s>".to_owned())]
        );
    }

    #[test]
    fn the_jinja_file_wins_over_json_and_settings() {
        let own = json!({"chat_template": "settings"});
        let settings = TokenizerSettings { own: own.clone(), replaced: false };
        let text = |settings: &TokenizerSettings, files: &ModelFiles| {
            settings.templates(files).unwrap()[0].1.clone()
        };
        let all = ModelFiles::embedded(&[
            ("chat_template.jinja", b"jinja"),
            ("chat_template.json", br#"{"chat_template": "json"}"#),
        ]);
        let json_only = ModelFiles::embedded(&[("chat_template.json", br#"{"chat_template": "json"}"#)]);
        assert_eq!(text(&settings, &all), "jinja");
        assert_eq!(text(&settings, &json_only), "json");
        assert_eq!(text(&settings, &ModelFiles::embedded(&[])), "settings");
        let nothing = TokenizerSettings { own: Value::Null, replaced: false };
        let processor =
            ModelFiles::embedded(&[("processor_config.json", br#"{"chat_template": "processor"}"#)]);
        assert_eq!(text(&nothing, &processor), "processor");
        assert_eq!(text(&TokenizerSettings { own: own.clone(), replaced: false }, &processor), "settings");
        assert_eq!(text(&TokenizerSettings { own, replaced: true }, &all), "settings");
    }

    #[test]
    fn other_templates_lie_in_a_folder_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| std::fs::write(folder.path().join(name), name).unwrap();
        std::fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
        for name in [
            "chat_template.jinja",
            "additional_chat_templates/tool_use.jinja",
            "additional_chat_templates/rag.jinja",
        ] {
            write(name);
        }
        write("additional_chat_templates/notes.txt");
        let settings = TokenizerSettings { own: json!({"chat_template": "settings"}), replaced: false };
        let found = settings.templates(&ModelFiles::open(folder.path()).unwrap()).unwrap();
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["default", "rag", "tool_use"]);
        assert_eq!(found[2].1, "additional_chat_templates/tool_use.jinja");
    }
}
