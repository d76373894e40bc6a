//! Hugging Face cache folders: `models--org--name/snapshots/<commit>/` of links into `blobs/`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::entry::{Entry, Kind};
use crate::layout::gguf;
use crate::layout::scan::{Scan, children, confined, name_of};

/// All checkpoints in the cache at `cache`.
pub(crate) fn scan(scan: &Scan, cache: &Path) -> Vec<Entry> {
    let mut found = Vec::new();
    for repo in children(cache) {
        let Some(id) = name_of(&repo).strip_prefix("models--") else { continue };
        let id = id.replacen("--", "/", 1);
        let Some(snapshot) = snapshot(&repo) else { continue };
        if confined(cache, &snapshot).is_none() {
            continue;
        }
        if gguf::is_checkpoint(&snapshot) {
            found.push(gguf::folder_entry(scan, cache, &snapshot, id, Kind::HubCache));
            continue;
        }
        for path in children(&snapshot).into_iter().filter(|path| gguf::is_model_file(path)) {
            let name = format!("{id}:{}", gguf::stem(name_of(&path)));
            found.extend(gguf::file_entry(scan, cache, &path, &name, Kind::HubCache));
        }
    }
    found
}

/// The folder that `main` means, or else the one that was made last.
fn snapshot(repo: &Path) -> Option<PathBuf> {
    let snapshots = repo.join("snapshots");
    if let Ok(commit) = fs::read_to_string(repo.join("refs/main")) {
        let commit = commit.trim();
        let folder = snapshots.join(commit);
        if commit.bytes().all(|b| b.is_ascii_hexdigit()) && !commit.is_empty() && folder.is_dir() {
            return Some(folder);
        }
    }
    let made = |path: &PathBuf| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    children(&snapshots).into_iter().filter(|path| path.is_dir()).max_by_key(made)
}
