//! Loading what makes vectors of texts: encoders, cross-encoders, and decoders that were trained to, or that are to beside
//! going on from texts; these alone are computed on the CPU, wherever the texts are.

use std::sync::Arc;

use weirgate_engine::{Device, EmbedModel, EmbedOptions, Embedder, load_cpu_embedder, load_cuda_embedder};
use weirgate_models::{ModelFiles, Pooling, SentenceConfig, is_encoder, read_encoder, read_headless};
use weirgate_text::TextError;

use super::{Loaded, LoadedEngine, Pace, cuda_options, read_text_model};
use crate::config::RouterConfig;
use crate::error::RouterError;
use crate::memory::Place;
use crate::residency::Card;
use crate::service::{Beside, EmbedProfile, Failure, Scores, ServiceError, Unstarted};
use crate::sizing::{DeviceKind, Sizing};

/// Tokens in a step: enough for the products to run at full speed, and a short query waits for no more than that.
const STEP_TOKENS: usize = 512;
const CUDA_STEP_TOKENS: usize = 8192;
/// Texts in a step.
const STEP_TEXTS: usize = 128;
/// The longest text of a decoder that says nothing of it: longer ones take a CPU minutes.
const DECODER_TOKENS: usize = 8192;

/// What kind of embedder a checkpoint is.
pub(super) enum Kind {
    Encoder,
    /// It generates text, too, but comes with a pooling.
    Decoder,
}

/// The kind of a checkpoint, if it is an embedder.
///
/// # Errors
/// A malformed file.
pub(super) fn kind(files: &ModelFiles) -> Result<Option<Kind>, RouterError> {
    if is_encoder(files)? {
        return Ok(Some(Kind::Encoder));
    }
    Ok(SentenceConfig::read(files)?.map(|_| Kind::Decoder))
}

pub(super) fn load(
    config: &RouterConfig,
    files: &ModelFiles,
    kind: &Kind,
    (pace, device): (Pace, &Device),
) -> Result<Loaded, RouterError> {
    let (place, name) = match device {
        Device::Cpu { .. } => (Place::Host, "the CPU".to_owned()),
        Device::Cuda(found) => (Place::Gpu, format!("{} (cuda:{})", found.name, found.ordinal)),
    };
    let text = read_text_model(files, config)?;
    let sentence = SentenceConfig::read(files)?;
    let tensors = pace.open(files)?;
    let allowed = sentence.as_ref().and_then(|sentence| sentence.max_tokens).or(text.max_length);
    let allowed = config.limits.max_input_tokens.or(allowed);
    let allowed = allowed.into_iter().chain(config.limits.max_context).min().unwrap_or(usize::MAX);
    let pooling = sentence.as_ref().map(|sentence| sentence.pooling);
    let embedder = |model, pooling, most| {
        let options = options(config, (pace, place), pooling, most);
        match device {
            Device::Cpu { .. } => load_cpu_embedder(model, tensors.as_ref(), &options),
            Device::Cuda(device) => {
                load_cuda_embedder(model, tensors.as_ref(), &options, device, &cuda_options(&config.engine))
            }
        }
    };
    let (embedder, card, scores): (Box<dyn Embedder>, Card, Option<Scores>) = match kind {
        Kind::Encoder => {
            let spec = read_encoder(files, tensors.as_ref())?;
            let scores = match &spec.classifier {
                Some(classifier) if classifier.labels == 1 => Some(Scores { sigmoid: classifier.sigmoid }),
                Some(classifier) => {
                    let message = format!("has {} labels; a cross-encoder has one", classifier.labels);
                    let file = format!("config.json of {}", files.label());
                    return Err(TextError::File { file, message }.into());
                }
                None => None,
            };
            let card = Card::of_encoder(files, &spec, tensors.as_ref());
            let (pooling, most) = (pooling.unwrap_or(Pooling::Mean), allowed.min(spec.max_tokens));
            (embedder(EmbedModel::Encoder(&spec), pooling, most)?, card, scores)
        }
        Kind::Decoder => {
            let spec = read_headless(files, tensors.as_ref())?;
            let card = Card::describe(files, &spec, tensors.as_ref());
            let most = allowed.min(spec.max_positions).min(DECODER_TOKENS);
            (embedder(EmbedModel::Decoder(&spec), pooling.unwrap_or(Pooling::Last), most)?, card, None)
        }
    };
    let card = Card { capabilities: vec!["embedding"], ..card };
    let sizing = sizing(config, embedder.as_ref(), place);
    tracing::info!(
        max_input_tokens = sizing.max_input_tokens,
        step_tokens = sizing.max_step_tokens,
        threads = sizing.threads,
        "an embedder, on {name}"
    );
    let (prompts, default_prompt) = match sentence {
        Some(sentence) => (sentence.prompts, sentence.default_prompt),
        None => Default::default(),
    };
    let profile = EmbedProfile { prompts, default_prompt, scores };
    let engine = LoadedEngine::Embedder { embedder, profile };
    Ok(Loaded { text, engine, sizing, place, pool_bytes: 0, card })
}

/// A decoder's vectors beside its texts. Without a pooling of its own, that of a text is its last token's, as llama.cpp's
/// server had it when Jan's `embedding` came up.
pub(crate) fn beside(config: Arc<RouterConfig>, files: ModelFiles) -> Beside {
    let model = config.model_id.clone();
    let failed = move |error: RouterError| {
        tracing::error!(model, %error, "a model could not be loaded for embeddings");
        ServiceError::from(Failure::Engine)
    };
    Beside::new(move || {
        let device = Device::Cpu { reason: None };
        let loaded = load(&config, &files, &Kind::Decoder, (Pace::Quiet, &device)).map_err(&failed)?;
        match loaded.engine {
            LoadedEngine::Embedder { embedder, profile } => {
                Ok(Unstarted { embedder, profile, threads: loaded.sizing.threads })
            }
            LoadedEngine::Generator { .. } => Err(Failure::Engine.into()),
        }
    })
}

fn threads(config: &RouterConfig) -> usize {
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    config.engine.threads.unwrap_or_else(processors).max(1)
}

fn options(
    config: &RouterConfig,
    (pace, place): (Pace, Place),
    pooling: Pooling,
    max_tokens: usize,
) -> EmbedOptions {
    let step_tokens = if place == Place::Gpu { CUDA_STEP_TOKENS } else { STEP_TOKENS };
    EmbedOptions {
        threads: if pace == Pace::Full { threads(config) } else { 1 },
        max_step_tokens: config.engine.max_batch_prefill_tokens.unwrap_or(step_tokens).max(1),
        max_seqs: config.engine.max_batch_size.unwrap_or(STEP_TEXTS).max(1),
        max_tokens,
        pooling,
    }
}

fn sizing(config: &RouterConfig, embedder: &dyn Embedder, place: Place) -> Sizing {
    let limits = embedder.limits();
    Sizing {
        max_input_tokens: limits.max_tokens,
        max_total_tokens: limits.max_tokens,
        blocks: 0,
        block_bytes: 0,
        max_step_tokens: limits.max_step_tokens,
        max_seqs: limits.max_seqs,
        threads: threads(config),
        device: if place == Place::Gpu { DeviceKind::Cuda } else { DeviceKind::Cpu },
    }
}
