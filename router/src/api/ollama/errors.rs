//! Errors: `{"error": text}`, with Ollama's texts and statuses.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use utoipa::IntoResponses;
use utoipa::openapi::{RefOr, Response as Described};
use weirgate_store::StoreError;

use super::types::ErrorBody;
use crate::api::docs::Responses;
use crate::api::extract::BodyError;
use crate::api::headers::with_retry_after;
use crate::api::store_errors;
use crate::service::{Service, ServiceError, ValidationError};

/// With two blanks, as upstream: clients look for the text.
const BUSY: &str = "server busy, please try again.  maximum pending requests exceeded";

/// A refused or failed request.
#[derive(Debug)]
pub(super) enum Refusal {
    Service(ServiceError),
    Body(BodyError),
    /// What only this dialect knows to be wrong.
    Bad(String),
    ModelNotFound(String),
    /// The same in other words.
    Absent(String),
    /// A model that is there and cannot be loaded.
    Load(String),
    Store(StoreError),
    /// A model that stays until its deployment ends.
    Deployed(String),
    /// There is nowhere to write models to.
    NoStore,
}

/// What is answered under `/api` to a request without its key.
pub(crate) fn unauthorized() -> Response {
    (StatusCode::UNAUTHORIZED, Json(ErrorBody { error: "unauthorized".to_owned() })).into_response()
}

/// What is answered under `/api` to a request whose key, or whose way here, does not give it the role it needs.
pub(crate) fn forbidden(error: &str) -> Response {
    (StatusCode::FORBIDDEN, Json(ErrorBody { error: error.to_owned() })).into_response()
}

impl Refusal {
    /// Work whose thread could not be started, or panicked.
    pub fn broke_off() -> Self {
        Self::Load("the work broke off; the server's log says why".to_owned())
    }

    pub fn bad(message: String) -> Self {
        Self::Bad(message)
    }

    pub fn message(&self) -> String {
        match self {
            Self::Service(ServiceError::Overloaded) => BUSY.to_owned(),
            Self::Service(ServiceError::Validation(reason)) => reason.to_string(),
            Self::Service(error) => error.to_string(),
            Self::Body(error) => error.message.clone(),
            Self::Bad(message) | Self::Load(message) | Self::Absent(message) => message.clone(),
            Self::Store(error) => store_errors::message(error),
            Self::NoStore => {
                "this server keeps no models of its own; start it with `--model-store`".to_owned()
            }
            Self::Deployed(name) => {
                format!("model '{name}' is deployed: it stays until its deployment is interrupted")
            }
            Self::ModelNotFound(name) => format!("model '{name}' not found"),
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Service(ServiceError::Overloaded | ServiceError::Unavailable(_)) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Service(
                ServiceError::Validation(_) | ServiceError::Template(_) | ServiceError::Tool(_),
            )
            | Self::Bad(_) => StatusCode::BAD_REQUEST,
            Self::Service(_) | Self::Load(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Body(error) => error.status,
            Self::ModelNotFound(_) | Self::Absent(_) => StatusCode::NOT_FOUND,
            Self::Store(error) => store_errors::status(error),
            Self::NoStore => StatusCode::FORBIDDEN,
            Self::Deployed(_) => StatusCode::CONFLICT,
        }
    }

    /// The body, and the last line of a stream that fails.
    pub fn body(&self) -> ErrorBody {
        ErrorBody { error: self.message() }
    }

    /// Counts a request that never took a place.
    pub fn book(self, service: &Service) -> Self {
        match &self {
            Self::Service(error) => service.refuse(error),
            Self::Bad(message) => {
                let reason = ValidationError::Field { field: "request", message: message.clone() };
                service.refuse(&reason.into());
            }
            Self::Body(_)
            | Self::ModelNotFound(_)
            | Self::Absent(_)
            | Self::Load(_)
            | Self::Store(_)
            | Self::Deployed(_)
            | Self::NoStore => {}
        }
        self
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<ServiceError> for Refusal {
    fn from(error: ServiceError) -> Self {
        Self::Service(error)
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        Self::Body(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        with_retry_after((self.status(), Json(self.body())).into_response())
    }
}

impl IntoResponses for Refusal {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let described = [
            (StatusCode::BAD_REQUEST, "The request is not one, or asks for what cannot be"),
            (StatusCode::UNAUTHORIZED, "No key, or a wrong one; or a registry asks for credentials"),
            (StatusCode::FORBIDDEN, "Not for who asks, or not with this server's settings"),
            (StatusCode::NOT_FOUND, "No such model"),
            (StatusCode::REQUEST_TIMEOUT, "The body took too long to come"),
            (StatusCode::PAYLOAD_TOO_LARGE, "The body is longer than `--payload-limit`"),
            (StatusCode::INTERNAL_SERVER_ERROR, "The generation failed"),
            (StatusCode::BAD_GATEWAY, "A registry cannot be reached, or does not keep to the protocol"),
            (StatusCode::SERVICE_UNAVAILABLE, "Too many requests wait, or the server is not ready"),
            (StatusCode::INSUFFICIENT_STORAGE, "The disk is full"),
        ];
        let responses =
            described.into_iter().fold(Responses::default(), |responses, (status, description)| {
                responses.json::<ErrorBody>(status, description)
            });
        responses.build()
    }
}
