//! From a checkpoint's files to a model that can be served. The only module that knows how models are loaded.

mod embedder;

use std::sync::Arc;

use tokenizers::Tokenizer;
use weirgate_engine::{
    CompileSettings, CudaDevice, CudaOptions, Device, Embedder, Executor, ExecutorError, KvType, LoadOptions,
    RopeRule, kv_block_bytes, kv_type, load_cpu, load_cpu_sharded, load_cuda,
};
use weirgate_models::{
    ModelError, ModelFiles, ModelSpec, QuantMethod, Quantized, Shard, TensorSource, open_tensors,
    open_tensors_in_one_thread, read_spec,
};
use weirgate_text::{TokenizerSettings, eos_tokens, read_tokenizer};
use weirgate_types::TokenId;

use crate::config::{EngineSettings, ModelLocation, Quantize, RopeOverride, RouterConfig};
use crate::device;
use crate::error::RouterError;
use crate::memory::{self, Place};
use crate::residency::Card;
use crate::service::{Beside, ChatTemplate, EmbedProfile};
use crate::sizing::{self, BLOCK_SIZE, DeviceKind, Measured, Sizing};
pub(crate) use embedder::beside;

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
    pub engine: LoadedEngine,
    pub sizing: Sizing,
    pub place: Place,
    /// That the KV cache may take there.
    pub pool_bytes: u64,
    pub card: Card,
}

/// What a model does.
pub(crate) enum LoadedEngine {
    /// It goes on from texts.
    Generator {
        executor: Box<dyn Executor>,
        rope: RopeRule,
        spec: Box<ModelSpec>,
        /// Makes vectors, too.
        vectors: Option<Beside>,
    },
    /// It makes vectors or scores of them.
    Embedder { embedder: Box<dyn Embedder>, profile: EmbedProfile },
}

impl LoadedEngine {
    /// See [`Executor::use_threads`].
    pub fn use_threads(&mut self, threads: usize) -> Result<(), ExecutorError> {
        match self {
            Self::Generator { executor, .. } => executor.use_threads(threads),
            Self::Embedder { embedder, .. } => embedder.use_threads(threads),
        }
    }
}

/// Loads the model that `config` names. The small files come first, so that what is wrong with them is said at once.
pub(crate) fn load(config: &RouterConfig) -> Result<Loaded, RouterError> {
    let files = match &config.model {
        ModelLocation::Embedded => ModelFiles::embedded(weirgate_demo_model::FILES),
        ModelLocation::Local(path) => ModelFiles::open(path)?,
    };
    check_stored(config, QuantMethod::of(&files)?)?;
    load_files(config, &files, Pace::Full)
}

/// What `--quantize` expects of the checkpoint must be so.
fn check_stored(config: &RouterConfig, found: Option<QuantMethod>) -> Result<(), RouterError> {
    if let Some(found) = found {
        tracing::info!("the checkpoint's weights are quantized by {}", found.name());
    }
    match (config.engine.quantize, found) {
        // One kernel reads both, here as in TGI, where `gptq` is what asks for it.
        (Some(Quantize::Stored(QuantMethod::Gptq)), Some(QuantMethod::Awq)) => Ok(()),
        (Some(Quantize::Stored(asked)), found) if found != Some(asked) => {
            Err(RouterError::Quantize { asked, found })
        }
        _ => Ok(()),
    }
}

/// How a load uses the processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// All that the engine will have.
    Full,
    /// The calling thread alone; the executor has to be given its threads afterwards.
    Quiet,
}

impl Pace {
    /// The weights of `files`.
    fn open(self, files: &ModelFiles) -> Result<Box<dyn TensorSource>, ModelError> {
        match self {
            Self::Full => open_tensors(files),
            Self::Quiet => open_tensors_in_one_thread(files),
        }
    }
}

/// Loads a checkpoint as `config` says.
pub(crate) fn load_files(
    config: &RouterConfig,
    files: &ModelFiles,
    pace: Pace,
) -> Result<Loaded, RouterError> {
    let num_shard = config.engine.num_shard;
    let one_shard = |what| if num_shard == 1 { Ok(()) } else { Err(RouterError::Shards { num_shard, what }) };
    if let Some(kind) = embedder::kind(files)? {
        one_shard("a model of embeddings")?;
        let device = device::choose(&config.engine)?;
        return embedder::load(config, files, &kind, (pace, &device));
    }
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
    let mut text = read_text_model(files, config)?;
    text.max_length = text.max_length.into_iter().chain(config.limits.max_context).min();
    let stored = pace.open(files)?;
    let quantized;
    let tensors: &dyn TensorSource = match config.engine.quantize {
        Some(Quantize::Convert(mix)) => {
            spec.check_tensors(stored.as_ref())?;
            let all = Quantized::new(&spec, stored.as_ref(), mix)?;
            quantized = if pace == Pace::Full { all } else { all.in_one_thread() };
            &quantized
        }
        Some(Quantize::Stored(_)) | None => stored.as_ref(),
    };
    let device = device::choose(&config.engine)?;
    let (executor, sizing) = match &device {
        Device::Cpu { .. } => on_cpu(config, &spec, tensors, &text, pace)?,
        Device::Cuda(first) => on_gpu(config, &device::of_shards(first, num_shard)?, &spec, tensors, &text)?,
    };
    let place = match device {
        Device::Cpu { .. } => Place::Host,
        Device::Cuda(_) => Place::Gpu,
    };
    let pool_bytes = (sizing.blocks as u64).saturating_mul(sizing.block_bytes as u64);
    let card = Card::describe(files, &spec, tensors);
    let engine =
        LoadedEngine::Generator { executor, rope: RopeRule::of(&spec), spec: Box::new(spec), vectors: None };
    Ok(Loaded { text, engine, sizing, place, pool_bytes, card })
}

/// Sizes come first: the weights will take what they take in the file.
fn on_cpu(
    config: &RouterConfig,
    spec: &ModelSpec,
    tensors: &dyn TensorSource,
    text: &TextModel,
    pace: Pace,
) -> Result<(Box<dyn Executor>, Sizing), RouterError> {
    if let Some(asked) = config.engine.kv_cache_dtype.filter(|asked| asked.takes_gpu()) {
        return Err(RouterError::KvCacheDtype(asked.name()));
    }
    let kv_dtype = kv_type(spec, tensors, asked_kv_type(config))?;
    let count = config.engine.num_shard;
    let bytes_of = |index| spec.shard(Shard { index, count }, tensors).map(|(_, own)| own.total_bytes());
    let weight_bytes: u64 = (0..count).map(bytes_of).sum::<Result<_, _>>()?;
    let free_bytes = memory::free_bytes().map(|free| free.saturating_sub(weight_bytes));
    let mut measured = measure(spec, kv_dtype, text, (DeviceKind::Cpu, free_bytes));
    measured.block_bytes *= sharing(spec, count);
    let sizing = Sizing::resolve(&config.limits, &config.engine, measured)?;
    tracing::info!("{}", sizing.table(kv_dtype.name()));
    let options = LoadOptions {
        threads: if pace == Pace::Full { sizing.threads } else { 1 },
        block_size: BLOCK_SIZE,
        blocks: sizing.blocks,
        max_step_tokens: sizing.max_step_tokens,
        max_seqs: sizing.max_seqs.min(sizing.max_step_tokens),
        max_seq_len: sizing.max_total_tokens,
        kv_dtype: Some(kv_dtype),
        commit_cache: pace == Pace::Full,
    };
    let executor = match count {
        1 => load_cpu(spec, tensors, &options)?,
        _ => load_cpu_sharded(spec, tensors, &options, count)?,
    };
    Ok((executor, sizing))
}

/// In as many parts as there are devices. Sizes come last: what is free for the KV cache is known once the weights are
/// there and the largest step was taken.
fn on_gpu(
    config: &RouterConfig,
    devices: &[CudaDevice],
    spec: &ModelSpec,
    tensors: &dyn TensorSource,
    text: &TextModel,
) -> Result<(Box<dyn Executor>, Sizing), RouterError> {
    let engine = &config.engine;
    let kv_dtype = kv_type(spec, tensors, asked_kv_type(config))?;
    let max_step_tokens = DeviceKind::Cuda.step_tokens(engine);
    let options = LoadOptions {
        threads: 1,
        block_size: BLOCK_SIZE,
        blocks: 0,
        max_step_tokens,
        max_seqs: sizing::max_seqs(engine).min(max_step_tokens),
        max_seq_len: config.limits.max_total_tokens.unwrap_or(model_tokens(spec, text)),
        kv_dtype: Some(kv_dtype),
        commit_cache: true,
    };
    let mut model = load_cuda(spec, tensors, &options, devices, &cuda_options(engine))?;
    tracing::info!("{}", model.description());
    // All have as many blocks, so the device with the least free memory counts for each.
    let count = devices.len();
    let free_bytes = model.free_bytes(engine.cuda_memory_fraction)?.saturating_mul(count as u64);
    let own = measure(spec, kv_dtype, text, (DeviceKind::Cuda, Some(free_bytes)));
    let block_bytes = own.block_bytes * sharing(spec, count);
    let measured = Measured { shared: config.library.is_some(), block_bytes, ..own };
    let sizing = Sizing::resolve(&config.limits, engine, measured)?;
    tracing::info!("{}", sizing.table(kv_dtype.name()));
    Ok((model.with_cache(sizing.blocks, sizing.max_total_tokens)?, sizing))
}

fn cuda_options(engine: &EngineSettings) -> CudaOptions {
    let cache = engine.kernel_cache.clone();
    CudaOptions {
        compile: CompileSettings { libraries: Vec::new(), cache, own_gemm: engine.own_gemm },
        deterministic: engine.deterministic,
        graphs: engine.cuda_graphs.clone(),
    }
}

/// How many of `count` shards have the same keys and values, where there are fewer heads of them than shards.
fn sharing(spec: &ModelSpec, count: usize) -> usize {
    (count / spec.kv_heads).max(1)
}

/// The longest sequence the checkpoint and its tokenizer allow.
fn model_tokens(spec: &ModelSpec, text: &TextModel) -> usize {
    text.max_length.map_or(spec.max_positions, |limit| limit.min(spec.max_positions))
}

fn measure(
    spec: &ModelSpec,
    kv_dtype: KvType,
    text: &TextModel,
    (device, free_bytes): (DeviceKind, Option<u64>),
) -> Measured {
    Measured {
        model_tokens: model_tokens(spec, text),
        block_bytes: kv_block_bytes(spec, kv_dtype, BLOCK_SIZE),
        free_bytes,
        shared: false,
        device,
        processors: std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// What `--kv-cache-dtype` asks for.
fn asked_kv_type(config: &RouterConfig) -> Option<KvType> {
    config.engine.kv_cache_dtype.map(KvType::from)
}

fn read_text_model(files: &ModelFiles, config: &RouterConfig) -> Result<TextModel, RouterError> {
    let tokenizer = read_tokenizer(files)?;
    let settings = TokenizerSettings::read(files, config.tokenizer_config_path.as_deref())?;
    let template = ChatTemplate::new(settings.templates(files)?, settings.special_tokens());
    if let Some(error) = template.broken() {
        tracing::warn!("the chat template does not compile, chat requests will fail: {error}");
    }
    let completion_template = settings.completion_template().map(|text| {
        ChatTemplate::new(vec![("default".to_owned(), text.to_owned())], settings.special_tokens())
    });
    let eos_tokens = eos_tokens(files, &settings, &tokenizer)?;
    Ok(TextModel {
        tokenizer: Arc::new(tokenizer),
        template,
        completion_template,
        eos_tokens,
        max_length: settings.max_length(),
    })
}
