//! New models: from a model, a blob, a GGUF file or a safetensors folder, with texts and options of their own.

mod convert;
mod request;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use weirgate_models::{Adapter, Gguf, ModelError, ModelFiles, ModelSpec, QuantMix, read_spec};

pub use request::{Base, CreateRequest, read_modelfile};

use crate::entry::{Entry, Location, Parameters, Progress, Report, tell};
use crate::layout::ollama::OllamaRoot;
use crate::manifest::{Config, Content, Layer, Manifest, go_json};
use crate::name::Digest;
use crate::own::Writing;
use crate::template::Template;
use crate::{Store, StoreError, details};

/// A model that is being put together.
#[derive(Default)]
struct Draft {
    layers: Vec<Layer>,
    config: Config,
    parameters: Parameters,
}

impl Store {
    /// Makes a model. A base that is not here is pulled. `report` is told of each step; the last is `success`.
    ///
    /// # Errors
    /// What is wrong with the request, in words for the client; [`StoreError::Canceled`] when `report` says so.
    pub fn create(
        self: &Arc<Self>,
        request: &CreateRequest,
        report: &mut Report<'_>,
    ) -> Result<(), StoreError> {
        let mix = request.quantize.as_deref().map(quantization).transpose()?;
        if let Some(template) = &request.template {
            Template::parse(template)
                .map_err(|error| StoreError::invalid(format!("template error: {error}")))?;
        }
        let writing = self.write(&request.name.to_string())?;
        let mut work = Work { store: self, writing: &writing, report };
        let mut draft = match &request.base {
            Base::Model(name) => work.base_model(name)?,
            Base::Files(files) => work.base_files(files)?,
            Base::Path(path) => work.base_path(path)?,
        };
        if let Some(mix) = mix {
            work.quantize(&mut draft, mix)?;
        }
        work.complete(&mut draft, request)?;
        tell(work.report, Progress::status("writing manifest"))?;
        let config = draft.config.to_bytes(&draft.layers);
        let (digest, size) = writing.bytes(&config)?;
        let manifest = Manifest::new(Layer::config(digest, size), draft.layers);
        writing.manifest(&request.name, &manifest.to_bytes())?;
        tell(report, Progress::status("success"))
    }
}

/// What `quantize` of a request means.
fn quantization(name: &str) -> Result<QuantMix, StoreError> {
    const ALL: [QuantMix; 7] = [
        QuantMix::F16,
        QuantMix::BF16,
        QuantMix::Q8_0,
        QuantMix::Q4_0,
        QuantMix::Q4KM,
        QuantMix::Q5KM,
        QuantMix::Q6K,
    ];
    let full = match name.to_ascii_uppercase().as_str() {
        "Q4_K" => "Q4_K_M".to_owned(),
        "Q5_K" => "Q5_K_M".to_owned(),
        other => other.to_owned(),
    };
    ALL.into_iter().find(|mix| mix.name() == full).ok_or_else(|| {
        let known: Vec<&str> = ALL.iter().map(|mix| mix.name()).collect();
        let given: String = name.chars().take(40).collect();
        StoreError::invalid(format!(
            "unsupported quantization type {given:?}; supported are {}",
            known.join(", ")
        ))
    })
}

/// One creation under way.
struct Work<'a, 'r> {
    store: &'a Arc<Store>,
    writing: &'a Writing<'a>,
    report: &'a mut Report<'r>,
}

impl Work<'_, '_> {
    fn status(&mut self, status: impl Into<String>) -> Result<(), StoreError> {
        tell(self.report, Progress::status(status))
    }

    /// Everything that the model `name` has.
    fn base_model(&mut self, name: &str) -> Result<Draft, StoreError> {
        let entry = match self.store.find(name) {
            Err(StoreError::ModelNotFound(_)) => {
                self.store.pull(name, Default::default(), self.report)?;
                self.store.find(name)?
            }
            other => other?,
        };
        match (&entry.location, self.store.stored(&entry)) {
            (_, Ok((root, stored))) => self.base_manifest(&entry, &root, &stored.manifest),
            (Location::Gguf(path), Err(_)) => {
                let mut draft = self.base_path(path)?;
                draft.parameters = self.store.settings(&entry)?.parameters;
                Ok(draft)
            }
            (Location::Folder(path), Err(_)) => self.base_path(path),
            (Location::Unsupported(why), Err(_)) => {
                Err(StoreError::invalid(format!("{}: {why}", entry.name)))
            }
        }
    }

    fn base_manifest(
        &mut self,
        entry: &Entry,
        root: &OllamaRoot,
        base: &Manifest,
    ) -> Result<Draft, StoreError> {
        let mut layers = Vec::new();
        for layer in &base.layers {
            self.store.bring_layer(self.writing, root, layer)?;
            self.status(format!("using existing layer {}", layer.digest))?;
            let from = layer.from.clone().or_else(|| Some(entry.name.clone()));
            let mut layer = layer.clone();
            layer.from = from;
            layers.push(layer);
        }
        let parameters = root.settings(base)?.parameters;
        Ok(Draft { layers, config: root.config(base), parameters })
    }

    /// GGUF blobs, or the blobs of a safetensors folder, by their file names.
    fn base_files(&mut self, files: &[(String, Digest)]) -> Result<Draft, StoreError> {
        let paths = self.blobs(files)?;
        if files.is_empty() {
            return Err(StoreError::invalid("neither 'from' or 'files' was specified"));
        }
        if paths.iter().any(|(name, _)| name.ends_with(".safetensors")) {
            let folder = convert::Folder::of_links(&self.writing.store.root.path, &paths)?;
            return self.converted(&folder.path);
        }
        let mut draft = Draft::default();
        self.status("parsing GGUF")?;
        for ((_, digest), (_, path)) in files.iter().zip(&paths) {
            let size = path.metadata().map_err(StoreError::io("a blob"))?.len();
            let gguf = open_gguf(path)?;
            self.add_gguf(&mut draft, &gguf, *digest, size)?;
        }
        Ok(draft)
    }

    /// Where the content of each file lies.
    fn blobs<'a>(&self, files: &'a [(String, Digest)]) -> Result<Vec<(&'a str, PathBuf)>, StoreError> {
        let path = |(name, digest): &'a (String, Digest)| {
            let blob = self.writing.store.root.blob(digest).ok_or(StoreError::BlobNotFound(*digest))?;
            Ok((name.as_str(), blob.0))
        };
        files.iter().map(path).collect()
    }

    /// The layer of an adapter that is a GGUF file, or that becomes one. It has to fit a base that can be served.
    fn adapter(&mut self, draft: &Draft, named: &Base) -> Result<Layer, StoreError> {
        let base = draft.layers.iter().find(|layer| layer.content() == Content::Model);
        let base =
            base.map(|layer| open_gguf(&self.writing.store.root.blob_path(&layer.digest))).transpose()?;
        let spec = base.map(|gguf| read_spec(&ModelFiles::from(gguf)));
        let digest = match named {
            Base::Files(files) => {
                let paths = self.blobs(files)?;
                if paths.iter().any(|(name, _)| name.ends_with(".safetensors")) {
                    let folder = convert::Folder::of_links(&self.writing.store.root.path, &paths)?;
                    return self.converted_adapter(&folder.path, spec);
                }
                let [(_, digest)] = files[..] else {
                    return Err(StoreError::invalid("only one adapter is currently supported"));
                };
                digest
            }
            Base::Path(path) if path.is_dir() => return self.converted_adapter(path, spec),
            Base::Path(path) => self.copied(path)?.0,
            Base::Model(name) => {
                let entry = self.store.find(name)?;
                let (root, stored) = self.store.stored(&entry)?;
                let mut layers = stored.manifest.layers.iter();
                let layer = layers.find(|layer| layer.content() == Content::Adapter);
                let none = || StoreError::invalid(format!("{} has no adapter", entry.name));
                let layer = layer.ok_or_else(none)?;
                self.store.bring_layer(self.writing, &root, layer)?;
                layer.digest
            }
        };
        let path = self.writing.store.root.blob_path(&digest);
        let gguf = open_gguf(&path)?;
        if let Some(Ok(spec)) = spec {
            Adapter::from_gguf(gguf, &spec).map_err(convert::unreadable)?;
        }
        let size = path.metadata().map_err(StoreError::io("a blob"))?.len();
        self.status(format!("using existing layer {digest}"))?;
        Ok(Layer::new(Content::Adapter, digest, size))
    }

    /// The layer of an adapter that is a folder of PEFT's, beside a base of this kind.
    fn converted_adapter(
        &mut self,
        folder: &Path,
        spec: Option<Result<ModelSpec, ModelError>>,
    ) -> Result<Layer, StoreError> {
        let none = || StoreError::invalid("there are no GGUF weights that an adapter could belong to");
        let spec = spec.ok_or_else(none)?.map_err(convert::unreadable)?;
        let (digest, size) = convert::adapter_to_gguf(self.writing, folder, &spec, self.report)?;
        Ok(Layer::new(Content::Adapter, digest, size))
    }

    /// A file of this machine as a blob: its digest and bytes.
    fn copied(&self, path: &Path) -> Result<(Digest, u64), StoreError> {
        let mut file = File::open(path).map_err(StoreError::io("the GGUF file"))?;
        self.writing.copy_in(&mut file, None, self.store.settings.max_blob_bytes)
    }

    /// A GGUF file or a safetensors folder of this machine.
    fn base_path(&mut self, path: &Path) -> Result<Draft, StoreError> {
        if path.is_dir() {
            return self.converted(path);
        }
        self.status("parsing GGUF")?;
        let gguf = open_gguf(path)?;
        if gguf.files().len() > 1 {
            return Err(StoreError::invalid(
                "a checkpoint in several GGUF files cannot be one layer; merge it first",
            ));
        }
        let (digest, size) = self.copied(path)?;
        let mut draft = Draft::default();
        self.add_gguf(&mut draft, &gguf, digest, size)?;
        Ok(draft)
    }

    fn converted(&mut self, folder: &Path) -> Result<Draft, StoreError> {
        let files = ModelFiles::open(folder).map_err(convert::unreadable)?;
        let (digest, size) = convert::to_gguf(self.writing, &files, self.report)?;
        let gguf = open_gguf(&self.writing.store.root.blob_path(&digest))?;
        let mut draft = Draft::default();
        self.add_gguf(&mut draft, &gguf, digest, size)?;
        Ok(draft)
    }

    /// A layer of weights, of an adapter, or of an image encoder, by what the file says it is.
    fn add_gguf(
        &mut self,
        draft: &mut Draft,
        gguf: &Gguf,
        digest: Digest,
        size: u64,
    ) -> Result<(), StoreError> {
        let metadata = gguf.metadata();
        let is = |key: &str, word: &str| metadata.text(key).ok().flatten() == Some(word);
        let content = if is("general.architecture", "clip") {
            Content::Projector
        } else if is("general.type", "adapter") {
            Content::Adapter
        } else {
            draft.config = config_of(gguf);
            Content::Model
        };
        self.status(format!("using already created layer {digest}"))?;
        draft.layers.push(Layer::new(content, digest, size));
        Ok(())
    }

    /// Replaces the weights by smaller ones.
    fn quantize(&mut self, draft: &mut Draft, mix: QuantMix) -> Result<(), StoreError> {
        let root = &self.writing.store.root;
        let Some(layer) = draft.layers.iter_mut().find(|layer| layer.content() == Content::Model) else {
            return Err(StoreError::invalid("there are no GGUF weights to quantize"));
        };
        let gguf = open_gguf(&root.blob_path(&layer.digest))?;
        let from = details::of_gguf(&gguf).quantization_level;
        if !matches!(from.as_str(), "F32" | "F16" | "BF16") {
            return Err(StoreError::invalid("quantization is only supported for F16, BF16 and F32 models"));
        }
        if from == mix.name() {
            return Ok(());
        }
        let status = format!("quantizing {from} model to {}", mix.name());
        let (digest, size) = convert::quantize(self.writing, gguf, mix, &status, self.report)?;
        *layer = Layer::new(Content::Model, digest, size);
        draft.config = config_of(&open_gguf(&root.blob_path(&digest))?);
        Ok(())
    }

    /// Adds what the request says beside the weights.
    fn complete(&mut self, draft: &mut Draft, request: &CreateRequest) -> Result<(), StoreError> {
        if let Some(adapter) = &request.adapter {
            let layer = self.adapter(draft, adapter)?;
            draft.layers.retain(|layer| layer.content() != Content::Adapter);
            draft.layers.push(layer);
        }
        let texts = [(Content::Template, &request.template), (Content::System, &request.system)];
        for (content, text) in texts {
            if let Some(text) = text {
                self.replace(draft, content, text.as_bytes())?;
            }
        }
        for license in &request.licenses {
            let layer = self.layer(Content::License, license.as_bytes())?;
            draft.layers.retain(|known| known.digest != layer.digest);
            draft.layers.push(layer);
        }
        let unwritten = !draft.layers.iter().any(|layer| layer.content() == Content::Params);
        if !request.parameters.is_empty() || (unwritten && !draft.parameters.is_empty()) {
            let mut merged: BTreeMap<String, Value> =
                std::mem::take(&mut draft.parameters).into_iter().collect();
            merged.extend(request.parameters.iter().map(|(name, value)| (name.clone(), as_go_writes(value))));
            self.replace(draft, Content::Params, &go_json(&merged.into_iter().collect()))?;
        }
        if !request.messages.is_empty() {
            let messages = serde_json::to_value(&request.messages).unwrap_or_default();
            self.replace(draft, Content::Messages, &go_json(&messages))?;
        }
        Ok(())
    }

    fn replace(&mut self, draft: &mut Draft, content: Content, bytes: &[u8]) -> Result<(), StoreError> {
        draft.layers.retain(|layer| layer.content() != content);
        let layer = self.layer(content, bytes)?;
        draft.layers.push(layer);
        Ok(())
    }

    fn layer(&mut self, content: Content, bytes: &[u8]) -> Result<Layer, StoreError> {
        let known = self.writing.store.root.blob(&Digest::of(bytes)).is_some();
        let (digest, size) = self.writing.bytes(bytes)?;
        let what = if known { "using existing layer" } else { "creating new layer" };
        self.status(format!("{what} {digest}"))?;
        Ok(Layer::new(content, digest, size))
    }
}

/// Go writes whole floats without a point.
fn as_go_writes(value: &Value) -> Value {
    match value.as_f64() {
        Some(number) if value.is_f64() && number.fract() == 0.0 && number.abs() < 1e15 => {
            Value::from(number as i64)
        }
        _ => value.clone(),
    }
}

fn open_gguf(path: &Path) -> Result<Gguf, StoreError> {
    // Asked first: to open a device or a pipe may never end.
    if !path.is_file() {
        return Err(StoreError::invalid("supplied file was not a regular file"));
    }
    Gguf::open(path).map_err(|error| {
        tracing::info!("refused a GGUF file: {error}");
        StoreError::invalid("supplied file was not in GGUF format, or is damaged")
    })
}

fn config_of(gguf: &Gguf) -> Config {
    Config::new(details::of_gguf(gguf))
}
