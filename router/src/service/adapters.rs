//! The adapters of a model, by name.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use weirgate_engine::EngineHandle;
use weirgate_models::{Adapter, ModelError, ModelSpec};
use weirgate_types::AdapterId;

use super::error::ValidationError;
use crate::memory;
use crate::metrics::AdapterReading;

/// Longest name, in bytes: it stands in lists, in the metrics and in every answer.
const MAX_NAME: usize = 256;

/// Why an adapter was not loaded or unloaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdapterError {
    #[error("the adapter '{0}' is loaded already")]
    Exists(String),
    #[error("the adapter '{0}' is not loaded")]
    NotFound(String),
    #[error("'{0}' cannot be the name of an adapter: it is empty, too long, the model's own, or has a comma")]
    Name(String),
    #[error("{0}")]
    Files(#[from] ModelError),
    #[error("the adapter needs {needed} bytes of memory, {free} are free")]
    Memory { needed: u64, free: u64 },
    #[error("{0}")]
    Device(#[from] weirgate_engine::KernelError),
    #[error("the engine has stopped")]
    Stopped,
    #[error("the model takes no adapters")]
    Unsupported,
}

/// What is loaded beside a model, and how to load more.
pub(crate) struct Adapters {
    /// `None`: the model takes none.
    base: Option<Base>,
    table: Mutex<Table>,
    /// The one that is part of the model itself: it answers where no other is named.
    own: OnceLock<AdapterId>,
    /// Whether there ever was one with a name.
    named: AtomicBool,
}

/// The model that adapters are for.
struct Base {
    spec: ModelSpec,
    engine: EngineHandle,
}

/// The adapters that have a name.
struct Table {
    slots: BTreeMap<String, Slot>,
    /// When one came or went last.
    changed: SystemTime,
}

#[derive(Clone, Copy)]
struct Slot {
    /// `None`: on its way.
    id: Option<AdapterId>,
    since: SystemTime,
}

impl Adapters {
    pub fn new(spec: ModelSpec, engine: EngineHandle) -> Self {
        Self { base: Some(Base { spec, engine }), ..Self::none() }
    }

    /// Of a model that takes none.
    pub fn none() -> Self {
        let table = Mutex::new(Table { slots: BTreeMap::new(), changed: SystemTime::now() });
        Self { base: None, table, own: OnceLock::new(), named: AtomicBool::new(false) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The adapter that a request asks for; without a name, the model's own, if it has one.
    ///
    /// # Errors
    /// A name that nothing is loaded under: never answered by the model alone.
    pub fn resolve(&self, name: Option<&str>) -> Result<Option<AdapterId>, ValidationError> {
        let Some(name) = name else { return Ok(self.own.get().copied()) };
        let id = self.table().slots.get(name).and_then(|slot| slot.id);
        id.map(Some).ok_or_else(|| ValidationError::Adapter(name.to_owned()))
    }

    /// Whether one of this name can be used.
    pub fn contains(&self, name: &str) -> bool {
        self.table().slots.get(name).is_some_and(|slot| slot.id.is_some())
    }

    /// Whether there ever was one with a name: then a name that is unknown may be that of one that has gone.
    pub fn are_named(&self) -> bool {
        self.named.load(Ordering::SeqCst)
    }

    /// The names that can be used, and since when.
    pub fn list(&self) -> Vec<(String, SystemTime)> {
        let table = self.table();
        let usable = table.slots.iter().filter(|(_, slot)| slot.id.is_some());
        usable.map(|(name, slot)| (name.clone(), slot.since)).collect()
    }

    /// For the metrics.
    pub fn reading(&self) -> AdapterReading {
        let table = self.table();
        let names = |ready: bool| {
            let of = table.slots.iter().filter(|(_, slot)| slot.id.is_some() == ready);
            of.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(",")
        };
        AdapterReading {
            // Any number can be loaded; one batch holds as many as it holds sequences.
            max: self.base.as_ref().map_or(0, |base| base.engine.limits().max_seqs),
            ready: names(true),
            loading: names(false),
            changed: Some(table.changed),
        }
    }

    /// Loads the PEFT folder or GGUF file at `path` under `name`. Under `replace`, one of that name goes once this one is
    /// there. Blocks.
    ///
    /// # Errors
    /// [`AdapterError`]; nothing has changed then.
    pub fn load(&self, name: &str, path: &Path, replace: bool) -> Result<(), AdapterError> {
        let odd = |c: char| c == ',' || c.is_control();
        if name.is_empty() || name.len() > MAX_NAME || name == "tgi" || name.contains(odd) {
            return Err(AdapterError::Name(name.chars().take(MAX_NAME).collect()));
        }
        self.reserve(name, replace)?;
        let opened = self.open(path);
        let mut table = self.table();
        let id = match opened {
            Ok(id) => id,
            Err(error) => {
                if table.slots.get(name).is_some_and(|slot| slot.id.is_none()) {
                    table.slots.remove(name);
                }
                return Err(error);
            }
        };
        table.changed = SystemTime::now();
        let slot = Slot { id: Some(id), since: table.changed };
        let before = table.slots.insert(name.to_owned(), slot);
        drop(table);
        self.named.store(true, Ordering::SeqCst);
        if let Some(old) = before.and_then(|slot| slot.id) {
            self.forget(old);
        }
        tracing::info!(adapter = name, "loaded");
        Ok(())
    }

    fn reserve(&self, name: &str, replace: bool) -> Result<(), AdapterError> {
        let mut table = self.table();
        match table.slots.get(name) {
            Some(Slot { id: Some(_), .. }) if replace => {}
            Some(_) => return Err(AdapterError::Exists(name.to_owned())),
            None => {
                table.slots.insert(name.to_owned(), Slot { id: None, since: SystemTime::now() });
            }
        }
        Ok(())
    }

    /// Makes the adapter at `path` part of the model: it answers where none is named. Blocks.
    ///
    /// # Errors
    /// [`AdapterError`].
    pub fn load_own(&self, path: &Path) -> Result<(), AdapterError> {
        let id = self.open(path)?;
        // A model has but one.
        self.own.set(id).map_err(|_| AdapterError::Exists(path.display().to_string()))
    }

    fn open(&self, path: &Path) -> Result<AdapterId, AdapterError> {
        let Base { spec, engine } = self.base.as_ref().ok_or(AdapterError::Unsupported)?;
        let adapter = Adapter::open(path, spec)?;
        // It is in memory once already.
        let needed = adapter.bytes();
        if let Some(free) = memory::free_bytes().filter(|free| *free < needed) {
            return Err(AdapterError::Memory { needed, free });
        }
        let answer = engine.load_adapter(Arc::new(adapter));
        Ok(engine.wait_for(&answer).ok_or(AdapterError::Stopped)??)
    }

    fn forget(&self, id: AdapterId) {
        if let Some(base) = &self.base {
            base.engine.unload_adapter(id);
        }
    }

    /// Takes the name away at once; what is under way with the adapter goes on to its end.
    ///
    /// # Errors
    /// [`AdapterError::NotFound`].
    pub fn unload(&self, name: &str) -> Result<(), AdapterError> {
        let mut table = self.table();
        let Some(id) = table.slots.get(name).and_then(|slot| slot.id) else {
            return Err(AdapterError::NotFound(name.to_owned()));
        };
        table.slots.remove(name);
        table.changed = SystemTime::now();
        drop(table);
        self.forget(id);
        tracing::info!(adapter = name, "unloaded");
        Ok(())
    }
}
