//! What went wrong with the store, for every dialect that works on it.

use axum::http::StatusCode;
use weirgate_store::{RegistryError, StoreError};

/// For clients: what a hub's error says may name folders of this machine.
pub(super) fn message(error: &StoreError) -> String {
    match error.cause() {
        StoreError::Hub(error) => {
            tracing::warn!(%error, "a hub's model could not be brought here");
            "the hub's model could not be brought here; the server's log says why".to_owned()
        }
        error => error.to_string(),
    }
}

/// As Ollama has them, where it has them.
pub(super) fn status(error: &StoreError) -> StatusCode {
    match error.cause() {
        StoreError::ModelNotFound(_) | StoreError::BlobNotFound(_) => StatusCode::NOT_FOUND,
        StoreError::Name(_)
        | StoreError::DigestMismatch { .. }
        | StoreError::NameTaken
        | StoreError::Invalid(_) => StatusCode::BAD_REQUEST,
        StoreError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        StoreError::ReadOnly(_) => StatusCode::FORBIDDEN,
        StoreError::Canceled => StatusCode::REQUEST_TIMEOUT,
        StoreError::DiskFull { .. } => StatusCode::INSUFFICIENT_STORAGE,
        StoreError::Registry(error) => registry_status(error),
        StoreError::Hub(_) => StatusCode::BAD_GATEWAY,
        StoreError::Corrupt { .. } | StoreError::Io { .. } | StoreError::Shared(_) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

fn registry_status(error: &RegistryError) -> StatusCode {
    match error {
        RegistryError::Insecure => StatusCode::BAD_REQUEST,
        RegistryError::HostNotAllowed(_) | RegistryError::PrivateAddress(_) => StatusCode::FORBIDDEN,
        RegistryError::Unauthorized => StatusCode::UNAUTHORIZED,
        RegistryError::ManifestNotFound => StatusCode::NOT_FOUND,
        RegistryError::Certificates => StatusCode::INTERNAL_SERVER_ERROR,
        RegistryError::ForeignRealm { .. }
        | RegistryError::Manifest(_)
        | RegistryError::DigestMismatch { .. }
        | RegistryError::Unreachable { .. }
        | RegistryError::Status { .. }
        | RegistryError::Protocol { .. }
        | RegistryError::GivenUp { .. } => StatusCode::BAD_GATEWAY,
    }
}
