//! Where models come from that are loaded on demand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Map;
use weirgate_engine::Device;
use weirgate_models::{Gguf, ModelFiles};
use weirgate_store::{Entry, Kind, LoadSettings, Location, PromptPieces, Show, Store, StoreError};

use super::{AcquireError, Card, Layers};
use crate::assemble::{Assembled, assemble};
use crate::config::{DeviceSetting, EngineSettings, Limits, RouterConfig};
use crate::error::RouterError;
use crate::load::{Loaded, LoadedEngine, Pace};
use crate::memory::Place;
use crate::service::ChatTemplate;
use crate::{EXIT_STALLED, background, device, load, watchdog};

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

    /// Whose memory the model of a card takes.
    fn place(&self, card: &Card) -> Place;

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
        let absent = matches!(entry.location, Location::Unsupported(_));
        Ok(Card {
            name: entry.name.clone(),
            format: details.format.clone(),
            family: details.family.clone(),
            families: details.families.clone(),
            parent: details.parent_model.clone(),
            parameter_size: details.parameter_size.clone(),
            quantization: details.quantization_level.clone(),
            bytes: entry.size,
            digest: entry.digest.hex(),
            modified: Some(entry.modified),
            template: layers.template.clone().unwrap_or_default(),
            layers,
            source: source(entry),
            document: self.store.jan_model(entry)?,
            absent,
            coming: absent && self.store.is_coming(entry),
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
        // Of what cannot be served, only what can still be fetched.
        let known = entries
            .iter()
            .filter(|entry| entry.kind == Kind::Jan || !matches!(entry.location, Location::Unsupported(_)));
        known.filter_map(|entry| self.card(entry).ok()).collect()
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

    fn place(&self, card: &Card) -> Place {
        let Ok(Device::Cuda(_)) = device::choose(&self.config.engine) else { return Place::Host };
        let settings = self.store.find(&card.name).and_then(|entry| self.store.settings(&entry));
        match settings.map(|settings| settings.load.gpu_layers) {
            Ok(Some(0)) => Place::Host,
            _ => Place::Gpu,
        }
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
        let settings = self.store.settings(&entry).map_err(failure)?;
        let config = Arc::new(own_config(&self.config, card, &settings.load));
        let mut loaded =
            load_in_background(&config, files.clone()).map_err(|error| failed(error.to_string()))?;
        if let LoadedEngine::Generator { vectors, .. } = &mut loaded.engine
            && settings.load.embedding == Some(true)
        {
            *vectors = Some(load::beside(config.clone(), files));
        }
        let capabilities = loaded.card.capabilities;
        loaded.card =
            Card { template: loaded.card.template, info: loaded.card.info, capabilities, ..card.clone() };
        if let Some(pieces) = &settings.prompt {
            loaded.text.template =
                ChatTemplate::new(vec![("default".to_owned(), chat_template(pieces))], Vec::new());
        }
        let assembled = assemble(&config, loaded).map_err(|error| failed(error.to_string()))?;
        let service = assembled.model.service.clone();
        for adapter in &settings.adapters {
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

/// The server's configuration as a model wants it. What is said of lengths and files is said of the model that the
/// server was started for.
fn own_config(config: &RouterConfig, card: &Card, load: &LoadSettings) -> RouterConfig {
    // Whether it embeds is no matter of the configuration.
    let LoadSettings { context, gpu_layers, parallel, threads, continuous, embedding: _ } = *load;
    let limits = Limits {
        max_input_tokens: None,
        max_total_tokens: None,
        max_context: context,
        ..config.limits.clone()
    };
    let own = &config.engine;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    // One at a time is what remains where none may join others.
    let at_once = parallel.or((continuous == Some(false)).then_some(1));
    let on_cpu = gpu_layers == Some(0);
    let engine = EngineSettings {
        device: if on_cpu { DeviceSetting::Cpu } else { own.device },
        // Said of the GPU that the others are on.
        kv_cache_dtype: own.kv_cache_dtype.filter(|asked| !on_cpu || !asked.takes_gpu()),
        max_batch_size: at_once
            .map(|count| own.max_batch_size.map_or(count, |most| most.min(count)))
            .or(own.max_batch_size),
        threads: threads.map(|count| count.min(processors)).or(own.threads),
        // Several groups of GPUs that wait for each other might each have what the other needs.
        num_shard: 1,
        ..own.clone()
    };
    RouterConfig {
        model_id: card.name.clone(),
        model_sha: None,
        tokenizer_config_path: None,
        limits,
        engine,
        lora_adapters: Vec::new(),
        ..config.clone()
    }
}

/// Jinja for a chat whose texts have something before them each.
fn chat_template(pieces: &PromptPieces) -> String {
    // A string of JSON is one of Jinja, too.
    let literal = |text: &str| format!("{{{{ {} }}}}", serde_json::Value::from(text));
    let [before, system, user, assistant] =
        [&pieces.before, &pieces.system, &pieces.user, &pieces.assistant].map(|text| literal(text));
    format!(
        "{before}{{%- for message in messages -%}}\
         {{%- if message.role == 'system' -%}}{system}\
         {{%- elif message.role == 'user' -%}}{user}\
         {{%- elif message.role == 'assistant' -%}}{assistant}{{%- endif -%}}\
         {{{{ message.content or '' }}}}{{%- endfor -%}}\
         {{%- if add_generation_prompt -%}}{assistant}{{%- endif -%}}"
    )
}

/// Where a model came from, as an address that tells no path of this machine.
fn source(entry: &Entry) -> String {
    let escaped: String = entry.name.bytes().map(escape).collect();
    match entry.kind {
        Kind::HubCache => format!("https://huggingface.co/{escaped}"),
        // The colon of a tag would begin a port behind `//`.
        Kind::Ollama => format!("ollama:{escaped}"),
        Kind::Folder | Kind::Gguf | Kind::Jan => format!("weirgate://models/{escaped}"),
    }
}

fn escape(byte: u8) -> String {
    let plain = byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte);
    if plain { char::from(byte).to_string() } else { format!("%{byte:02X}") }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::service::Conversation;

    #[test]
    fn pieces_stand_before_the_texts() {
        let [before, system, user, assistant] =
            ["A \"chat\".\n", "SYSTEM: ", "\nUSER: ", "\nASSISTANT:"].map(str::to_owned);
        let text = chat_template(&PromptPieces { before, system, user, assistant });
        let template = ChatTemplate::new(vec![("default".to_owned(), text)], Vec::new());
        let messages =
            [("system", "Be kind."), ("user", "{{ Hi }}"), ("assistant", " Ho\n"), ("user", "Bye")];
        let messages = messages
            .map(|(role, content)| json!({"role": role, "content": content}).as_object().cloned().unwrap());
        let conversation = Conversation { messages: messages.to_vec(), ..Conversation::default() };
        assert_eq!(
            template.render(&conversation).unwrap(),
            "A \"chat\".\nSYSTEM: Be kind.\nUSER: {{ Hi }}\nASSISTANT: Ho\n\nUSER: Bye\nASSISTANT:"
        );
    }

    #[test]
    fn a_models_settings_go_over_the_servers() {
        let server = crate::tests::config();
        let own = |load: LoadSettings| own_config(&server, &Card::default(), &load);
        assert_eq!(own(LoadSettings::default()).engine, server.engine);
        let all = own(LoadSettings {
            context: Some(512),
            gpu_layers: Some(0),
            parallel: Some(3),
            threads: Some(100_000),
            continuous: Some(true),
            embedding: Some(true),
        });
        let processors = std::thread::available_parallelism().unwrap().get();
        assert_eq!((all.limits.max_context, all.engine.max_batch_size), (Some(512), Some(3)));
        assert_eq!((all.engine.device, all.engine.threads), (DeviceSetting::Cpu, Some(processors)));
        let split = RouterConfig {
            engine: EngineSettings { num_shard: 4, ..server.engine.clone() },
            ..server.clone()
        };
        assert_eq!(own_config(&split, &Card::default(), &LoadSettings::default()).engine, server.engine);
        let alone = own(LoadSettings { continuous: Some(false), ..LoadSettings::default() });
        assert_eq!(alone.engine.max_batch_size, Some(1));
    }
}
