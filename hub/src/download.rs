//! One file: `blobs/<etag>.incomplete` grows, over several connections if need be, is checked, and only then takes
//! its name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::cache::RepoCache;
use crate::client::{Client, Etag, FileMeta};
use crate::error::HubError;
use crate::id::{Commit, FileName};
use crate::progress::Progress;

/// Connections in a row that bring nothing.
const FRUITLESS_TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const BUFFER_BYTES: usize = 256 << 10;

pub(crate) struct Download<'a> {
    pub client: &'a Client,
    pub cache: &'a RepoCache,
    pub progress: &'a Progress<'a>,
    /// Set when another download failed.
    pub stop: &'a AtomicBool,
}

/// How one connection ended.
enum Pass {
    /// The server sent all it had.
    End,
    /// The connection broke.
    Broken,
}

impl Download<'_> {
    /// Brings `file` of `commit` into the cache and the snapshot.
    pub fn run(&self, commit: &Commit, file: &FileName) -> Result<(), HubError> {
        let meta = self.client.file_meta(&self.cache.id, commit, file)?;
        let blob = self.cache.blob(&meta.etag);
        let _lock = self.cache.lock(meta.etag.as_str())?;
        let complete = fs::metadata(&blob)
            .is_ok_and(|found| found.is_file() && meta.size.is_none_or(|size| size == found.len()));
        if !complete {
            self.fetch(commit, file, &meta, &blob)?;
        } else if let Some(size) = meta.size {
            self.progress.advance(size);
        }
        self.cache.link(commit, file, &meta.etag)
    }

    fn fetch(&self, commit: &Commit, file: &FileName, meta: &FileMeta, blob: &Path) -> Result<(), HubError> {
        let mut partial = Partial::open(blob, &meta.etag)?;
        if meta.size.is_some_and(|size| partial.len > size) {
            partial.restart()?;
        }
        self.progress.advance(partial.len);
        let mut fruitless = 0;
        let mut pause = FIRST_PAUSE;
        while partial.len == 0 || meta.size != Some(partial.len) {
            let best = partial.len;
            let pass = self.pass(commit, file, &mut partial)?;
            match (pass, meta.size) {
                (Pass::End, None) => break,
                (Pass::End, Some(size)) if partial.len == size => break,
                (Pass::End, Some(expected)) if partial.len > expected => {
                    partial.remove()?;
                    return Err(HubError::WrongSize { file: file.to_string(), got: partial.len, expected });
                }
                _ => {}
            }
            fruitless = if partial.len > best { 0 } else { fruitless + 1 };
            if fruitless >= FRUITLESS_TRIES {
                let expected = meta.size.unwrap_or(0);
                return Err(HubError::Truncated { file: file.to_string(), got: partial.len, expected });
            }
            if fruitless > 0 {
                std::thread::sleep(pause);
                pause *= 2;
            }
        }
        partial.finish(file, meta, blob)
    }

    /// Reads one connection to its end.
    fn pass(&self, commit: &Commit, file: &FileName, partial: &mut Partial) -> Result<Pass, HubError> {
        let mut content = match self.client.content(&self.cache.id, commit, file, partial.len) {
            Ok(content) => content,
            Err(error) if error.is_outage() => return Ok(Pass::Broken),
            Err(error) => return Err(error),
        };
        if content.from != partial.len {
            partial.restart()?;
        }
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(HubError::Stopped);
            }
            match content.body.read(&mut buffer) {
                Ok(0) => return Ok(Pass::End),
                Ok(n) => {
                    partial.append(buffer.get(..n).unwrap_or_default())?;
                    if !self.progress.advance(n as u64) {
                        return Err(HubError::Stopped);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::debug!("{file}: connection broke at {} bytes: {error}", partial.len);
                    return Ok(Pass::Broken);
                }
            }
        }
    }
}

/// A file that is on its way.
struct Partial {
    path: PathBuf,
    file: File,
    len: u64,
    /// Of what is there so far, where the ETag is a sha256.
    hash: Option<Sha256>,
}

impl Partial {
    /// Goes on with what an earlier run left.
    fn open(blob: &Path, etag: &Etag) -> Result<Self, HubError> {
        let path = blob.with_file_name(format!("{}.incomplete", etag.as_str()));
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(&path)
            .map_err(HubError::io(&path))?;
        let mut hash = etag.sha256().map(|_| Sha256::new());
        let mut len = 0;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let n = file.read(&mut buffer).map_err(HubError::io(&path))?;
            if n == 0 {
                return Ok(Self { path, file, len, hash });
            }
            len += n as u64;
            if let Some(hash) = &mut hash {
                hash.update(buffer.get(..n).unwrap_or_default());
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(HubError::io(&self.path))?;
        self.len += bytes.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).map_err(HubError::io(&self.path))?;
        self.len = 0;
        self.hash = self.hash.take().map(|_| Sha256::new());
        Ok(())
    }

    fn remove(&self) -> Result<(), HubError> {
        fs::remove_file(&self.path).map_err(HubError::io(&self.path))
    }

    /// Checks the content and gives it its name.
    fn finish(mut self, file: &FileName, meta: &FileMeta, blob: &Path) -> Result<(), HubError> {
        if let (Some(hash), Some(expected)) = (self.hash.take(), meta.etag.sha256()) {
            let actual: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            if actual != expected {
                self.remove()?;
                return Err(HubError::Checksum {
                    file: file.to_string(),
                    expected: expected.to_owned(),
                    actual,
                });
            }
        }
        self.file.sync_all().map_err(HubError::io(&self.path))?;
        fs::rename(&self.path, blob).map_err(HubError::io(blob))
    }
}
