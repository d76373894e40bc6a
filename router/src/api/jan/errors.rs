//! What goes wrong, in OpenAI's form: Jan's contract has no errors of its own.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use utoipa::IntoResponses;
use utoipa::openapi::{RefOr, Response as Described};
use weirgate_store::{RegistryError, StoreError};

use crate::api::docs::Responses;
use crate::api::docs::schemas::ErrorAnswer;
use crate::api::openai::Refusal;
use crate::api::store_errors;
use crate::management::ManagementError;
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

/// Of work on the adapter `id`.
pub(super) fn of_management(error: ManagementError, id: &str) -> Refusal {
    match error {
        ManagementError::Absent(_) => not_found(id),
        ManagementError::Taken(message) => Refusal::Model { status: StatusCode::CONFLICT, message },
        error => {
            tracing::error!(%error, "the adapter {id:?} could not be deleted");
            let message = "the server's state cannot be read or written; its log says why".to_owned();
            Refusal::Model { status: StatusCode::SERVICE_UNAVAILABLE, message }
        }
    }
}

pub(super) fn not_found(id: &str) -> Refusal {
    Refusal::ModelNotFound(id.to_owned())
}

/// What is deployed ends with its deployment.
pub(super) fn deployed(id: &str) -> Refusal {
    let message = format!("'{id}' is deployed: it stays until its deployment is interrupted");
    Refusal::Model { status: StatusCode::CONFLICT, message }
}

/// The model that the server was started for stays.
pub(super) fn stays(id: &str) -> Refusal {
    let message = format!("'{id}' is the model that the server was started for: it stays as long as that");
    Refusal::Model { status: StatusCode::CONFLICT, message }
}

/// What is answered where a model is not started or stopped.
pub(super) struct NotSwitched;

impl IntoResponses for NotSwitched {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        described(&[
            (StatusCode::FORBIDDEN, "Not for who asks"),
            (StatusCode::NOT_FOUND, "No such model"),
            (StatusCode::CONFLICT, "The server was started for it, or it is deployed"),
            (StatusCode::SERVICE_UNAVAILABLE, "It cannot be loaded"),
        ])
    }
}

/// What is answered where nothing is fetched.
pub(super) struct NotFetched;

impl IntoResponses for NotFetched {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        described(&[
            (StatusCode::BAD_REQUEST, "It does not say where it comes from"),
            (StatusCode::FORBIDDEN, "Not for who asks, or not from there"),
            (StatusCode::NOT_FOUND, "No such model"),
            (StatusCode::BAD_GATEWAY, "Where it comes from cannot be reached"),
            (StatusCode::INSUFFICIENT_STORAGE, "The disk is full"),
        ])
    }
}

fn described(errors: &[(StatusCode, &str)]) -> BTreeMap<String, RefOr<Described>> {
    let add = |responses: Responses, (status, text): &(StatusCode, &str)| {
        responses.json::<ErrorAnswer>(*status, text)
    };
    errors.iter().fold(Responses::default(), add).build()
}
