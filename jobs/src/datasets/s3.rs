//! Data sets in an S3 bucket: `<prefix>/<id>/data.jsonl`, and `metadata.json` once that is complete.
//!
//! The library's own HTTP client brings a hundred crates; its requests go through the one that is here already.

use std::fmt;
use std::fs::{self, File};
use std::future::Future;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as Tcp;
use hyper_util::rt::TokioExecutor;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use object_store::multipart::MultipartStore;
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutPayload, RetryConfig};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use super::{CONTENT, DatasetError, Files, METADATA, write, write_error};
use crate::error::JobsError;
use crate::id::Id;

/// The file of an upload's folder that names the upload in parts under way. One whose name was never heard, since the server
/// was killed before the bucket's answer, is for the bucket's own rules.
const UNFINISHED: &str = "unfinished";
/// Of an upload in parts; the least that S3 takes is 5 MiB.
const PART_BYTES: usize = 8 << 20;
const CONNECT: Duration = Duration::from_secs(10);
/// Until an answer begins, and between its pieces.
const ANSWER: Duration = Duration::from_secs(60);
/// How often it is asked whether to go on.
const TICK: Duration = Duration::from_millis(100);

/// Which bucket, and who asks.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct S3Settings {
    pub bucket: String,
    /// Before every name; may be empty.
    pub prefix: String,
    pub region: String,
    /// `None`: Amazon's own.
    pub endpoint: Option<String>,
    pub access_key: String,
    pub secret_key: String,
}

/// Without the keys.
impl fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Settings")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

pub(super) struct S3 {
    store: AmazonS3,
    prefix: String,
    runtime: Option<Runtime>,
}

impl S3 {
    pub fn new(settings: &S3Settings) -> Result<Self, DatasetError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(JobsError::io("the bucket's thread"))?;
        let retry = RetryConfig { max_retries: 4, retry_timeout: ANSWER, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&settings.bucket)
            .with_region(&settings.region)
            .with_access_key_id(&settings.access_key)
            .with_secret_access_key(&settings.secret_key)
            .with_retry(retry)
            .with_http_connector(Connector);
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
        }
        let prefix = settings.prefix.trim_matches('/').to_owned();
        Ok(Self { store: builder.build().map_err(bucket)?, prefix, runtime: Some(runtime) })
    }

    fn key(&self, id: &Id, file: &str) -> Key {
        let parts = [self.prefix.as_str(), id.as_str(), file];
        parts.into_iter().filter(|part| !part.is_empty()).flat_map(|part| part.split('/')).collect()
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, DatasetError>>) -> Result<T, DatasetError> {
        let ended = || DatasetError::Bucket("its thread has ended".to_owned());
        self.runtime.as_ref().ok_or_else(ended)?.block_on(work)
    }

    /// Puts the file at `path`. The name of an upload in parts is in the file `unfinished` as long as the upload is.
    async fn put(&self, key: &Key, path: &Path, unfinished: &Path) -> Result<(), DatasetError> {
        let mut file = File::open(path).map_err(write_error)?;
        let mut part = read_part(&mut file)?;
        if part.len() < PART_BYTES {
            return self.store.put(key, part.into()).await.map(drop).map_err(bucket);
        }
        let upload = self.store.create_multipart(key).await.map_err(bucket)?;
        if let Err(error) = write(unfinished, upload.as_bytes()) {
            gone(self.store.abort_multipart(key, &upload).await)?;
            return Err(error);
        }
        let mut parts = Vec::new();
        while !part.is_empty() {
            let sent = self.store.put_part(key, &upload, parts.len(), PutPayload::from_bytes(part)).await;
            parts.push(sent.map_err(bucket)?);
            part = read_part(&mut file)?;
        }
        self.store.complete_multipart(key, &upload, parts).await.map_err(bucket)?;
        fs::remove_file(unfinished).map_err(write_error)
    }

    async fn content(&self, id: &Id) -> Result<Pieces, DatasetError> {
        Ok(self.store.get(&self.key(id, CONTENT)).await.map_err(bucket)?.into_stream())
    }

    async fn fetch(&self, id: &Id, mut file: File) -> Result<(), DatasetError> {
        let mut pieces = self.content(id).await?;
        while let Some(piece) = next(&mut pieces).await? {
            file.write_all(&piece).map_err(write_error)?;
        }
        Ok(())
    }

    async fn delete(&self, id: &Id, unfinished: &Path) -> Result<(), DatasetError> {
        let upload = fs::read_to_string(unfinished).unwrap_or_default();
        if !upload.is_empty() {
            gone(self.store.abort_multipart(&self.key(id, CONTENT), &upload).await)?;
        }
        for file in [METADATA, CONTENT] {
            gone(self.store.delete(&self.key(id, file)).await)?;
        }
        Ok(())
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        // Waiting for its end is not allowed everywhere.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Files for S3 {
    fn keep(&self, id: &Id, incoming: &Path) -> Result<(), DatasetError> {
        self.wait(async {
            for file in [CONTENT, METADATA] {
                self.put(&self.key(id, file), &incoming.join(file), &incoming.join(UNFINISHED)).await?;
            }
            Ok(())
        })
    }

    fn open(&self, id: &Id) -> Result<Box<dyn Read + Send>, DatasetError> {
        let stream = self.wait(self.content(id))?;
        let runtime = self.runtime.as_ref().map(|runtime| runtime.handle().clone());
        let runtime = runtime.ok_or_else(|| DatasetError::Bucket("its thread has ended".to_owned()))?;
        Ok(Box::new(Object { stream, runtime, piece: Bytes::new() }))
    }

    fn on_disk(&self, id: &Id, fetched: &Path, go_on: &dyn Fn() -> bool) -> Result<PathBuf, DatasetError> {
        let (path, partial) = (fetched.join(CONTENT), fetched.join("partial"));
        if !path.is_file() {
            fs::create_dir_all(fetched).map_err(write_error)?;
            let file = File::create(&partial).map_err(write_error)?;
            self.wait(as_long_as(go_on, self.fetch(id, file)))?;
            fs::rename(partial, &path).map_err(write_error)?;
        }
        Ok(path)
    }

    fn remove(&self, id: &Id, incoming: &Path) -> Result<(), DatasetError> {
        self.wait(self.delete(id, &incoming.join(UNFINISHED)))
    }
}

/// Gives `work` up when `go_on` says no: that is asked while a bucket is silent, too.
async fn as_long_as<T>(
    go_on: &dyn Fn() -> bool,
    work: impl Future<Output = Result<T, DatasetError>>,
) -> Result<T, DatasetError> {
    let mut work = pin!(work);
    while go_on() {
        if let Ok(done) = tokio::time::timeout(TICK, &mut work).await {
            return done;
        }
    }
    Err(write_error(io::ErrorKind::Interrupted.into()))
}

type Pieces = futures_util::stream::BoxStream<'static, object_store::Result<Bytes>>;

/// The next piece of an object; `None` after the last one.
async fn next(pieces: &mut Pieces) -> Result<Option<Bytes>, DatasetError> {
    let next = tokio::time::timeout(ANSWER, futures_util::StreamExt::next(pieces)).await;
    let silent = |_| DatasetError::Bucket(format!("it has sent nothing for {} s", ANSWER.as_secs()));
    next.map_err(silent)?.transpose().map_err(bucket)
}

/// What is not there need not be removed.
fn gone(removed: object_store::Result<()>) -> Result<(), DatasetError> {
    match removed {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(bucket(error)),
    }
}

fn bucket(error: object_store::Error) -> DatasetError {
    DatasetError::Bucket(error.to_string())
}

fn read_part(file: &mut File) -> Result<Bytes, DatasetError> {
    let mut part = Vec::with_capacity(PART_BYTES);
    file.take(PART_BYTES as u64).read_to_end(&mut part).map_err(write_error)?;
    Ok(part.into())
}

/// An object as a thread reads it.
struct Object {
    stream: Pieces,
    runtime: tokio::runtime::Handle,
    piece: Bytes,
}

impl Read for Object {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.runtime.block_on(next(&mut self.stream)).map_err(io::Error::other)? {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let n = self.piece.len().min(buffer.len());
        let now = self.piece.split_to(n);
        buffer.get_mut(..n).unwrap_or_default().copy_from_slice(&now);
        Ok(n)
    }
}

#[derive(Debug)]
struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let mut tcp = Tcp::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        let https = HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        Ok(HttpClient::new(Hyper(Client::builder(TokioExecutor::new()).build(https))))
    }
}

#[derive(Debug)]
struct Hyper(Client<HttpsConnector<Tcp>, HttpRequestBody>);

impl HttpService for Hyper {
    fn call<'s, 'f>(
        &'s self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let answer = tokio::time::timeout(ANSWER, self.0.request(request)).await;
            let answer = answer.map_err(|error| HttpError::new(HttpErrorKind::Timeout, error))?;
            let answer = answer.map_err(|error| {
                let kind =
                    if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted };
                HttpError::new(kind, error)
            })?;
            let broken = |error| HttpError::new(HttpErrorKind::Interrupted, error);
            Ok(answer.map(|body| HttpResponseBody::new(body.map_err(broken))))
        })
    }
}
