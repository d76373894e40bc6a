//! Weirgate's HTTP server: the only crate that knows text, JSON and HTTP.
//!
//! A request's way: `api/<dialect>/handlers` → `convert` → [`service`] (template, tokenizer, validation, engine) →
//! dispatcher → text → `api/<dialect>/stream`.

mod api;
mod assemble;
mod background;
mod config;
mod device;
mod error;
mod load;
mod logging;
mod management;
mod memory;
mod metrics;
mod residency;
mod server;
mod service;
mod shutdown;
mod sizing;
mod telemetry;
#[cfg(test)]
mod test_tokenizers;
#[cfg(test)]
mod tests;
mod tools;
mod watchdog;

use std::sync::Arc;
use std::time::Duration;

pub use api::docs::openapi_json;
pub use config::{
    DeviceSetting, EngineSettings, GrammarBackend, GrammarWhitespace, KvCacheDtype, Library, Limits,
    LogSettings, LoraAdapter, ModelLocation, Profile, Quantize, Registries, RopeOverride, RouterConfig,
    VertexRoutes,
};
pub use device::gpus_for_shards;
pub use error::RouterError;
pub use management::ManagementSettings;
pub use residency::{KeepAlive, Residency};
pub use service::{ChatTemplate, Conversation, TEMPLATE_COMMAND, TemplateError, run_templates};
pub use telemetry::{OtlpEndpoint, OtlpEndpointError, TraceSettings};
pub use weirgate_jobs::{DatabaseUrl, Place as DatasetPlace, S3Settings};

use weirgate_store::{Credentials, RegistrySettings, Store, StoreSettings};

use api::AppState;
use assemble::Assembled;
use management::Management;
use residency::{Conditions, Models, StoredModels};
use server::Server;
use shutdown::Signals;

/// Exit status after the watchdog found the engine stalled.
pub const EXIT_STALLED: i32 = 75;

/// Async threads: they move text, the processors are the engine's. No more than processors: threads that take turns on one
/// take each other's tasks, too, and streams get their tokens in another order at every step.
const MAX_ASYNC_THREADS: usize = 4;

/// Loads the model, serves until SIGTERM or SIGINT, and returns once everything under way has ended.
///
/// # Errors
/// When the model cannot be loaded, the address cannot be listened on, or the engine fails. A stalled engine ends the
/// process with [`EXIT_STALLED`].
pub fn run(config: RouterConfig) -> Result<(), RouterError> {
    logging::init(&config.log);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(processors.min(MAX_ASYNC_THREADS))
        .enable_all()
        .build()?;
    let result = runtime.block_on(load_and_serve(config));
    runtime.shutdown_background();
    result
}

async fn load_and_serve(config: RouterConfig) -> Result<(), RouterError> {
    let mut signals = Signals::install()?;
    let config = Arc::new(config);
    let loading = tokio::task::spawn_blocking({
        let config = config.clone();
        move || assemble::assemble(&config, load::load(&config)?)
    });
    tokio::select! {
        name = signals.caught() => {
            tracing::info!("{name}: not started");
            Ok(())
        }
        assembled = loading => serve(&config, assembled.map_err(std::io::Error::from)??, signals).await,
    }
}

async fn serve(
    config: &Arc<RouterConfig>,
    assembled: Assembled,
    mut signals: Signals,
) -> Result<(), RouterError> {
    let Assembled { model, outputs } = assembled;
    let service = model.service.clone();
    let store = open_store(config)?;
    let models = match &store {
        Some(store) => {
            let stored = StoredModels::new(store.clone(), config.clone());
            Models::with_library(model, Box::new(stored), config.residency, Conditions::of(&config.engine))
        }
        None => Models::single(model, config.residency),
    };
    let management = start_management(config, &models, store.as_ref()).await?;
    let state = AppState { management: management.clone(), ..AppState::new(models.clone(), store) };
    let dispatcher = tokio::spawn(service.dispatcher.clone().run(outputs, service.metrics.clone()));
    watchdog::watch(service.clone(), || std::process::exit(EXIT_STALLED))?;
    let mut servers = Vec::new();
    let listeners = [
        (config.ollama_listen, Profile::Ollama, "Ollama's clients: OLLAMA_HOST=http://", ""),
        (config.jan_listen, Profile::Jan, "Jan's clients: http://", "/v1"),
        (config.management_listen, Profile::Management, "management: http://", "/v1"),
    ];
    for (listen, profile, before, after) in listeners {
        let Some(listen) = listen else { continue };
        let own = RouterConfig { listen, profile, ..RouterConfig::clone(config) };
        let server = Server::start(listen, server::app(&own, state.under(profile))).await?;
        tracing::info!("{before}{}{after}", server.address);
        servers.push(server);
    }
    // The last one: what asks it whether the server is ready may go to the others then.
    let server = Server::start(config.listen, server::app(config, state)).await?;
    announce(config, &server);
    servers.push(server);
    let ended = tokio::select! {
        name = signals.caught() => {
            tracing::info!("{name}: finishing what is under way");
            shutdown::drain(&models.services(), servers, Duration::from_secs(config.graceful_termination_seconds)).await;
            Ok(())
        }
        _ = dispatcher => {
            shutdown::fail(&service, servers).await;
            Err(RouterError::EngineFailed)
        }
    };
    if let Some(management) = management {
        // Whatever it was, the process ends.
        let _ = tokio::task::spawn_blocking(move || management.shut_down()).await;
    }
    service.tracer.flush().await;
    ended
}

/// The state of jobs and data sets, where it is kept.
async fn start_management(
    config: &Arc<RouterConfig>,
    models: &Arc<Models>,
    store: Option<&Arc<Store>>,
) -> Result<Option<Arc<Management>>, RouterError> {
    let (Some(settings), Some(store)) = (&config.management, store) else { return Ok(None) };
    let (settings, base) = (settings.clone(), config.model.clone());
    let (models, store) = (models.clone(), store.clone());
    let started = tokio::task::spawn_blocking(move || Management::start(&settings, &base, models, store));
    let started = started.await.map_err(std::io::Error::from)?;
    started.map(Some).map_err(|error| RouterError::Library(error.to_string()))
}

/// The store of the models beside the one that is always there.
fn open_store(config: &RouterConfig) -> Result<Option<Arc<Store>>, RouterError> {
    let Some(library) = &config.library else { return Ok(None) };
    let settings = StoreSettings {
        models: library.store.clone(),
        ollama: library.ollama.clone(),
        own_jan: library.jan.clone(),
        hub_caches: library.hub_caches.clone(),
        folders: library.folders.clone(),
        registry: registries(&library.registries),
        modelfiles: library.modelfiles.clone(),
        ..StoreSettings::default()
    };
    let store = Store::open(settings).map_err(|error| RouterError::Library(error.to_string()))?;
    Ok(Some(Arc::new(store)))
}

fn registries(access: &Registries) -> RegistrySettings {
    let credentials = access.credentials.iter().map(|(host, (user, password))| {
        (host.clone(), Credentials { user: user.clone(), password: password.clone() })
    });
    RegistrySettings {
        allowed_hosts: access.allowed.clone(),
        private_hosts: access.private.clone(),
        credentials: credentials.collect(),
        certificates: access.certificates.clone(),
        ..RegistrySettings::default()
    }
}

/// "Connected" is TGI's line, which tools wait for; the next one is for people.
fn announce(config: &RouterConfig, server: &Server) {
    if config.api_keys.is_empty() && !config.listen.ip().is_loopback() {
        tracing::warn!("no API key is set: whoever reaches {} can use the model", server.address);
    }
    tracing::info!("Connected");
    let key = if config.api_keys.is_empty() { "" } else { " -H 'Authorization: Bearer <key>'" };
    tracing::info!(
        "Ready: curl http://127.0.0.1:{}/generate{key} -H 'Content-Type: application/json' \
         -d '{{\"inputs\":\"Once upon a time\",\"parameters\":{{\"max_new_tokens\":40}}}}'",
        server.address.port()
    );
}
