//! Where models come from that are loaded on demand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Map;
use weirgate_models::{Gguf, ModelFiles};
use weirgate_store::{Entry, Location, Show, Store, StoreError};

use super::{AcquireError, Card, Layers};
use crate::assemble::{Assembled, assemble};
use crate::config::{Limits, RouterConfig};
use crate::error::RouterError;
use crate::load::{Loaded, Pace};
use crate::{EXIT_STALLED, background, load, watchdog};

/// Models by name. Calls block.
pub(crate) trait Library: Send + Sync {
    /// All models, the latest first.
    fn cards(&self) -> Vec<Card>;

    /// The card of the model of this name.
    ///
    /// # Errors
    /// [`AcquireError::NotFound`], or what is wrong with the model.
    fn find(&self, name: &str) -> Result<Card, AcquireError>;

    /// Whether the card of a model that was loaded still says what its name means. Asked for every request.
    fn is_current(&self, card: &Card) -> bool;

    /// All there is to say about the model of a card; with `verbose`, long arrays and tensors, too.
    ///
    /// # Errors
    /// What is wrong with the model.
    fn show(&self, card: &Card, verbose: bool) -> Result<Show, AcquireError>;

    /// Loads the model of a card that [`Library::find`] gave. Nothing runs before the outputs are read.
    ///
    /// # Errors
    /// [`AcquireError::Failed`].
    fn load(&self, card: &Card) -> Result<Assembled, AcquireError>;
}

/// The models of a store on disk.
pub(crate) struct StoredModels {
    store: Arc<Store>,
    config: Arc<RouterConfig>,
    /// Those that were loaded, by their digests.
    loaded: Mutex<HashMap<String, Entry>>,
}

impl StoredModels {
    pub fn new(store: Arc<Store>, config: Arc<RouterConfig>) -> Self {
        Self { store, config, loaded: Mutex::default() }
    }

    fn loaded(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn card(&self, entry: &Entry) -> Result<Card, StoreError> {
        let settings = self.store.settings(entry)?;
        let messages = settings.messages.into_iter().map(|message| {
            let fields = [("role", message.role), ("content", message.content)];
            fields.map(|(key, text)| (key.to_owned(), text.into())).into_iter().collect::<Map<_, _>>()
        });
        let layers = Layers {
            parameters: settings.parameters,
            system: settings.system,
            template: settings.template,
            messages: messages.collect(),
            licenses: settings.licenses,
        };
        let details = &entry.details;
        Ok(Card {
            name: entry.name.clone(),
            format: details.format.clone(),
            family: details.family.clone(),
            parameter_size: details.parameter_size.clone(),
            quantization: details.quantization_level.clone(),
            bytes: entry.size,
            digest: entry.digest.hex(),
            modified: Some(entry.modified),
            template: layers.template.clone().unwrap_or_default(),
            layers,
            ..Card::default()
        })
    }
}

fn failure(error: StoreError) -> AcquireError {
    match error {
        StoreError::ModelNotFound(_) | StoreError::Name(_) => AcquireError::NotFound,
        error => AcquireError::Failed(error.to_string()),
    }
}

impl Library for StoredModels {
    fn cards(&self) -> Vec<Card> {
        let entries = self.store.list();
        let usable = entries.iter().filter(|entry| !matches!(entry.location, Location::Unsupported(_)));
        usable.filter_map(|entry| self.card(entry).ok()).collect()
    }

    fn find(&self, name: &str) -> Result<Card, AcquireError> {
        let entry = self.store.find(name).map_err(failure)?;
        self.card(&entry).map_err(failure)
    }

    fn is_current(&self, card: &Card) -> bool {
        let entry = self.loaded().get(&loaded_key(card)).cloned();
        entry.is_some_and(|entry| self.store.is_current(&entry))
    }

    fn show(&self, card: &Card, verbose: bool) -> Result<Show, AcquireError> {
        let entry = self.store.find(&card.name).map_err(failure)?;
        self.store.show(&entry, verbose).map_err(failure)
    }

    fn load(&self, card: &Card) -> Result<Assembled, AcquireError> {
        let entry = self.store.find(&card.name).map_err(failure)?;
        let files = match &entry.location {
            Location::Folder(path) => ModelFiles::open(path),
            Location::Gguf(path) => Gguf::open(path).map(ModelFiles::from),
            Location::Unsupported(why) => return Err(AcquireError::Failed(why.clone())),
        };
        let failed = |error: String| {
            tracing::error!(model = card.name, error, "a model could not be loaded");
            AcquireError::Failed("the model could not be loaded; the server's log says why".to_owned())
        };
        let files = files.map_err(|error| failed(error.to_string()))?;
        // What is said of lengths and files is said of the model that the server was started for.
        let limits = Limits { max_input_tokens: None, max_total_tokens: None, ..self.config.limits.clone() };
        let config = RouterConfig {
            model_id: card.name.clone(),
            model_sha: None,
            tokenizer_config_path: None,
            limits,
            lora_adapters: Vec::new(),
            ..RouterConfig::clone(&self.config)
        };
        let config = Arc::new(config);
        let mut loaded = load_in_background(&config, files).map_err(|error| failed(error.to_string()))?;
        let capabilities = loaded.card.capabilities;
        loaded.card =
            Card { template: loaded.card.template, info: loaded.card.info, capabilities, ..card.clone() };
        let assembled = assemble(&config, loaded).map_err(|error| failed(error.to_string()))?;
        let service = assembled.model.service.clone();
        for adapter in &self.store.settings(&entry).map_err(failure)?.adapters {
            service.adapters.load_own(adapter).map_err(|error| failed(error.to_string()))?;
        }
        watchdog::watch(service, || std::process::exit(EXIT_STALLED))
            .map_err(|error| failed(error.to_string()))?;
        let mut loaded = self.loaded();
        loaded.retain(|_, known| known.name != entry.name);
        loaded.insert(loaded_key(card), entry);
        Ok(assembled)
    }
}

/// Requests to other models are answered meanwhile: the load gets one thread, of low priority, and the engine's threads
/// are started by this one.
fn load_in_background(config: &Arc<RouterConfig>, files: ModelFiles) -> Result<Loaded, RouterError> {
    let own = config.clone();
    let done = background::spawn("load", move || load::load_files(&own, &files, Pace::Quiet))?;
    let broke_off = |_| RouterError::Library("the load broke off".to_owned());
    let mut loaded = done.blocking_recv().map_err(broke_off)??;
    loaded.engine.use_threads(loaded.sizing.threads).map_err(std::io::Error::other)?;
    Ok(loaded)
}

/// Two names may have the same content.
fn loaded_key(card: &Card) -> String {
    format!("{} {}", card.digest, card.name)
}
