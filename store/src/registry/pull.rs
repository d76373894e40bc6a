//! A model from a registry into the store of our own.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use weirgate_hub::{Hub, HubError, HubSettings, ModelId, Revision};

use super::file::Wanted;
use super::progress::Shared;
use super::{RegistryError, Transfer, parts};
use crate::entry::{Entry, Progress, Report};
use crate::layout::{Origin, jan};
use crate::manifest::{Layer, Manifest};
use crate::name::{Digest, ModelName};
use crate::own::{Writing, free_space};
use crate::{Store, StoreError};

/// The pulls under way; callers that want the same share one.
#[derive(Default)]
pub(crate) struct Pulls {
    running: Mutex<HashMap<Key, Arc<Shared>>>,
}

/// What is being brought here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Registry(ModelName, Transfer),
    /// Repository and revision.
    Hub(String, String),
    /// The folder of one of Jan's models.
    Folder(PathBuf),
}

impl Store {
    /// Brings a model here: `[host/][namespace/]model[:tag]`, also of `hf.co`. Goes on where an earlier pull was cut
    /// off. Pulls of one name share one download; it stops when the last caller's `report` says so.
    ///
    /// # Errors
    /// [`RegistryError`]s, [`StoreError::DiskFull`], [`StoreError::ReadOnly`], [`StoreError::Canceled`].
    pub fn pull(
        self: &Arc<Self>,
        name: &str,
        transfer: Transfer,
        report: &mut Report<'_>,
    ) -> Result<(), StoreError> {
        let name = full_name(name, transfer)?;
        // Said before anything is asked for.
        drop(self.write(&name.to_string())?);
        let key = Key::Registry(name.clone(), transfer);
        Pulls::share(self, key, report, move |store, shared| pull(store, &name, transfer, shared))
    }

    /// Brings what a server needs of a repository of a Hugging Face hub into the cache that `settings` name. Callers of
    /// the same share one download; it goes on where an earlier one was cut off.
    ///
    /// # Errors
    /// [`StoreError::Hub`], [`StoreError::Canceled`].
    pub fn pull_from_hub(
        self: &Arc<Self>,
        settings: &HubSettings,
        id: &ModelId,
        revision: &Revision,
        report: &mut Report<'_>,
    ) -> Result<(), StoreError> {
        let key = Key::Hub(id.to_string(), revision.to_string());
        let (settings, id, revision) = (settings.clone(), id.clone(), revision.clone());
        Pulls::share(self, key, report, move |_, shared| pull_from_hub(settings, &id, &revision, shared))
    }
}

impl Store {
    /// Brings the files of a model of Jan's here, from where its `model.json` says. Callers of the same share one
    /// download; it goes on where an earlier one was cut off.
    ///
    /// # Errors
    /// [`StoreError::ModelNotFound`], [`StoreError::ReadOnly`], [`StoreError::Invalid`] for one that does not say where
    /// it comes from, [`RegistryError`]s, [`StoreError::DiskFull`], [`StoreError::Canceled`].
    pub fn fetch(self: &Arc<Self>, name: &str, report: &mut Report<'_>) -> Result<(), StoreError> {
        let entry = self.find(name)?;
        let folder = self.own_jan_folder(&entry).ok_or_else(|| StoreError::ReadOnly(entry.name.clone()))?;
        let sources = jan::sources(&folder)?;
        let reachable = |url: &str| url.starts_with("https://") || url.starts_with("http://");
        if sources.is_empty() || !sources.iter().all(|(_, url)| reachable(url)) {
            let message =
                format!("'{}' does not say where a GGUF file of it could be fetched from", entry.name);
            return Err(StoreError::invalid(message));
        }
        let key = Key::Folder(folder.clone());
        Pulls::share(self, key, report, move |store, shared| fetch(store, &folder, &sources, shared))
    }

    /// Whether files of the model of this name are on their way here.
    pub fn is_coming(&self, entry: &Entry) -> bool {
        let running = self.pulls.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.keys().any(|key| match (key, &entry.origin) {
            (Key::Folder(coming), Origin::Jan { folder }) => coming == folder,
            (Key::Registry(coming, _), Origin::Manifest { name, .. }) => coming == name,
            _ => false,
        })
    }
}

fn fetch(
    store: &Store,
    folder: &Path,
    sources: &[(String, String)],
    shared: &Shared,
) -> Result<(), StoreError> {
    // The first part comes last: while it is missing, nothing takes the model for whole.
    for (name, url) in sources.iter().rev() {
        shared.check()?;
        if !folder.join(name).is_file() {
            let wanted = Wanted { url, name, folder, limit: store.settings.max_blob_bytes };
            wanted.fetch(&store.registry, shared)?;
        }
    }
    shared.status("success");
    Ok(())
}

impl Pulls {
    /// Does `work` in a thread of its own, unless it is being done already, and watches it.
    fn share(
        store: &Arc<Store>,
        key: Key,
        report: &mut Report<'_>,
        work: impl FnOnce(&Store, &Shared) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let pulls = &store.pulls;
        // Nobody joins what is just being given up: both happen under the same lock.
        let mut running = pulls.running.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = match running.get(&key) {
            Some(shared) => Arc::clone(shared),
            None => {
                let shared = Arc::new(Shared::default());
                let (store, own_key) = (Arc::clone(store), key.clone());
                shared.start(move |shared| {
                    let result = work(&store, shared);
                    let mut running = store.pulls.running.lock().unwrap_or_else(PoisonError::into_inner);
                    forget(&mut running, &own_key, shared);
                    result
                })?;
                running.insert(key.clone(), Arc::clone(&shared));
                shared
            }
        };
        shared.join();
        drop(running);
        let result = shared.watch(report);
        let mut running = pulls.running.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.leave() {
            forget(&mut running, &key, &shared);
        }
        result
    }
}

/// Those who come from now on begin anew.
fn forget(running: &mut HashMap<Key, Arc<Shared>>, key: &Key, shared: &Shared) {
    if running.get(key).is_some_and(|known| std::ptr::eq(&**known, shared)) {
        running.remove(key);
    }
}

fn pull_from_hub(
    settings: HubSettings,
    id: &ModelId,
    revision: &Revision,
    shared: &Shared,
) -> Result<(), StoreError> {
    shared.status("pulling manifest");
    let completed = OnceLock::new();
    let observer = |here: u64, total: u64| {
        let line = Progress { status: format!("pulling {id}"), total, ..Progress::default() };
        completed.get_or_init(|| shared.add(line)).store(here, Ordering::Relaxed);
        shared.check().is_ok()
    };
    match Hub::new(settings)?.snapshot_observed(id, revision, Some(&observer)) {
        Ok(_) => shared.status("success"),
        Err(HubError::Stopped) => return Err(StoreError::Canceled),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// The name, of which a scheme must be one that is allowed.
pub(super) fn full_name(name: &str, transfer: Transfer) -> Result<ModelName, StoreError> {
    match name.strip_prefix("http://") {
        Some(_) if !transfer.insecure => Err(RegistryError::Insecure.into()),
        Some(rest) => Ok(rest.parse()?),
        None => Ok(name.parse()?),
    }
}

fn pull(store: &Store, name: &ModelName, transfer: Transfer, shared: &Shared) -> Result<(), StoreError> {
    shared.status("pulling manifest");
    let session = store.registry.session(name, transfer)?;
    let bytes = session.manifest(name.tag())?;
    let manifest = Manifest::parse(&bytes).map_err(RegistryError::Manifest)?;
    let writing = store.write(&name.to_string())?;
    let layers = distinct(&manifest);
    check_sizes(&writing, &layers, store.settings.max_blob_bytes)?;
    for layer in layers {
        shared.check()?;
        if writing.has(layer) {
            let completed = shared.content("pulling", &layer.digest, layer.size);
            completed.store(layer.size, Ordering::Relaxed);
        } else {
            parts::download(&session, &writing.store.root, layer, shared)?;
        }
    }
    // Each was verified before it took its name; the line is part of the protocol.
    shared.status("verifying sha256 digest");
    shared.status("writing manifest");
    let known = writing.store.root.spelled(name);
    writing.manifest(known.as_ref().unwrap_or(name), &bytes)?;
    drop(writing);
    shared.status("success");
    Ok(())
}

/// Layers and config, each content once.
pub(super) fn distinct(manifest: &Manifest) -> Vec<&Layer> {
    let mut seen: HashSet<Digest> = HashSet::new();
    manifest.all().filter(|layer| seen.insert(layer.digest)).collect()
}

/// Refuses what is too large before anything is fetched.
fn check_sizes(writing: &Writing<'_>, layers: &[&Layer], limit: u64) -> Result<(), StoreError> {
    if let Some(layer) = layers.iter().find(|layer| layer.size > limit) {
        return Err(StoreError::TooLarge { what: format!("blob {}", layer.digest), limit });
    }
    let root = &writing.store.root;
    let missing = layers.iter().filter(|layer| !writing.has(layer)).map(|layer| {
        let partial = root.blobs().join(format!("{}-partial", layer.digest.file_name()));
        let here = partial.metadata().map_or(0, |metadata| metadata.len());
        layer.size.saturating_sub(here)
    });
    let needed = missing.fold(0, u64::saturating_add);
    match free_space(&root.path) {
        Some(free) if needed > free => Err(StoreError::DiskFull { needed, free }),
        _ => Ok(()),
    }
}
