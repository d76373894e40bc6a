//! Errors: `{"error": text}`, with Ollama's texts and statuses.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa::IntoResponses;
use utoipa::openapi::{RefOr, Response as Described};

use super::types::ErrorBody;
use crate::api::docs::Responses;
use crate::api::extract::BodyError;
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
    /// A model that is there and cannot be loaded.
    Load(String),
}

/// What is answered under `/api` to a request without its key.
pub(crate) fn unauthorized() -> Response {
    (StatusCode::UNAUTHORIZED, Json(ErrorBody { error: "unauthorized".to_owned() })).into_response()
}

impl Refusal {
    pub fn bad(message: String) -> Self {
        Self::Bad(message)
    }

    pub fn message(&self) -> String {
        match self {
            Self::Service(ServiceError::Overloaded) => BUSY.to_owned(),
            Self::Service(ServiceError::Validation(reason)) => reason.to_string(),
            Self::Service(error) => error.to_string(),
            Self::Body(error) => error.message.clone(),
            Self::Bad(message) | Self::Load(message) => message.clone(),
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
            Self::ModelNotFound(_) => StatusCode::NOT_FOUND,
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
            Self::Body(_) | Self::ModelNotFound(_) | Self::Load(_) => {}
        }
        self
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
        let status = self.status();
        let mut response = (status, Json(self.body())).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl IntoResponses for Refusal {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let described = [
            (StatusCode::BAD_REQUEST, "The request is not one, or asks for what cannot be"),
            (StatusCode::NOT_FOUND, "No such model"),
            (StatusCode::REQUEST_TIMEOUT, "The body took too long to come"),
            (StatusCode::PAYLOAD_TOO_LARGE, "The body is longer than `--payload-limit`"),
            (StatusCode::INTERNAL_SERVER_ERROR, "The generation failed"),
            (StatusCode::SERVICE_UNAVAILABLE, "Too many requests wait, or the server is not ready"),
        ];
        let responses =
            described.into_iter().fold(Responses::default(), |responses, (status, description)| {
                responses.json::<ErrorBody>(status, description)
            });
        responses.build()
    }
}
