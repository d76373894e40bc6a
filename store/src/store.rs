//! All places with models as one list.

use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use weirgate_models::is_embedder;

use crate::StoreError;
use crate::entry::{Entry, ModelSettings};
use crate::index::Index;
use crate::jan::JanFolder;
use crate::layout::ollama::{OllamaRoot, Stored};
use crate::layout::{Origin, Scan, fingerprint, gguf, hub_cache, jan};
use crate::manifest::Layer;
use crate::name::{DEFAULT_TAG, Digest, ModelName};
use crate::own::{OwnStore, Writing};
use crate::registry::{Pulls, Registry, RegistrySettings};

/// Where models are looked for, in this order: the first of a name is the one that is meant.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// The store of our own, in Ollama's layout: the one place that is written to. Made where it is missing. Without
    /// it nothing can be created, pulled, copied or deleted.
    pub models: Option<PathBuf>,
    /// Leaves blobs that no model uses where they are (`OLLAMA_NOPRUNE`), but for those of models that are deleted.
    pub keep_unused: bool,
    /// Ollama stores of others, read in place.
    pub ollama: Vec<PathBuf>,
    /// Jan's folders of models, read in place.
    pub jan: Vec<PathBuf>,
    /// Jan's folder of models that is ours to put in order. Made where it is missing.
    pub own_jan: Option<PathBuf>,
    /// Hugging Face caches (`models--org--name` folders), read in place.
    pub hub_caches: Vec<PathBuf>,
    /// Hugging Face folders, GGUF files, and folders of either, read in place.
    pub folders: Vec<PathBuf>,
    pub registry: RegistrySettings,
    /// Largest blob that is taken in, in bytes.
    pub max_blob_bytes: u64,
    /// The folder whose files Modelfiles may name.
    pub modelfiles: Option<PathBuf>,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            models: None,
            keep_unused: false,
            ollama: Vec::new(),
            jan: Vec::new(),
            own_jan: None,
            hub_caches: Vec::new(),
            folders: Vec::new(),
            registry: RegistrySettings::default(),
            max_blob_bytes: 1 << 40,
            modelfiles: None,
        }
    }
}

/// The models of this machine. Shared between threads; every call sees the files as they are.
pub struct Store {
    own: Option<OwnStore>,
    own_jan: Option<JanFolder>,
    pub(crate) settings: StoreSettings,
    scan: Scan,
    pub(crate) registry: Registry,
    pub(crate) pulls: Pulls,
}

impl Store {
    /// Makes the store of our own where it is missing, and clears away what a crash left there.
    ///
    /// # Errors
    /// Folders that cannot be made; certificates that cannot be read.
    pub fn open(settings: StoreSettings) -> Result<Self, StoreError> {
        let own = settings.models.as_deref().map(|path| OwnStore::open(path, settings.keep_unused));
        let own = own.transpose()?;
        let own_jan = settings.own_jan.as_deref().map(JanFolder::open).transpose()?;
        let registry = Registry::new(&settings.registry)?;
        let index = own.as_ref().map_or_else(Index::default, |own| Index::open(&own.index_file()));
        Ok(Self { own, own_jan, settings, scan: Scan::new(index), registry, pulls: Pulls::default() })
    }

    /// All models, those modified last first. What cannot be read is left out, with a line in the log.
    pub fn list(&self) -> Vec<Entry> {
        let mut seen = HashSet::new();
        let mut entries = self.scan_all();
        entries.retain(|entry| seen.insert(entry.name.to_ascii_lowercase()));
        entries.sort_by(|a, b| b.modified.cmp(&a.modified).then_with(|| a.name.cmp(&b.name)));
        entries
    }

    fn scan_all(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.ollama_roots().flat_map(|root| root.scan(&self.scan)).collect();
        entries.extend(self.scan_others());
        entries
    }

    fn scan_others(&self) -> Vec<Entry> {
        let StoreSettings { jan, hub_caches, folders, .. } = &self.settings;
        if let Some(own) = &self.own_jan {
            own.organize();
        }
        let own_jan = self.own_jan.iter().map(|own| &own.path);
        let jan = own_jan.chain(jan).flat_map(|root| jan::scan(&self.scan, root));
        let hub = hub_caches.iter().flat_map(|cache| hub_cache::scan(&self.scan, cache));
        let folders = folders.iter().flat_map(|folder| gguf::scan(&self.scan, folder));
        jan.chain(hub).chain(folders).collect()
    }

    fn ollama_roots(&self) -> impl Iterator<Item = OllamaRoot> {
        let own = self.own.iter().map(|own| own.root.clone());
        own.chain(self.settings.ollama.iter().map(OllamaRoot::new))
    }

    /// The model called `name`, in any case, with or without a tag of `latest`.
    ///
    /// # Errors
    /// [`StoreError::ModelNotFound`]; a manifest that is damaged.
    pub fn find(&self, name: &str) -> Result<Entry, StoreError> {
        if let Ok(full) = name.parse::<ModelName>() {
            for root in self.ollama_roots() {
                match root.find(&self.scan, &full) {
                    Err(StoreError::ModelNotFound(_)) => {}
                    other => return other,
                }
            }
        }
        let bare = name.strip_suffix(DEFAULT_TAG).and_then(|name| name.strip_suffix(':'));
        let matches = |entry: &Entry| {
            entry.name.eq_ignore_ascii_case(name)
                || bare.is_some_and(|bare| entry.name.eq_ignore_ascii_case(bare))
        };
        let found = self.scan_others().into_iter().find(matches);
        found.ok_or_else(|| StoreError::ModelNotFound(name.chars().take(400).collect()))
    }

    /// Whether `entry` still is what its name means. Looks at its own files alone, so it may be asked for every request.
    pub fn is_current(&self, entry: &Entry) -> bool {
        let first = |name: &ModelName| self.ollama_roots().find(|root| root.manifest_path(name).is_file());
        if let Origin::Manifest { root, name } = &entry.origin {
            let own = first(name).filter(|first| first.path == *root).and_then(|root| root.read(name).ok());
            return own.is_some_and(|stored| stored.digest() == entry.digest);
        }
        if entry.name.parse::<ModelName>().is_ok_and(|name| first(&name).is_some()) {
            return false;
        }
        let seen = entry.files.iter().map(|path| Some((path.clone(), fs::metadata(path).ok()?)));
        seen.collect::<Option<Vec<_>>>().is_some_and(|files| fingerprint(&files) == entry.digest)
    }

    /// Whether vectors or scores of texts are what the model makes, and nothing else. What cannot be read makes none.
    pub fn is_embedder(&self, entry: &Entry) -> bool {
        let read = || is_embedder(&entry.location.open().ok()?).ok();
        self.scan.index.is_embedder(entry.digest, read).unwrap_or(false)
    }

    /// Whether there is a store of our own, that models can be made in.
    pub fn is_writable(&self) -> bool {
        self.own.is_some()
    }

    /// The folder whose files Modelfiles may name.
    pub fn modelfiles(&self) -> Option<&Path> {
        self.settings.modelfiles.as_deref()
    }

    /// What the model brings beside its weights.
    ///
    /// # Errors
    /// A layer that is missing or malformed, or a model that is gone.
    pub fn settings(&self, entry: &Entry) -> Result<ModelSettings, StoreError> {
        match &entry.origin {
            Origin::Manifest { root, name } => {
                let root = OllamaRoot::new(root);
                root.settings(&root.read(name)?.manifest)
            }
            Origin::Jan { folder } => jan::settings(folder),
            Origin::Plain => Ok(ModelSettings::default()),
        }
    }

    /// Jan's `model.json` with its defaults filled in; `None` for a model of another layout.
    ///
    /// # Errors
    /// A file that is no JSON object.
    pub fn jan_model(&self, entry: &Entry) -> Result<Option<Map<String, Value>>, StoreError> {
        match &entry.origin {
            Origin::Jan { folder } => jan::model_json(folder).map(Some),
            Origin::Manifest { .. } | Origin::Plain => Ok(None),
        }
    }

    /// Whether content of this digest is in the store of our own.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.own.as_ref().is_some_and(|own| own.root.blob(digest).is_some())
    }

    /// Takes content in, as it comes; false if it was there already. Nothing is kept that is not `digest`.
    ///
    /// # Errors
    /// [`StoreError::DigestMismatch`], [`StoreError::TooLarge`], [`StoreError::DiskFull`], and those of `source`.
    pub fn put_blob(&self, digest: &Digest, source: &mut dyn Read) -> Result<bool, StoreError> {
        if self.has_blob(digest) {
            return Ok(false);
        }
        self.write("the blob")?.copy_in(source, Some(digest), self.settings.max_blob_bytes)?;
        Ok(true)
    }

    /// Gives `source` a second name.
    ///
    /// # Errors
    /// [`StoreError::ModelNotFound`], [`StoreError::NameTaken`]; models without a manifest are created, not copied.
    pub fn copy(&self, source: &str, destination: &ModelName) -> Result<(), StoreError> {
        let writing = self.write(source)?;
        let entry = self.find(source)?;
        let (root, stored) = self.stored(&entry)?;
        for layer in stored.manifest.all() {
            self.bring_layer(&writing, &root, layer)?;
        }
        writing.manifest(destination, &stored.bytes)
    }

    /// Removes a model, and the content that no other one uses. A model that is served from its files goes on until
    /// it is unloaded.
    ///
    /// # Errors
    /// [`StoreError::ModelNotFound`]; [`StoreError::ReadOnly`] for one that is read in place.
    pub fn delete(&self, name: &str) -> Result<(), StoreError> {
        if let (Some(own), Ok(full)) = (&self.own, name.parse::<ModelName>()) {
            match own.delete(&full) {
                Err(StoreError::ModelNotFound(_)) => {}
                other => return other,
            }
        }
        let entry = self.find(name)?;
        if let (Some(own), Some(folder)) = (&self.own_jan, self.own_jan_folder(&entry)) {
            return own.delete(&folder);
        }
        let is_own = |path: &Path| self.own.as_ref().is_some_and(|own| own.root.path == path);
        match &entry.origin {
            // Somebody made it since it was not there.
            Origin::Manifest { root, .. } if is_own(root) => Err(StoreError::ModelNotFound(entry.name)),
            _ => Err(StoreError::ReadOnly(entry.name)),
        }
    }

    /// The folder of a model of Jan's that is ours to change.
    pub(crate) fn own_jan_folder(&self, entry: &Entry) -> Option<PathBuf> {
        let own = self.own_jan.as_ref()?;
        match &entry.origin {
            Origin::Jan { folder } if folder.parent() == Some(&own.path) => Some(folder.clone()),
            _ => None,
        }
    }

    /// Begins to write on behalf of `name`.
    pub(crate) fn write(&self, name: &str) -> Result<Writing<'_>, StoreError> {
        self.own.as_ref().ok_or_else(|| StoreError::ReadOnly(name.to_owned()))?.write()
    }

    /// The manifest of an entry that has one.
    pub(crate) fn stored(&self, entry: &Entry) -> Result<(OllamaRoot, Stored), StoreError> {
        match &entry.origin {
            Origin::Manifest { root, name } => {
                let root = OllamaRoot::new(root);
                let stored = root.read(name)?;
                Ok((root, stored))
            }
            Origin::Jan { .. } | Origin::Plain => Err(StoreError::invalid(format!(
                "'{}' has no manifest; create a model from it first",
                entry.name
            ))),
        }
    }

    /// Makes sure that the content of `layer`, which is in `root`, is in the store of our own.
    pub(crate) fn bring_layer(
        &self,
        writing: &Writing<'_>,
        root: &OllamaRoot,
        layer: &Layer,
    ) -> Result<(), StoreError> {
        if writing.has(layer) {
            return Ok(());
        }
        let (path, _) = root.blob(&layer.digest).ok_or(StoreError::BlobNotFound(layer.digest))?;
        writing.bring(&path, layer, self.settings.max_blob_bytes)
    }
}
