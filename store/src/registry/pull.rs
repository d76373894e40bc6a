//! A model from a registry into the store of our own.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::progress::Shared;
use super::{RegistryError, Transfer, parts};
use crate::entry::Report;
use crate::manifest::{Layer, Manifest};
use crate::name::{Digest, ModelName};
use crate::own::{Writing, free_space};
use crate::{Store, StoreError};

/// The pulls under way; callers that want the same share one.
#[derive(Default)]
pub(crate) struct Pulls {
    running: Mutex<HashMap<(ModelName, Transfer), Arc<Shared>>>,
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
        let key = (name, transfer);
        let shared = {
            let mut running = self.pulls.running.lock().unwrap_or_else(PoisonError::into_inner);
            match running.get(&key) {
                Some(shared) => {
                    shared.join();
                    Arc::clone(shared)
                }
                None => {
                    let shared = Arc::new(Shared::default());
                    shared.join();
                    let (store, (name, transfer)) = (Arc::clone(self), key.clone());
                    shared.start(move |shared| {
                        let result = pull(&store, &name, transfer, shared);
                        store.pulls.forget(&(name, transfer), shared);
                        result
                    })?;
                    running.insert(key.clone(), Arc::clone(&shared));
                    shared
                }
            }
        };
        let result = shared.watch(report);
        if shared.leave() {
            self.pulls.forget(&key, &shared);
        }
        result
    }
}

impl Pulls {
    /// Those who come from now on begin anew.
    fn forget(&self, key: &(ModelName, Transfer), shared: &Shared) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.get(key).is_some_and(|known| std::ptr::eq(&**known, shared)) {
            running.remove(key);
        }
    }
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
            completed.store(layer.size, std::sync::atomic::Ordering::Relaxed);
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
