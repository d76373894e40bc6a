//! What all layouts share: details that are read once, files that stay in their folder, and what was found.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::entry::{Details, Entry, Kind, Location};
use crate::index::Index;
use crate::name::{Digest, ModelName};

/// Most paths that are remembered to have been warned of.
const MAX_WARNED: usize = 10_000;

/// Where what is not in the entry is read from.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// A manifest of the store in folder `root`.
    Manifest { root: PathBuf, name: ModelName },
    /// A folder of Jan's.
    Jan { folder: PathBuf },
    /// Nothing but the checkpoint.
    Plain,
}

/// What a store remembers from one look at its files to the next. Files that change are read again.
pub(crate) struct Scan {
    pub index: Index,
    warned: Mutex<HashSet<PathBuf>>,
}

impl Scan {
    pub fn new(index: Index) -> Self {
        Self { index, warned: Mutex::default() }
    }

    /// Says once that what lies at `path` is left out.
    pub fn skip(&self, path: &Path, why: &str) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.len() < MAX_WARNED && warned.insert(path.to_owned()) {
            tracing::warn!("{}: left out of the models: {why}", path.display());
        }
    }

    /// A checkpoint of `files`, without a manifest.
    pub fn plain(
        &self,
        name: String,
        kind: Kind,
        location: Location,
        files: &[(PathBuf, Metadata)],
        read: impl FnOnce() -> Details,
    ) -> Entry {
        let digest = fingerprint(files);
        let modified = files.iter().filter_map(|(_, metadata)| metadata.modified().ok()).max();
        Entry {
            name,
            kind,
            size: files.iter().fold(0, |sum, (_, metadata)| sum.saturating_add(metadata.len())),
            digest,
            modified: modified.unwrap_or(SystemTime::UNIX_EPOCH),
            details: self.index.details(digest, read),
            location,
            origin: Origin::Plain,
            files: files.iter().map(|(path, _)| path.clone()).collect(),
        }
    }
}

/// Of names, sizes and times: content is not read.
pub(crate) fn fingerprint(files: &[(PathBuf, Metadata)]) -> Digest {
    let mut text = String::new();
    for (path, metadata) in files {
        let modified =
            metadata.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        text += &format!("{}\0{}\0{:?}\n", path.display(), metadata.len(), modified);
    }
    Digest::of(text.as_bytes())
}

/// The regular files of `folder` that lie within `root` once links are followed, by name.
pub(crate) fn files_in(root: &Path, folder: &Path) -> Vec<(PathBuf, Metadata)> {
    let mut files: Vec<(PathBuf, Metadata)> = children(folder)
        .into_iter()
        .filter_map(|path| {
            let metadata = fs::metadata(&path).ok().filter(Metadata::is_file)?;
            confined(root, &path).map(|_| (path, metadata))
        })
        .collect();
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    files
}

/// What `folder` holds, sorted; nothing where it cannot be listed.
pub(crate) fn children(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// A file's name as text; empty where it has none.
pub(crate) fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// `path` with its links followed, if that stays within `root`.
pub(crate) fn confined(root: &Path, path: &Path) -> Option<PathBuf> {
    let real = fs::canonicalize(path).ok()?;
    real.starts_with(fs::canonicalize(root).ok()?).then_some(real)
}
