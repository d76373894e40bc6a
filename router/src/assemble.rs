//! Puts the parts together: engine, service, metrics.

use std::sync::Arc;
use std::time::Duration;

use tokenizers::Tokenizer;
use tokio::sync::Semaphore;
use weirgate_engine::{EmbedConfig, EngineConfig};
use weirgate_types::{StepOutputs, TokenId, Watermark};

use crate::api::Settings;
use crate::config::RouterConfig;
use crate::error::RouterError;
use crate::load::{Loaded, LoadedEngine};
use crate::metrics::Metrics;
use crate::residency::Model;
use crate::service::{
    AdapterError, Adapters, ChatTemplate, Dispatcher, Embedding, Engine, Grammars, Guard, Health, Service,
    Validator, Vocabulary, WorkerPool,
};
use crate::sizing::{BLOCK_SIZE, Sizing};
use crate::telemetry::Tracer;
use crate::tools::ModelForms;

/// A model with its engine running.
pub(crate) struct Assembled {
    pub model: Model,
    /// What the engine says; the dispatcher's to read.
    pub outputs: flume::Receiver<StepOutputs>,
}

/// Starts the engine and the tokenizer threads.
///
/// # Errors
/// When the system cannot start a thread.
pub(crate) fn assemble(config: &RouterConfig, loaded: Loaded) -> Result<Assembled, RouterError> {
    let Loaded { text, engine, sizing, place, pool_bytes, card } = loaded;
    let Started { engine, adapters, vocab_size, outputs } = start(config, engine, &sizing)?;
    let limits = &config.limits;
    let validator = Validator {
        max_best_of: limits.max_best_of,
        max_input_tokens: sizing.max_input_tokens,
        max_total_tokens: sizing.max_total_tokens,
        vocab_size,
        eos_tokens: text.eos_tokens.clone().into(),
        newline: newline(&text.tokenizer),
        watermark: Watermark { gamma: config.watermark_gamma, delta: config.watermark_delta },
        disable_grammar_support: config.disable_grammar_support,
    };
    let metrics =
        Metrics::new(&config.model_id, sizing.max_input_tokens, sizing.max_total_tokens, BLOCK_SIZE);
    let tracer =
        config.traces.as_ref().map_or_else(Tracer::off, |traces| Tracer::start(traces, &config.model_id));
    let places = limits.max_concurrent_requests.min(Semaphore::MAX_PERMITS);
    // A template that was made for the model goes before what its checkpoint brings.
    let own = card.layers.template.as_deref().filter(|text| !text.is_empty());
    let checkpoints = text.template.text().to_owned();
    let template = Arc::new(own.map_or(text.template, ChatTemplate::go));
    let fills_in = template.asks_for("Suffix").then(|| template.clone());
    let forms = ModelForms::of(&template, &checkpoints);
    tracing::debug!(
        format = forms.format.name(),
        reasoning = forms.reasoning.is_some(),
        "what the chat template tells"
    );
    let vocabulary = Vocabulary::new(text.tokenizer.clone(), &text.eos_tokens);
    let reasoning = forms.reasoning.map(|marks| [marks.open, marks.close]);
    let service = Service {
        guard: Arc::new(Guard::new(
            vocabulary.clone(),
            reasoning.as_ref().map_or(&[][..], |marks| &marks[..]),
        )),
        vocabulary,
        template,
        completion_template: fills_in.or(text.completion_template.map(Arc::new)),
        grammars: Grammars::new(
            text.tokenizer.clone(),
            (config.grammar_backend, config.grammar_whitespace),
            grammar_threads(),
        )?,
        forms,
        workers: WorkerPool::new("tokenizer", config.validation_workers)?,
        adapters,
        engine,
        dispatcher: Arc::new(Dispatcher::default()),
        permits: Arc::new(Semaphore::new(places)),
        places,
        metrics: Arc::new(metrics),
        tracer,
        health: Health::ready(),
        watchdog: Duration::from_secs(config.watchdog_seconds),
        patience: Duration::from_secs(limits.max_request_seconds),
        validator,
    };
    for adapter in &config.lora_adapters {
        let named = |error: AdapterError| RouterError::Adapter {
            name: adapter.name.clone(),
            reason: error.to_string(),
        };
        if adapter.name == config.model_id {
            return Err(named(AdapterError::Name(adapter.name.clone())));
        }
        service.adapters.load(&adapter.name, &adapter.path, false).map_err(named)?;
    }
    let fills_in = service.completion_template.is_some();
    let card = card.named(&config.model_id, service.template.text(), &service.forms, fills_in);
    let settings = Arc::new(settings(config, &service.validator));
    let service = Arc::new(service);
    let model = Model { service, settings, card: Arc::new(card), place, pool_bytes };
    Ok(Assembled { model, outputs })
}

/// An engine that runs.
struct Started {
    engine: Engine,
    adapters: Adapters,
    vocab_size: u32,
    /// What the engine says.
    outputs: flume::Receiver<StepOutputs>,
}

/// Starts the engine.
fn start(config: &RouterConfig, engine: LoadedEngine, sizing: &Sizing) -> Result<Started, RouterError> {
    let size = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
    Ok(match engine {
        LoadedEngine::Generator { executor, rope, spec, vectors } => {
            let settings = EngineConfig {
                max_step_tokens: sizing.max_step_tokens,
                max_seqs: sizing.max_seqs,
                prefix_cache: config.engine.prefix_caching,
                speculate: config.engine.speculate,
                mixed_step_tokens: sizing.device.mixed_step_tokens(),
                bursts: sizing.device.bursts(&config.engine),
                rope,
                stall_after_steps: config.fault_stall_after_steps,
                step_interval: Duration::from_millis(config.fault_step_milliseconds),
                echo: config.fault_echo,
                ..EngineConfig::default()
            };
            let vocab_size = size(executor.limits().vocab_size);
            let (engine, outputs) = weirgate_engine::spawn(executor, settings)?;
            let adapters = Adapters::new(*spec, engine.clone());
            Started { engine: Engine::Generator { engine, vectors }, adapters, vocab_size, outputs }
        }
        LoadedEngine::Embedder { embedder, profile } => {
            let vocab_size = size(embedder.limits().vocab_size);
            let (handle, outputs) = weirgate_engine::spawn_embedder(embedder, EmbedConfig::default())?;
            let engine = Engine::Embedder(Embedding { handle, profile });
            Started { engine, adapters: Adapters::none(), vocab_size, outputs }
        }
    })
}

/// The token of a line feed by itself: the last of its encoding, before which some tokenizers put a blank.
fn newline(tokenizer: &Tokenizer) -> Option<TokenId> {
    let id = *tokenizer.encode_fast("\n", false).ok()?.get_ids().last()?;
    tokenizer.decode(&[id], false).is_ok_and(|text| text == "\n").then_some(id)
}

/// Few: compiling must not take the processors from the engine.
fn grammar_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors / 4).clamp(1, 4)
}

fn settings(config: &RouterConfig, validator: &Validator) -> Settings {
    Settings {
        profile: config.profile,
        compute_type: config.compute_type.clone(),
        model_id: config.model_id.clone(),
        model_sha: config.model_sha.clone(),
        max_concurrent_requests: config.limits.max_concurrent_requests,
        max_best_of: config.limits.max_best_of,
        max_stop_sequences: config.limits.max_stop_sequences,
        max_top_n_tokens: config.limits.max_top_n_tokens,
        max_client_batch_size: config.limits.max_client_batch_size,
        max_input_tokens: validator.max_input_tokens,
        max_total_tokens: validator.max_total_tokens,
        validation_workers: config.validation_workers,
        default_max_new_tokens: config.default_max_new_tokens,
        default_num_ctx: config.default_num_ctx,
        ollama_version: config.ollama_version.clone(),
        enable_prefill_logprobs: config.enable_prefill_logprobs,
    }
}
