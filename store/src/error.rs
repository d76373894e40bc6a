//! Why the store refuses. Messages reach clients: they name models and digests, never paths of this machine.

use std::io;
use std::sync::Arc;

use thiserror::Error;
use weirgate_hub::HubError;

use crate::name::{Digest, NameError};

#[derive(Debug, Error)]
pub enum StoreError {
    #[error(transparent)]
    Name(#[from] NameError),
    /// No model of that name.
    #[error("model '{0}' not found")]
    ModelNotFound(String),
    #[error("blob \"{0}\" not found")]
    BlobNotFound(Digest),
    #[error("digest mismatch, expected \"{expected}\", got \"{actual}\"")]
    DigestMismatch { expected: Digest, actual: Digest },
    /// The same name in another case exists.
    #[error("a model with that name already exists")]
    NameTaken,
    #[error("{what}: more than {limit} bytes")]
    TooLarge { what: String, limit: u64 },
    /// The model lies where nothing is ever written.
    #[error("'{0}' is read in place and is not changed from here")]
    ReadOnly(String),
    #[error("{what}: {problem}")]
    Corrupt { what: String, problem: String },
    /// A request that cannot be met, in words for the client.
    #[error("{0}")]
    Invalid(String),
    /// The caller's progress callback asked to stop.
    #[error("canceled")]
    Canceled,
    #[error("the disk is full: {needed} bytes needed, {free} free")]
    DiskFull { needed: u64, free: u64 },
    #[error("{what}: {}", io_text(source))]
    Io { what: String, source: io::Error },
    #[error(transparent)]
    Registry(#[from] crate::registry::RegistryError),
    /// Its text may name folders of this machine.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Of a pull that several callers wait for.
    #[error("{0}")]
    Shared(Arc<StoreError>),
}

impl StoreError {
    /// The error itself, whether or not several callers share it.
    pub fn cause(&self) -> &Self {
        match self {
            Self::Shared(error) => error.cause(),
            other => other,
        }
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub(crate) fn corrupt(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into(), problem: problem.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }
}

/// The kind alone where the system names it: a full text could quote a path.
fn io_text(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(_) => error.kind().to_string(),
        None => error.to_string(),
    }
}
