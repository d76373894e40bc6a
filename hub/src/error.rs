//! What can go wrong between a model id and a folder, with what to do about it.

use std::path::PathBuf;

use thiserror::Error;

use crate::id::{ModelId, Revision};

#[derive(Debug, Error)]
pub enum HubError {
    #[error("cannot tell where the model cache is: set HF_HOME or HOME, or pass --huggingface-hub-cache")]
    NoCacheFolder,
    #[error("HF_ENDPOINT {endpoint:?} is not an http(s) address")]
    Endpoint { endpoint: String },
    #[error("SSL_CERT_FILE {}: {problem}", path.display())]
    Certificates { path: PathBuf, problem: String },
    #[error("the hub token holds characters that a header cannot carry; check HF_TOKEN")]
    Token,

    #[error(
        "{id} at revision {revision} is not in the cache {}, and HF_HUB_OFFLINE forbids to download it; unset \
         HF_HUB_OFFLINE, or run `weirgate download {id}` where there is a network and copy the cache",
        cache.display()
    )]
    OfflineAndNotCached { id: ModelId, revision: Revision, cache: PathBuf },
    #[error(
        "{outage}, and there is no copy of {id} in {}; check the network, HTTPS_PROXY or HF_ENDPOINT, or pass the \
         folder of a local copy as --model-id",
        cache.display()
    )]
    UnreachableAndNotCached { id: ModelId, cache: PathBuf, outage: Box<HubError> },
    #[error("{outage}, and {incomplete}")]
    UnreachableAndIncomplete { outage: Box<HubError>, incomplete: Box<HubError> },
    #[error("the cached copy in {} is incomplete: no {missing}; run again with a network to complete it", folder.display())]
    IncompleteCopy { folder: PathBuf, missing: String },

    #[error("cannot reach {url}: {problem}")]
    Unreachable { url: String, problem: String },
    #[error("{url} answered with status {status}")]
    Status { url: String, status: u16 },
    #[error("{url}: {problem}")]
    Protocol { url: String, problem: String },

    #[error(
        "{id} was not found at {endpoint}; check the spelling, and set HF_TOKEN if the model is private \
         (no folder of that name exists here either)"
    )]
    NotFound { id: ModelId, endpoint: String },
    #[error("{id} has no revision {revision}; check --revision")]
    RevisionNotFound { id: ModelId, revision: Revision },
    #[error(
        "{id} is gated: accept its terms at {endpoint}/{id}, then set HF_TOKEN to a token of that account \
         ({token} was sent)"
    )]
    Gated { id: ModelId, endpoint: String, token: &'static str },
    #[error(
        "access to {id} was refused with status {status}: {token} was sent; set HF_TOKEN to a token that may read it, \
         and check the spelling, as the hub answers the same for a model that does not exist"
    )]
    Refused { id: ModelId, status: u16, token: &'static str },

    #[error(
        "{id} has no *.safetensors file; other weight formats ({found}) can run code when loaded and are not read: \
         convert the model to safetensors"
    )]
    NoWeights { id: ModelId, found: String },
    #[error("{id}: {file} is missing in the repository")]
    MissingFile { id: ModelId, file: &'static str },
    #[error(
        "{file}: got {got} of {expected} bytes and the connection keeps breaking; run again to go on from there"
    )]
    Truncated { file: String, got: u64, expected: u64 },
    #[error(
        "{file}: {got} bytes arrived where {expected} were announced; the download was removed, run again"
    )]
    WrongSize { file: String, got: u64, expected: u64 },
    #[error("{file}: sha256 is {actual} where the hub says {expected}; the download was removed, run again")]
    Checksum { file: String, expected: String, actual: String },

    #[error("{} has {free} bytes free and the download needs {needed}; free some, or set HF_HOME elsewhere", folder.display())]
    DiskFull { folder: PathBuf, needed: u64, free: u64 },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("download stopped")]
    Stopped,
}

impl HubError {
    /// Whether the hub cannot be used right now, as opposed to having given an answer.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
            || matches!(self, Self::Status { status, .. } if *status >= 500 || *status == 429)
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
