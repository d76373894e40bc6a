//! What goes wrong, in OpenAI's form: Jan's contract has no errors of its own.

use axum::http::StatusCode;
use weirgate_store::{RegistryError, StoreError};

use crate::api::openai::Refusal;
use crate::api::store_errors;
use crate::residency::AcquireError;
use crate::service::ServiceError;

/// Of work on the model `id`.
pub(super) fn of_store(error: &StoreError, id: &str) -> Refusal {
    match error.cause() {
        StoreError::ModelNotFound(_)
        | StoreError::Name(_)
        | StoreError::Registry(RegistryError::ManifestNotFound) => not_found(id),
        _ => Refusal::Model { status: store_errors::status(error), message: store_errors::message(error) },
    }
}

/// Of a model that is to be loaded.
pub(super) fn of_load(error: AcquireError, id: &str) -> Refusal {
    match error {
        AcquireError::NotFound => not_found(id),
        AcquireError::Busy => ServiceError::Overloaded.into(),
        error => Refusal::Model { status: StatusCode::SERVICE_UNAVAILABLE, message: error.to_string() },
    }
}

pub(super) fn not_found(id: &str) -> Refusal {
    Refusal::ModelNotFound(id.to_owned())
}

/// The model that the server was started for stays.
pub(super) fn stays(id: &str) -> Refusal {
    let message = format!("'{id}' is the model that the server was started for: it stays as long as that");
    Refusal::Model { status: StatusCode::CONFLICT, message }
}
