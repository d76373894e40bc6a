//! A model of the store to a registry.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ureq::http::{Method, StatusCode, header};

use super::client::{Call, CallBody, Session};
use super::progress::Shared;
use super::pull::{distinct, full_name};
use super::{RegistryError, Transfer};
use crate::entry::{Progress, Report, tell};
use crate::layout::ollama::{OllamaRoot, Stored};
use crate::manifest::{Layer, MANIFEST_TYPE};
use crate::name::ModelName;
use crate::{Store, StoreError};

/// Most bytes of one request.
const CHUNK_BYTES: u64 = 100_000_000;

impl Store {
    /// Sends a model to the registry that its name says. Content that is there is not sent again.
    ///
    /// # Errors
    /// [`RegistryError`]s, [`StoreError::ModelNotFound`], [`StoreError::Canceled`].
    pub fn push(
        self: &Arc<Self>,
        name: &str,
        transfer: Transfer,
        report: &mut Report<'_>,
    ) -> Result<(), StoreError> {
        let full = full_name(name, transfer)?;
        tell(report, Progress::status("retrieving manifest"))?;
        let (root, stored) = match self.find(&full.to_string()).and_then(|entry| self.stored(&entry)) {
            Ok(found) => found,
            Err(error) => {
                tell(report, Progress::status("couldn't retrieve manifest"))?;
                return Err(error);
            }
        };
        let shared = Arc::new(Shared::default());
        shared.join();
        let store = Arc::clone(self);
        shared.start(move |shared| push(&store, &full, transfer, (&root, &stored), shared))?;
        let result = shared.watch(report);
        shared.leave();
        result
    }
}

fn push(
    store: &Store,
    name: &ModelName,
    transfer: Transfer,
    (root, stored): (&OllamaRoot, &Stored),
    shared: &Shared,
) -> Result<(), StoreError> {
    let session = store.registry.session(name, transfer)?;
    for layer in distinct(&stored.manifest) {
        shared.check()?;
        let sent = shared.content("pushing", &layer.digest, layer.size);
        let (path, _) = root.blob(&layer.digest).ok_or(StoreError::BlobNotFound(layer.digest))?;
        let upload = Upload { session: &session, layer, path, sent: Arc::clone(&sent), shared };
        upload.run(name)?;
        sent.store(layer.size, Ordering::Relaxed);
    }
    shared.status("pushing manifest");
    let bytes = stored.bytes.clone();
    let length = bytes.len() as u64;
    let body = move || -> Box<dyn Read> { Box::new(io::Cursor::new(bytes.clone())) };
    let call = Call {
        body: Some(CallBody { length, make: &body }),
        ..Call::new(Method::PUT).with(header::CONTENT_TYPE, MANIFEST_TYPE)
    };
    let url = session.manifest_url(name.tag());
    let response = session.send(&url, &call)?;
    if !response.status().is_success() {
        return Err(RegistryError::Status { url, status: response.status().as_u16() }.into());
    }
    shared.status("success");
    Ok(())
}

/// One blob on its way out.
struct Upload<'a> {
    session: &'a Session<'a>,
    layer: &'a Layer,
    path: PathBuf,
    sent: Arc<AtomicU64>,
    shared: &'a Shared,
}

impl Upload<'_> {
    /// Sends it, from its beginning again if the connection breaks.
    fn run(&self, name: &ModelName) -> Result<(), StoreError> {
        let mut tries = self.session.registry.settings.tries.max(1);
        loop {
            self.shared.check()?;
            tries -= 1;
            match self.once(name) {
                Err(StoreError::Registry(error)) if error.is_outage() && tries > 0 => {
                    tracing::debug!("{}: {error}", self.layer.digest);
                    self.sent.store(0, Ordering::Relaxed);
                    std::thread::sleep(std::time::Duration::from_millis(200));
                }
                other => return other,
            }
        }
    }

    fn once(&self, name: &ModelName) -> Result<(), StoreError> {
        let Layer { digest, size, from, .. } = self.layer;
        let there = self.session.send(&self.session.blob_url(digest), &Call::new(Method::HEAD))?;
        if there.status() == StatusCode::OK {
            return Ok(());
        }
        // Content of another repository of the same registry need not be sent.
        let mount = from.as_ref().and_then(|from| from.parse::<ModelName>().ok());
        let mount = mount.filter(|from| from.host().eq_ignore_ascii_case(name.host()));
        let mount = mount.map(|from| format!("{}/{}", from.namespace(), from.model()));
        let url = self.session.uploads_url(mount.as_deref().map(|from| (digest, from)));
        let response = self.session.send(&url, &Call::new(Method::POST))?;
        let mut place = match response.status() {
            StatusCode::CREATED => return Ok(()),
            StatusCode::ACCEPTED => self.session.location(&url, response.headers())?,
            status => return Err(RegistryError::Status { url, status: status.as_u16() }.into()),
        };
        let mut at = 0;
        while at < *size {
            self.shared.check()?;
            let length = CHUNK_BYTES.min(size - at);
            place = self.chunk(&place, at, length)?;
            at += length;
        }
        let joint = if place.contains('?') { '&' } else { '?' };
        let url = format!("{place}{joint}digest={}", super::auth::percent(&digest.to_string()));
        let response = self.session.send(&url, &Call::new(Method::PUT))?;
        if response.status().is_success() {
            return Ok(());
        }
        let url = weirgate_hub::http::without_query(&url);
        Err(RegistryError::Status { url, status: response.status().as_u16() }.into())
    }

    /// Sends `length` bytes from `at`; returns where the next go.
    fn chunk(&self, url: &str, at: u64, length: u64) -> Result<String, StoreError> {
        let (path, sent) = (self.path.clone(), Arc::clone(&self.sent));
        let body = move || -> Box<dyn Read> {
            sent.store(at, Ordering::Relaxed);
            match region(&path, at, length) {
                Ok(inner) => Box::new(Counted { inner, sent: Arc::clone(&sent) }),
                // The length that was promised is not kept, and the request fails.
                Err(_) => Box::new(io::empty()),
            }
        };
        let call = Call { body: Some(CallBody { length, make: &body }), ..Call::new(Method::PATCH) }
            .with(header::CONTENT_TYPE, "application/octet-stream")
            .with(header::CONTENT_RANGE, format!("{at}-{}", at + length - 1));
        let response = self.session.send(url, &call)?;
        match response.status() {
            status if status.is_success() => Ok(self.session.location(url, response.headers())?),
            status => {
                let url = weirgate_hub::http::without_query(url);
                Err(RegistryError::Status { url, status: status.as_u16() }.into())
            }
        }
    }
}

fn region(path: &Path, at: u64, length: u64) -> io::Result<io::Take<File>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(at))?;
    Ok(file.take(length))
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    sent: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.sent.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}
