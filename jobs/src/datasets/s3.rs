//! Data sets in an S3 bucket: `<prefix>/<id>/data.jsonl`, and `metadata.json` once that is complete.
//!
//! The library's own HTTP client brings a hundred crates; its requests go through the one that is here already.

use std::fmt;
use std::fs::{self, File};
use std::future::Future;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
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
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutPayload, RetryConfig};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use super::{CONTENT, DatasetError, Files, METADATA, write_error};
use crate::error::JobsError;
use crate::id::Id;

/// Of an upload in parts; the least that S3 takes is 5 MiB.
const PART_BYTES: usize = 8 << 20;
const CONNECT: Duration = Duration::from_secs(10);
/// Until an answer begins.
const ANSWER: Duration = Duration::from_secs(60);

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

    async fn put(&self, key: &Key, path: &Path) -> Result<(), DatasetError> {
        let mut file = File::open(path).map_err(write_error)?;
        let mut part = read_part(&mut file)?;
        if part.len() < PART_BYTES {
            return self.store.put(key, part.into()).await.map(drop).map_err(bucket);
        }
        let mut upload = self.store.put_multipart(key).await.map_err(bucket)?;
        let sent = async {
            while !part.is_empty() {
                upload.put_part(PutPayload::from_bytes(part)).await.map_err(bucket)?;
                part = read_part(&mut file)?;
            }
            upload.complete().await.map(drop).map_err(bucket)
        };
        let sent: Result<(), DatasetError> = sent.await;
        if sent.is_err()
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(%error, "parts of an upload are left in the bucket");
        }
        sent
    }

    async fn delete(&self, id: &Id) -> Result<(), DatasetError> {
        for file in [METADATA, CONTENT] {
            match self.store.delete(&self.key(id, file)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(bucket(error)),
            }
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
    fn keep(&self, id: &Id, folder: &Path) -> Result<(), DatasetError> {
        self.wait(async {
            let kept = async {
                self.put(&self.key(id, CONTENT), &folder.join(CONTENT)).await?;
                self.put(&self.key(id, METADATA), &folder.join(METADATA)).await
            };
            let kept = kept.await;
            if kept.is_err()
                && let Err(error) = self.delete(id).await
            {
                tracing::warn!(%error, "a part of a data set is left in the bucket");
            }
            kept
        })
    }

    fn open(&self, id: &Id) -> Result<Box<dyn Read + Send>, DatasetError> {
        let found = self.wait(async { self.store.get(&self.key(id, CONTENT)).await.map_err(bucket) })?;
        let runtime = self.runtime.as_ref().map(|runtime| runtime.handle().clone());
        let runtime = runtime.ok_or_else(|| DatasetError::Bucket("its thread has ended".to_owned()))?;
        Ok(Box::new(Object { stream: found.into_stream(), runtime, piece: Bytes::new() }))
    }

    fn on_disk(&self, id: &Id, folder: &Path) -> Result<PathBuf, DatasetError> {
        let (path, partial) = (folder.join(CONTENT), folder.join("data.partial"));
        if !path.is_file() {
            let mut file = File::create(&partial).map_err(write_error)?;
            io::copy(&mut self.open(id)?, &mut file).map_err(write_error)?;
            fs::rename(partial, &path).map_err(write_error)?;
        }
        Ok(path)
    }

    fn remove(&self, id: &Id) -> Result<(), DatasetError> {
        self.wait(self.delete(id))
    }

    /// What lies in a bucket may be another server's.
    fn retain(&self, _: &[Id]) -> Result<(), DatasetError> {
        Ok(())
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
    stream: futures_util::stream::BoxStream<'static, object_store::Result<Bytes>>,
    runtime: tokio::runtime::Handle,
    piece: Bytes,
}

impl Read for Object {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let next = futures_util::StreamExt::next(&mut self.stream);
            match self.runtime.block_on(next) {
                Some(piece) => self.piece = piece.map_err(io::Error::other)?,
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
