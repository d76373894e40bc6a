//! Pull and push: the registry protocol, as Docker's registry speaks it and Ollama uses it.
//!
//! Names come from clients, so where connections go is bounded: hosts may be listed, and addresses of private
//! networks are refused unless the operator names the host. Credentials go to the origin they are for, and to no
//! other: neither along a redirect nor to a token service elsewhere.

mod address;
mod auth;
mod client;
mod file;
mod parts;
mod progress;
mod pull;
mod push;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use weirgate_hub::HubError;

use crate::name::Digest;

pub(crate) use client::Registry;
pub(crate) use pull::Pulls;

/// How registries are used.
#[derive(Debug, Clone)]
pub struct RegistrySettings {
    /// The hosts (with port, where it is not the usual one) that may be used; empty for all.
    pub allowed_hosts: Vec<String>,
    /// Hosts, without port, that may have addresses in private networks or on this machine.
    /// Where a proxy is set (`HTTPS_PROXY`), it resolves names, and its operator says what it may reach.
    pub private_hosts: Vec<String>,
    /// By host, with port where it is not the usual one.
    pub credentials: HashMap<String, Credentials>,
    /// Certificates (PEM) to trust in place of the built-in ones.
    pub certificates: Option<PathBuf>,
    /// Connections of one download.
    pub connections: usize,
    /// Smallest and largest part of a download, in bytes.
    pub part_bytes: (u64, u64),
    /// Tries in a row that bring nothing before a transfer is given up.
    pub tries: u32,
    /// How long the start of an answer, or each further piece of it, may take before the connection counts as broken.
    pub read_timeout: Duration,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            allowed_hosts: Vec::new(),
            private_hosts: Vec::new(),
            credentials: HashMap::new(),
            certificates: None,
            connections: 4,
            part_bytes: (100_000_000, 1_000_000_000),
            tries: 6,
            read_timeout: Duration::from_secs(30),
        }
    }
}

/// For basic authentication and for token services.
#[derive(Clone)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

/// The password is never shown.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?}, …)", self.user)
    }
}

/// How one pull or push is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Transfer {
    /// Plain http.
    pub insecure: bool,
}

/// What can go wrong with a registry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RegistryError {
    #[error("insecure protocol http")]
    Insecure,
    #[error("registry host '{0}' is not allowed here")]
    HostNotAllowed(String),
    #[error("the address of '{0}' is in a private network, which is not allowed here")]
    PrivateAddress(String),
    #[error("unauthorized: access denied")]
    Unauthorized,
    #[error("realm host \"{realm}\" does not match registry host \"{host}\"")]
    ForeignRealm { realm: String, host: String },
    #[error("pull model manifest: file does not exist")]
    ManifestNotFound,
    #[error("pull model manifest: {0}")]
    Manifest(String),
    #[error("digest mismatch, file must be downloaded again: want {want}, got {got}")]
    DigestMismatch { want: Digest, got: Digest },
    #[error("cannot reach {url}: {problem}")]
    Unreachable { url: String, problem: String },
    #[error("{url} answered with status {status}")]
    Status { url: String, status: u16 },
    #[error("{url}: {problem}")]
    Protocol { url: String, problem: String },
    #[error("{digest}: the connection keeps breaking; pull again to go on from there")]
    GivenUp { digest: Digest },
    #[error("the registry's certificates cannot be read")]
    Certificates,
}

impl RegistryError {
    /// Whether another try may help.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Status { status, .. } => *status >= 500 || *status == 429,
            _ => false,
        }
    }
}

impl From<HubError> for RegistryError {
    fn from(error: HubError) -> Self {
        tracing::warn!("{error}");
        Self::Certificates
    }
}
