//! Stores to test on.

// Each test file uses its own part of this.
#![allow(dead_code)]

pub mod fake;

use std::fs;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use weirgate_models::{GgufValue, GgufWriter};
use weirgate_store::{
    CreateRequest, Digest, ModelName, Modelfile, Progress, RegistrySettings, Store, StoreError, StoreSettings,
};

/// A store of our own in `folder`, with registries on this machine allowed and small parts.
pub fn settings(folder: &Path) -> StoreSettings {
    let registry = RegistrySettings {
        private_hosts: vec!["127.0.0.1".to_owned()],
        part_bytes: (100_000, 1_000_000),
        tries: 3,
        ..RegistrySettings::default()
    };
    StoreSettings { models: Some(folder.to_owned()), registry, ..StoreSettings::default() }
}

pub fn open(folder: &Path) -> Arc<Store> {
    Arc::new(Store::open(settings(folder)).unwrap())
}

pub fn name(text: &str) -> ModelName {
    text.parse().unwrap()
}

/// A GGUF file with nothing in it.
pub fn empty_gguf() -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend([0; 16]);
    bytes
}

/// A GGUF file of its own for each `label`.
pub fn labelled_gguf(label: &str) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", GgufValue::String("llama".to_owned()));
    writer.set("general.name", GgufValue::String(label.to_owned()));
    let mut bytes = Vec::new();
    writer.write(&mut bytes).unwrap();
    bytes
}

/// Puts `bytes` into the store.
pub fn blob(store: &Store, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    store.put_blob(&digest, &mut &bytes[..]).unwrap();
    digest
}

/// All lines of progress of `work`.
pub fn lines(
    work: impl FnOnce(&mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<(), StoreError>,
) -> Result<Vec<Progress>, StoreError> {
    let mut lines = Vec::new();
    work(&mut |progress| {
        lines.push(progress);
        ControlFlow::Continue(())
    })?;
    Ok(lines)
}

/// A small file system, where this user may mount one.
pub struct SmallDisk(pub PathBuf);

impl SmallDisk {
    /// `None`, and a line that says so past what the test harness keeps to itself, where this user may not.
    ///
    /// # Panics
    /// For root, where it is not a container that refuses it: there the tests that need it are not to pass without it.
    pub fn mount(at: PathBuf, bytes: u64) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at).output();
        if mounted.as_ref().is_ok_and(|done| done.status.success()) {
            return Some(Self(at));
        }
        let why = mounted.map_or_else(
            |error| error.to_string(),
            |done| String::from_utf8_lossy(&done.stderr).trim().to_owned(),
        );
        let root = fs::metadata("/proc/self").unwrap().uid() == 0;
        let refused = ["denied", "not permitted"].iter().any(|word| why.contains(word));
        assert!(!root || refused, "no small disk could be mounted: {why}");
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let line = format!("SKIPPED {test}: no small disk can be mounted here: {why}\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// The names of all files in the store's `blobs`, sorted.
pub fn blob_files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder.join("blobs")).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What must hold of a store at any time: every manifest is whole, every blob it names is here with its content.
pub fn check_integrity(folder: &Path) {
    let manifests = folder.join("manifests");
    for path in files_below(&manifests) {
        if path.file_name().unwrap().to_str().unwrap().starts_with('.') {
            continue;
        }
        let manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let layers = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
        for layer in layers {
            let digest = layer["digest"].as_str().unwrap();
            let blob = folder.join("blobs").join(digest.replace(':', "-"));
            let bytes =
                fs::read(&blob).unwrap_or_else(|error| panic!("{} of {}: {error}", digest, path.display()));
            assert_eq!(bytes.len() as u64, layer["size"].as_u64().unwrap(), "{digest}");
        }
    }
    for name in blob_files(folder) {
        if name.len() == "sha256-".len() + 64 {
            let bytes = fs::read(folder.join("blobs").join(&name)).unwrap();
            assert_eq!(format!("sha256-{}", Digest::of(&bytes).hex()), name, "content of a blob");
        }
    }
}

pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

/// Creates a model; the status of each line of progress.
pub fn create(store: &Arc<Store>, request: &CreateRequest) -> Result<Vec<String>, StoreError> {
    let lines = lines(|report| store.create(request, report))?;
    Ok(lines.into_iter().map(|line| line.status).collect())
}

/// As [`create`], from a Modelfile.
pub fn from_modelfile(store: &Arc<Store>, model: &str, text: &str) -> Result<Vec<String>, StoreError> {
    create(store, &CreateRequest::from_modelfile(name(model), &Modelfile::parse(text).unwrap(), None)?)
}

/// The demo model as a Hugging Face folder.
pub fn demo_files(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for (name, contents) in weirgate_demo_model::FILES {
        fs::write(folder.join(name), contents).unwrap();
    }
}
