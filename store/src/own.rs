//! The one store that is written to, in Ollama's layout. Content and manifests come into being under temporary names
//! and take their own once they are whole and on disk, so a crash at any moment leaves nothing half-written in sight.
//!
//! Writers hold `.weirgate/lock` shared from before they look for the first blob until their manifest stands; content
//! is removed by whoever has it alone. So nothing that a write in progress refers to is ever removed, by this process
//! or another. What could be removed while somebody writes is noted in `.weirgate/candidates` and removed later.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use crate::StoreError;
use crate::layout::ollama::OllamaRoot;
use crate::manifest::{Layer, Manifest};
use crate::name::{Digest, ModelName};

const FOLDER: &str = ".weirgate";
const LOCK: &str = "lock";
const CANDIDATES: &str = "candidates";
const INDEX: &str = "index.sqlite3";
const TEMPORARY: &str = ".weirgate-";
/// What folders of conversions under way begin with.
pub(crate) const CONVERSION: &str = "convert-";
const BUFFER_BYTES: usize = 1 << 20;
/// Unreferenced content is kept this long: a blob may have been sent for a model that is still to be created.
const KEEP_UNREFERENCED: Duration = Duration::from_secs(24 * 60 * 60);
/// Interrupted downloads are kept this long.
const KEEP_PARTIAL: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Tries to make a folder that somebody else removes at the same time.
const FOLDER_TRIES: usize = 100;

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// The store that belongs to us.
#[derive(Debug, Clone)]
pub(crate) struct OwnStore {
    pub root: OllamaRoot,
    /// Whether content that no model uses stays, however old.
    keep_unused: bool,
}

/// Held while something is written; nothing is removed meanwhile.
pub(crate) struct Writing<'a> {
    pub store: &'a OwnStore,
    /// Released with the file.
    lock: Option<File>,
}

impl OwnStore {
    /// Makes the folders, and removes what a crash left behind.
    ///
    /// # Errors
    /// Folders that cannot be made.
    pub fn open(path: &Path, keep_unused: bool) -> Result<Self, StoreError> {
        let root = OllamaRoot::new(path);
        for folder in [root.manifests(), root.blobs(), path.join(FOLDER)] {
            fs::create_dir_all(&folder).map_err(StoreError::io("the model store"))?;
        }
        let store = Self { root, keep_unused };
        store.collect();
        Ok(store)
    }

    /// Where what was read of models is kept.
    pub fn index_file(&self) -> PathBuf {
        self.root.path.join(FOLDER).join(INDEX)
    }

    fn lock_file(&self) -> Result<File, StoreError> {
        let path = self.root.path.join(FOLDER).join(LOCK);
        let options = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        options.map_err(StoreError::io("the store's lock"))
    }

    /// Begins to write.
    ///
    /// # Errors
    /// A lock that cannot be had.
    pub fn write(&self) -> Result<Writing<'_>, StoreError> {
        let lock = self.lock_file()?;
        lock.lock_shared().map_err(StoreError::io("the store's lock"))?;
        Ok(Writing { store: self, lock: Some(lock) })
    }

    /// Removes the manifest of `name`, then what it alone referred to.
    ///
    /// # Errors
    /// [`StoreError::ModelNotFound`].
    pub fn delete(&self, name: &ModelName) -> Result<(), StoreError> {
        let writing = self.write()?;
        let not_found = || StoreError::ModelNotFound(name.to_string());
        let name = self.root.spelled(name).ok_or_else(not_found)?;
        if let Ok(stored) = self.root.read(&name) {
            self.note_candidates(stored.manifest.all().map(|layer| layer.digest))?;
        }
        let path = self.root.manifest_path(&name);
        fs::remove_file(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => not_found(),
            _ => StoreError::io(format!("the manifest of {name}"))(error),
        })?;
        let folders: Vec<&Path> = path.ancestors().skip(1).take(3).collect();
        if let Some(folder) = folders.first() {
            sync_folder(folder).map_err(StoreError::io("the manifests"))?;
        }
        // Only empty folders go; others stay, as they should.
        let _ = folders.into_iter().try_for_each(fs::remove_dir);
        drop(writing);
        Ok(())
    }

    /// Notes content that may be removed once nothing refers to it.
    fn note_candidates(&self, digests: impl Iterator<Item = Digest>) -> Result<(), StoreError> {
        let lines: String = digests.map(|digest| format!("{digest}\n")).collect();
        let path = self.root.path.join(FOLDER).join(CANDIDATES);
        let write = || {
            let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
            file.write_all(lines.as_bytes())?;
            file.sync_all()
        };
        write().map_err(StoreError::io("the list of removable blobs"))
    }

    /// Removes content that nothing refers to, if nobody writes. Fails in silence: the next one does it.
    fn collect(&self) {
        let Ok(lock) = self.lock_file() else { return };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return,
            Err(TryLockError::Error(error)) => {
                tracing::warn!("the model store cannot be locked: {error}");
                return;
            }
        }
        let noted = self.root.path.join(FOLDER).join(CANDIDATES);
        let text = fs::read_to_string(&noted).unwrap_or_default();
        let candidates: HashSet<Digest> = text.lines().filter_map(|line| line.parse().ok()).collect();
        let Some(used) = self.referenced() else { return };
        let unused_for = |entry: &fs::DirEntry, age| !self.keep_unused && is_older(entry, age);
        for entry in fs::read_dir(self.root.blobs()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            let removable = match name.parse::<Digest>() {
                Ok(digest) if used.contains(&digest) => false,
                Ok(digest) => candidates.contains(&digest) || unused_for(&entry, KEEP_UNREFERENCED),
                Err(_) if name.starts_with(TEMPORARY) => true,
                Err(_) => name.contains("-partial") && unused_for(&entry, KEEP_PARTIAL),
            };
            if removable && let Err(error) = fs::remove_file(entry.path()) {
                tracing::warn!("{}: cannot be removed: {error}", entry.path().display());
            }
        }
        for entry in fs::read_dir(self.root.manifests()).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY)) {
                let _ = fs::remove_file(entry.path());
            }
        }
        for entry in fs::read_dir(work_folder(&self.root.path)).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(CONVERSION)) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let _ = fs::remove_file(noted);
    }

    /// All digests that manifests name; `None` where one cannot be read: then nothing may be removed.
    fn referenced(&self) -> Option<HashSet<Digest>> {
        let mut used = HashSet::new();
        for name in self.root.names() {
            match self.root.read(&name) {
                Ok(stored) => used.extend(stored.manifest.all().map(|layer| layer.digest)),
                Err(error) => {
                    tracing::warn!("unused blobs are kept: {error}");
                    return None;
                }
            }
        }
        Some(used)
    }
}

/// Where a store keeps what is no model.
pub(crate) fn work_folder(store: &Path) -> PathBuf {
    store.join(FOLDER)
}

fn is_older(entry: &fs::DirEntry, age: Duration) -> bool {
    let modified = entry.metadata().and_then(|metadata| metadata.modified()).ok();
    modified.and_then(|time| SystemTime::now().duration_since(time).ok()).is_some_and(|old| old > age)
}

/// Makes a rename or removal in `folder` last.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.lock = None;
        if self.store.root.path.join(FOLDER).join(CANDIDATES).exists() {
            self.store.collect();
        }
    }
}

impl Writing<'_> {
    /// A new blob, which takes its name at [`BlobWriter::finish`].
    ///
    /// # Errors
    /// A file that cannot be made.
    pub fn blob(&self) -> Result<BlobWriter, StoreError> {
        let blobs = self.store.root.blobs();
        let (path, file) = temporary(&blobs).map_err(StoreError::io("a blob"))?;
        Ok(BlobWriter { root: self.store.root.clone(), path, file: Some(file), hash: Sha256::new(), size: 0 })
    }

    /// Stores `bytes` as a blob.
    ///
    /// # Errors
    /// Those of writing.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(Digest, u64), StoreError> {
        let digest = Digest::of(bytes);
        if let Some((_, size)) = self.store.root.blob(&digest) {
            return Ok((digest, size));
        }
        let mut blob = self.blob()?;
        blob.write_all(bytes).map_err(|error| blob.failed(error, bytes.len() as u64))?;
        blob.finish(Some(&digest))
    }

    /// Stores what `source` gives as a blob, at most `limit` bytes; it must be `expected` where that is given.
    ///
    /// # Errors
    /// [`StoreError::DigestMismatch`], [`StoreError::TooLarge`], [`StoreError::DiskFull`], those of reading and writing.
    pub fn copy_in(
        &self,
        source: &mut dyn Read,
        expected: Option<&Digest>,
        limit: u64,
    ) -> Result<(Digest, u64), StoreError> {
        let mut blob = self.blob()?;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let n = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(StoreError::io("the upload")(error)),
            };
            if blob.size.saturating_add(n as u64) > limit {
                return Err(StoreError::TooLarge { what: "the blob".to_owned(), limit });
            }
            let bytes = buffer.get(..n).unwrap_or_default();
            blob.write_all(bytes).map_err(|error| blob.failed(error, n as u64))?;
        }
        blob.finish(expected)
    }

    /// Makes the content of `layer`, which another store has at `path`, a blob of this one.
    ///
    /// # Errors
    /// As for [`Writing::copy_in`].
    pub fn bring(&self, path: &Path, layer: &Layer, limit: u64) -> Result<(), StoreError> {
        let what = || format!("blob {}", layer.digest);
        let root = &self.store.root;
        let mut file = File::open(path).map_err(StoreError::io(what()))?;
        // A second name for the same content costs no space; across file systems it has to be copied.
        let linked = temporary_path(&root.blobs());
        if fs::hard_link(path, &linked).is_err() {
            self.copy_in(&mut file, Some(&layer.digest), limit)?;
            return Ok(());
        }
        let named = digest_of(&mut file).and_then(|actual| {
            if actual == layer.digest {
                file.sync_all()?;
                fs::rename(&linked, root.blob_path(&actual))?;
                sync_folder(&root.blobs())?;
            }
            Ok(actual)
        });
        // To give a file the name that it has does nothing, so this one may be left.
        let _ = fs::remove_file(&linked);
        match named.map_err(StoreError::io(what()))? {
            actual if actual == layer.digest => Ok(()),
            actual => Err(StoreError::DigestMismatch { expected: layer.digest, actual }),
        }
    }

    /// Makes `name` mean the manifest `bytes`, whose blobs are here.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`], [`StoreError::BlobNotFound`], those of writing.
    pub fn manifest(&self, name: &ModelName, bytes: &[u8]) -> Result<(), StoreError> {
        let root = &self.store.root;
        let what = || format!("the manifest of {name}");
        let manifest = Manifest::parse(bytes).map_err(|problem| StoreError::corrupt(what(), problem))?;
        if let Some(missing) = manifest.all().find(|layer| !self.has(layer)) {
            return Err(StoreError::BlobNotFound(missing.digest));
        }
        let path = root.manifest_path(name);
        match root.spelled(name) {
            Some(known) if root.manifest_path(&known) != path => return Err(StoreError::NameTaken),
            Some(_) => {
                if let Ok(old) = root.read(name) {
                    self.store.note_candidates(old.manifest.all().map(|layer| layer.digest))?;
                }
            }
            None => {}
        }
        let (partial, mut file) = temporary(&root.manifests()).map_err(StoreError::io(what()))?;
        let written =
            file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| place(&partial, &path));
        if let Err(error) = written {
            let _ = fs::remove_file(&partial);
            return Err(write_error(&root.manifests(), &what(), bytes.len() as u64)(error));
        }
        Ok(())
    }

    /// Whether the layer's content is here, whole.
    pub fn has(&self, layer: &Layer) -> bool {
        self.store.root.blob(&layer.digest).is_some_and(|(_, size)| size == layer.size)
    }
}

fn digest_of(source: &mut dyn Read) -> io::Result<Digest> {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; BUFFER_BYTES]);
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(Digest::finish(hash)),
            Ok(n) => hash.update(buffer.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Renames into a folder that is made first; somebody else may be removing it as an empty one.
fn place(partial: &Path, path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    let mut last = io::Error::from(ErrorKind::NotFound);
    for _ in 0..FOLDER_TRIES {
        match fs::create_dir_all(folder).and_then(|()| fs::rename(partial, path)) {
            Ok(()) => return sync_up(folder),
            // Removed behind `rename`'s back, or between two looks that making it took.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => {
                last = error
            }
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Makes a file in `folder` last, and the three folders above it, which may be new.
fn sync_up(folder: &Path) -> io::Result<()> {
    for folder in folder.ancestors().take(4) {
        match sync_folder(folder) {
            // Somebody else removed the model again.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
    }
    Ok(())
}

/// What no other file of this process is called, and no other process calls its own.
fn temporary_path(folder: &Path) -> PathBuf {
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    folder.join(format!("{TEMPORARY}{}-{number}", std::process::id()))
}

/// A new file in `folder`.
fn temporary(folder: &Path) -> io::Result<(PathBuf, File)> {
    loop {
        let path = temporary_path(folder);
        match OpenOptions::new().create_new(true).write(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Content on its way to becoming a blob; hashed as it is written.
pub(crate) struct BlobWriter {
    root: OllamaRoot,
    path: PathBuf,
    /// Until it has its name.
    file: Option<File>,
    hash: Sha256,
    size: u64,
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = self.file.as_mut().ok_or(ErrorKind::NotFound)?;
        let n = file.write(bytes)?;
        self.hash.update(bytes.get(..n).unwrap_or_default());
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter {
    /// What a failed write of `needed` bytes means.
    pub fn failed(&self, error: io::Error, needed: u64) -> StoreError {
        write_error(&self.root.blobs(), "a blob", needed)(error)
    }

    /// Makes it last and gives it its name. Returns digest and size.
    ///
    /// # Errors
    /// [`StoreError::DigestMismatch`] where it is not `expected`; those of writing.
    pub fn finish(mut self, expected: Option<&Digest>) -> Result<(Digest, u64), StoreError> {
        let digest = Digest::finish(std::mem::take(&mut self.hash));
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            return Err(StoreError::DigestMismatch { expected: *expected, actual: digest });
        }
        let path = self.root.blob_path(&digest);
        let what = || format!("blob {digest}");
        // The same content may be there already; to name it anew does no harm.
        if let Some(file) = &self.file {
            file.sync_all().map_err(write_error(&self.root.blobs(), &what(), self.size))?;
        }
        fs::rename(&self.path, &path).map_err(StoreError::io(what()))?;
        self.file = None;
        sync_folder(&self.root.blobs()).map_err(StoreError::io(what()))?;
        Ok((digest, self.size))
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What a failed write in `folder` means: a full disk has an error of its own.
pub(crate) fn write_error(folder: &Path, what: &str, needed: u64) -> impl FnOnce(io::Error) -> StoreError {
    let (folder, what) = (folder.to_owned(), what.to_owned());
    move |error| match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            StoreError::DiskFull { needed, free: free_space(&folder).unwrap_or(0) }
        }
        _ => StoreError::io(what)(error),
    }
}

/// Bytes free below `folder`, where the system can tell.
pub(crate) fn free_space(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
