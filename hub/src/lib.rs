//! Gets models from a Hugging Face style hub into the standard cache, so that a model downloaded by another tool is
//! found here and the other way round.
//!
//! The official client crate brings more than five hundred crates (an asynchronous stack and a deduplicating
//! transfer library); the part of the protocol needed here is small: one listing, one HEAD and one GET for each file.

mod cache;
mod client;
mod download;
mod error;
pub mod http;
mod id;
mod progress;
mod select;
mod settings;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub use error::HubError;
pub use id::{IdError, ModelId, Revision};
pub use progress::Observer;
pub use settings::HubSettings;

use cache::RepoCache;
use client::Client;
use download::Download;
use progress::Progress;
use select::Wanted;

/// Few enough to be polite, enough to fill a fast line while small files wait for answers.
const PARALLEL_DOWNLOADS: usize = 4;

/// A model on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Folder with config.json, tokenizer and weights.
    pub folder: PathBuf,
    /// The commit that the revision meant when this was found.
    pub commit: String,
}

/// Access to one hub through one cache folder.
pub struct Hub {
    settings: HubSettings,
    client: Client,
}

impl Hub {
    /// # Errors
    /// [`HubError::Endpoint`] for an address that is none, [`HubError::Certificates`] for an unreadable
    /// `SSL_CERT_FILE`.
    pub fn new(settings: HubSettings) -> Result<Self, HubError> {
        let client = Client::new(&settings)?;
        Ok(Self { settings, client })
    }

    /// Finds `id` at `revision`, downloading what the cache lacks. Without a network, what the cache has is used.
    ///
    /// # Errors
    /// See [`HubError`]; each says what was tried and what can be done.
    pub fn snapshot(&self, id: &ModelId, revision: &Revision) -> Result<Snapshot, HubError> {
        self.snapshot_observed(id, revision, None)
    }

    /// As [`Hub::snapshot`]; tells `observer` what has come.
    ///
    /// # Errors
    /// As [`Hub::snapshot`]; [`HubError::Stopped`] when the observer says so.
    pub fn snapshot_observed(
        &self,
        id: &ModelId,
        revision: &Revision,
        observer: Option<&Observer<'_>>,
    ) -> Result<Snapshot, HubError> {
        let cache = RepoCache::new(&self.settings.cache, id);
        if self.settings.offline {
            return cache.find(revision)?.ok_or_else(|| HubError::OfflineAndNotCached {
                id: id.clone(),
                revision: revision.clone(),
                cache: self.settings.cache.clone(),
            });
        }
        let info = match self.client.model_info(id, revision) {
            Ok(info) => info,
            Err(error) if error.is_outage() => return fall_back(&cache, revision, id, error),
            Err(error) => return Err(error),
        };
        let wanted = select::wanted_files(id, &info.siblings)?;
        self.fetch(&cache, &info.sha, &wanted, observer)?;
        cache.write_ref(revision, &info.sha)?;
        Ok(Snapshot { folder: cache.snapshot(&info.sha), commit: info.sha.to_string() })
    }

    fn fetch(
        &self,
        cache: &RepoCache,
        commit: &id::Commit,
        wanted: &[Wanted],
        observer: Option<&Observer<'_>>,
    ) -> Result<(), HubError> {
        let missing: Vec<&Wanted> = wanted.iter().filter(|file| !cache.has(commit, &file.name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        cache.create_folders(commit)?;
        let total: u64 = missing.iter().filter_map(|file| file.size).sum();
        cache.check_space(total)?;
        let progress = Progress::start(&cache.id, missing.len(), total, observer);
        let failure = Mutex::new(None);
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..PARALLEL_DOWNLOADS.min(missing.len()) {
                scope.spawn(|| {
                    while let Some(file) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let download =
                            Download { client: &self.client, cache, progress: &progress, stop: &stop };
                        if let Err(error) = download.run(commit, &file.name) {
                            // Before the others stop, so that theirs is not the error that is told.
                            let mut first = failure.lock().unwrap_or_else(PoisonError::into_inner);
                            first.get_or_insert(error);
                            stop.store(true, Ordering::Relaxed);
                            return;
                        }
                        progress.file_done();
                    }
                });
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => {
                progress.finish();
                Ok(())
            }
        }
    }
}

fn fall_back(
    cache: &RepoCache,
    revision: &Revision,
    id: &ModelId,
    outage: HubError,
) -> Result<Snapshot, HubError> {
    match cache.find(revision) {
        Ok(Some(snapshot)) => {
            tracing::warn!("{outage}; using the copy in {}", snapshot.folder.display());
            Ok(snapshot)
        }
        Ok(None) => Err(HubError::UnreachableAndNotCached {
            id: id.clone(),
            cache: cache.root.clone(),
            outage: Box::new(outage),
        }),
        Err(incomplete) => Err(HubError::UnreachableAndIncomplete {
            outage: Box::new(outage),
            incomplete: Box::new(incomplete),
        }),
    }
}
