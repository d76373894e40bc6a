//! The standard cache layout:
//!
//! ```text
//! models--org--name/
//!   blobs/<etag>                      content, named by its hash
//!   refs/<revision>                   the commit a branch or tag meant last
//!   snapshots/<commit>/<file>   →     ../../blobs/<etag>
//! .locks/models--org--name/<etag>.lock
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::Snapshot;
use crate::client::Etag;
use crate::error::HubError;
use crate::id::{Commit, FileName, ModelId, Revision};
use crate::select::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};

/// The part of the cache that belongs to one model.
pub(crate) struct RepoCache {
    pub id: ModelId,
    /// The whole cache.
    pub root: PathBuf,
    folder: PathBuf,
    locks: PathBuf,
}

#[derive(Deserialize)]
struct WeightIndex {
    weight_map: std::collections::HashMap<String, String>,
}

impl RepoCache {
    pub fn new(root: &Path, id: &ModelId) -> Self {
        let name = format!("models--{}", id.as_str().replace('/', "--"));
        Self {
            id: id.clone(),
            root: root.to_owned(),
            folder: root.join(&name),
            locks: root.join(".locks").join(&name),
        }
    }

    pub fn snapshot(&self, commit: &Commit) -> PathBuf {
        self.folder.join("snapshots").join(commit.as_str())
    }

    pub fn blob(&self, etag: &Etag) -> PathBuf {
        self.folder.join("blobs").join(etag.as_str())
    }

    /// Whether the snapshot's link leads to a file.
    pub fn has(&self, commit: &Commit, file: &FileName) -> bool {
        self.snapshot(commit).join(file.as_str()).is_file()
    }

    pub fn create_folders(&self, commit: &Commit) -> Result<(), HubError> {
        for folder in [self.folder.join("blobs"), self.snapshot(commit)] {
            fs::create_dir_all(&folder).map_err(HubError::io(&folder))?;
        }
        Ok(())
    }

    /// # Errors
    /// [`HubError::DiskFull`] when `needed` bytes do not fit.
    pub fn check_space(&self, needed: u64) -> Result<(), HubError> {
        // Not every file system can tell; then the write will.
        let Ok(stat) = rustix::fs::statvfs(&self.folder) else { return Ok(()) };
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if needed > free {
            return Err(HubError::DiskFull { folder: self.root.clone(), needed, free });
        }
        Ok(())
    }

    /// Waits until nobody else writes what is called `name`: the ETag of content, or `refs`. Held until dropped.
    pub fn lock(&self, name: &str) -> Result<File, HubError> {
        fs::create_dir_all(&self.locks).map_err(HubError::io(&self.locks))?;
        let path = self.locks.join(format!("{name}.lock"));
        let file = File::create(&path).map_err(HubError::io(&path))?;
        file.lock().map_err(HubError::io(&path))?;
        Ok(file)
    }

    /// Makes `file` of the snapshot lead to the content.
    pub fn link(&self, commit: &Commit, file: &FileName, etag: &Etag) -> Result<(), HubError> {
        let path = self.snapshot(commit).join(file.as_str());
        let plain = file.as_str().replace('/', "+");
        let temporary = self.snapshot(commit).join(format!(".{plain}.{}", std::process::id()));
        let mut target = Path::new("../../blobs").join(etag.as_str());
        if let Some(folder) = file.folder() {
            let folder = self.snapshot(commit).join(folder);
            fs::create_dir_all(&folder).map_err(HubError::io(&folder))?;
            target = Path::new("..").join(target);
        }
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(HubError::Io { path: temporary, source: error });
            }
            _ => {}
        }
        symlink(target, &temporary).map_err(HubError::io(&temporary))?;
        fs::rename(&temporary, &path).map_err(HubError::io(path))
    }

    /// Remembers what a branch or tag means, for times without a network.
    pub fn write_ref(&self, revision: &Revision, commit: &Commit) -> Result<(), HubError> {
        if revision.as_commit().is_some() {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision.as_str());
        if fs::read_to_string(&path).is_ok_and(|known| known == commit.as_str()) {
            return Ok(());
        }
        let _lock = self.lock("refs")?;
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).map_err(HubError::io(folder))?;
        let temporary = folder.join(format!(".tmp.{}", std::process::id()));
        fs::write(&temporary, commit.as_str()).map_err(HubError::io(&temporary))?;
        fs::rename(&temporary, &path).map_err(HubError::io(path))
    }

    /// What the cache has of `revision`, without asking anyone.
    ///
    /// # Errors
    /// [`HubError::IncompleteCopy`] when there is something but not all of it.
    pub fn find(&self, revision: &Revision) -> Result<Option<Snapshot>, HubError> {
        let reference = self.folder.join("refs").join(revision.as_str());
        let commit =
            revision.as_commit().or_else(|| Commit::parse(fs::read_to_string(reference).ok()?.trim()));
        let Some(commit) = commit else { return Ok(None) };
        let folder = self.snapshot(&commit);
        if !folder.is_dir() {
            return Ok(None);
        }
        match missing_file(&folder)? {
            Some(missing) => Err(HubError::IncompleteCopy { folder, missing }),
            None => Ok(Some(Snapshot { folder, commit: commit.to_string() })),
        }
    }
}

/// The first file that a server needs and `folder` lacks. Interrupted downloads leave such folders behind.
fn missing_file(folder: &Path) -> Result<Option<String>, HubError> {
    let has = |name: &str| folder.join(name).is_file();
    if !has("config.json") && has(ADAPTER_CONFIG) {
        return Ok((!has(ADAPTER_WEIGHTS)).then(|| ADAPTER_WEIGHTS.to_owned()));
    }
    if !has("config.json") {
        return Ok(Some("config.json".to_owned()));
    }
    if !has("tokenizer.json") && !has("tokenizer.model") {
        return Ok(Some("tokenizer.json".to_owned()));
    }
    let index = folder.join("model.safetensors.index.json");
    if index.is_file() {
        let text = fs::read_to_string(&index).map_err(HubError::io(&index))?;
        let index: WeightIndex = serde_json::from_str(&text)
            .map_err(|error| HubError::Io { path: index, source: io::Error::other(error) })?;
        let files: BTreeSet<String> = index.weight_map.into_values().collect();
        return Ok(files.into_iter().find(|file| !has(file)));
    }
    let any_weights = fs::read_dir(folder).map_err(HubError::io(folder))?.flatten().any(|entry| {
        entry.path().extension().is_some_and(|extension| extension == "safetensors") && entry.path().is_file()
    });
    Ok((!any_weights).then(|| "model.safetensors".to_owned()))
}
