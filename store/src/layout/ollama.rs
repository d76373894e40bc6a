//! Ollama's layout:
//!
//! ```text
//! manifests/<host>/<namespace>/<model>/<tag>    which layers a model has
//! blobs/sha256-<64 hex>                         content, named by its hash
//! ```

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::StoreError;
use crate::entry::{Details, Entry, Kind, Location, Message, ModelSettings};
use crate::layout::scan::{Origin, Scan, children, confined, name_of};
use crate::manifest::{Config, Content, Layer, MAX_MANIFEST_BYTES, Manifest};
use crate::name::{Digest, ModelName};

/// Largest template, system text, license or config that is read.
const MAX_TEXT_BYTES: u64 = 16 << 20;

/// One store in this layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OllamaRoot {
    pub path: PathBuf,
}

/// A manifest as it lies on disk.
pub(crate) struct Stored {
    pub name: ModelName,
    pub bytes: Vec<u8>,
    pub manifest: Manifest,
    pub modified: SystemTime,
}

impl Stored {
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }
}

impl OllamaRoot {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub fn manifests(&self) -> PathBuf {
        self.path.join("manifests")
    }

    pub fn blobs(&self) -> PathBuf {
        self.path.join("blobs")
    }

    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.file_name())
    }

    /// The blob's file and size, if it is here.
    pub fn blob(&self, digest: &Digest) -> Option<(PathBuf, u64)> {
        let path = self.blob_path(digest);
        let metadata = fs::metadata(&path).ok()?;
        (metadata.is_file() && confined(&self.path, &path).is_some()).then_some((path, metadata.len()))
    }

    /// All names that have a manifest file.
    pub fn names(&self) -> Vec<ModelName> {
        let mut names = Vec::new();
        for host in children(&self.manifests()) {
            for namespace in children(&host) {
                for model in children(&namespace) {
                    for tag in children(&model) {
                        let parts = [&host, &namespace, &model, &tag].map(|path| name_of(path));
                        if tag.is_file()
                            && let Ok(name) = ModelName::from_parts(parts)
                        {
                            names.push(name);
                        }
                    }
                }
            }
        }
        names
    }

    /// The name as it is spelled here, if it is.
    pub fn spelled(&self, name: &ModelName) -> Option<ModelName> {
        if self.manifest_path(name).is_file() {
            return Some(name.clone());
        }
        self.names().into_iter().find(|known| known == name)
    }

    pub fn manifest_path(&self, name: &ModelName) -> PathBuf {
        self.manifests().join(name.relative_path())
    }

    /// The manifest of `name`, spelled in any case.
    ///
    /// # Errors
    /// [`StoreError::ModelNotFound`], and a file that is no manifest.
    pub fn read(&self, name: &ModelName) -> Result<Stored, StoreError> {
        let not_found = || StoreError::ModelNotFound(name.to_string());
        let name = self.spelled(name).ok_or_else(not_found)?;
        let path = self.manifest_path(&name);
        if confined(&self.path, &path).is_none() {
            return Err(not_found());
        }
        let what = || format!("the manifest of {name}");
        let file = File::open(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => not_found(),
            _ => StoreError::io(what())(error),
        })?;
        let modified =
            file.metadata().and_then(|metadata| metadata.modified()).map_err(StoreError::io(what()))?;
        let mut bytes = Vec::new();
        file.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut bytes).map_err(StoreError::io(what()))?;
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(StoreError::TooLarge { what: what(), limit: MAX_MANIFEST_BYTES });
        }
        let manifest = Manifest::parse(&bytes).map_err(|problem| StoreError::corrupt(what(), problem))?;
        Ok(Stored { name, bytes, manifest, modified })
    }

    /// The text of a small layer.
    pub fn text(&self, layer: &Layer) -> Result<String, StoreError> {
        let (path, size) = self.blob(&layer.digest).ok_or(StoreError::BlobNotFound(layer.digest))?;
        let what = || format!("blob {}", layer.digest);
        if size > MAX_TEXT_BYTES {
            return Err(StoreError::TooLarge { what: what(), limit: MAX_TEXT_BYTES });
        }
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(StoreError::io(what()))?;
        file.take(MAX_TEXT_BYTES).read_to_end(&mut bytes).map_err(StoreError::io(what()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The config blob; empty where there is none that can be read.
    pub fn config(&self, manifest: &Manifest) -> Config {
        let text = self.text(&manifest.config).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// What is known of `name`.
    ///
    /// # Errors
    /// See [`OllamaRoot::read`].
    pub fn find(&self, scan: &Scan, name: &ModelName) -> Result<Entry, StoreError> {
        let stored = self.read(name)?;
        let digest = stored.digest();
        let details = scan.index.details(digest, || self.details(&stored.manifest));
        Ok(Entry {
            name: stored.name.to_string(),
            kind: Kind::Ollama,
            size: stored.manifest.size(),
            digest,
            modified: stored.modified,
            details,
            location: self.location(&stored.manifest),
            origin: Origin::Manifest { root: self.path.clone(), name: stored.name },
            files: Vec::new(),
        })
    }

    /// All models that can be read.
    pub fn scan(&self, scan: &Scan) -> Vec<Entry> {
        let found = |name: ModelName| match self.find(scan, &name) {
            Ok(entry) => Some(entry),
            Err(error) => {
                scan.skip(&self.manifest_path(&name), &error.to_string());
                None
            }
        };
        self.names().into_iter().filter_map(found).collect()
    }

    fn details(&self, manifest: &Manifest) -> Details {
        let config = self.config(manifest);
        // Ollama writes the path of a file that a model was made of, which is nobody's business.
        let is_path = |from: &&String| Path::new(from.as_str()).is_absolute() || from.contains('\\');
        let made_of = manifest.layers_of(Content::Model).find_map(|layer| layer.from.as_ref());
        let families = match config.model_families.is_empty() {
            true => {
                Some(config.model_family.clone()).filter(|family| !family.is_empty()).into_iter().collect()
            }
            false => config.model_families,
        };
        Details {
            parent_model: made_of.filter(|from| !is_path(from)).cloned().unwrap_or_default(),
            format: config.model_format,
            family: config.model_family,
            families,
            parameter_size: config.model_type,
            quantization_level: config.file_type,
        }
    }

    fn location(&self, manifest: &Manifest) -> Location {
        let Some(layer) = manifest.layers_of(Content::Model).next() else {
            let kinds: Vec<&str> = manifest.layers.iter().map(Layer::media_type).collect();
            let why = format!("no GGUF layer among its layers ({})", kinds.join(", "));
            return Location::Unsupported(why.chars().take(300).collect());
        };
        match self.blob(&layer.digest) {
            Some((path, size)) if size == layer.size => Location::Gguf(path),
            Some(_) => Location::Unsupported(format!(
                "blob {} has another size than the manifest says",
                layer.digest
            )),
            None => Location::Unsupported(format!("blob {} is missing", layer.digest)),
        }
    }

    /// What the layers beside the weights say.
    ///
    /// # Errors
    /// A layer that is missing or malformed.
    pub fn settings(&self, manifest: &Manifest) -> Result<ModelSettings, StoreError> {
        let last = |content| match manifest.layers_of(content).last() {
            Some(layer) => self.text(layer).map(Some),
            None => Ok(None),
        };
        let malformed =
            |what: &'static str| move |e: serde_json::Error| StoreError::corrupt(what, e.to_string());
        let files = |content| -> Result<Vec<PathBuf>, StoreError> {
            let path = |layer: &Layer| {
                self.blob(&layer.digest).map(|(path, _)| path).ok_or(StoreError::BlobNotFound(layer.digest))
            };
            manifest.layers_of(content).map(path).collect()
        };
        let parameters = last(Content::Params)?.unwrap_or_else(|| "{}".to_owned());
        let messages = last(Content::Messages)?.unwrap_or_else(|| "[]".to_owned());
        let messages: Option<Vec<Message>> =
            serde_json::from_str(&messages).map_err(malformed("the messages layer"))?;
        Ok(ModelSettings {
            template: last(Content::Template)?,
            system: last(Content::System)?,
            parameters: serde_json::from_str(&parameters).map_err(malformed("the params layer"))?,
            messages: messages.unwrap_or_default(),
            licenses: manifest
                .layers_of(Content::License)
                .map(|layer| self.text(layer))
                .collect::<Result<_, _>>()?,
            adapters: files(Content::Adapter)?,
            projectors: files(Content::Projector)?,
            ..ModelSettings::default()
        })
    }
}
