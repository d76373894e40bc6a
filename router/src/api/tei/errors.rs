//! text-embeddings-inference's error bodies and statuses.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use utoipa::IntoResponses;
use utoipa::openapi::{RefOr, Response as Described};

use super::types::ErrorBody;
use crate::api::docs::Responses;
use crate::api::extract::BodyError;
use crate::api::headers::with_retry_after;
use crate::api::{AppState, Caller, unavailable};
use crate::service::{ServiceError, ValidationError};

/// A refused or failed request.
#[derive(Debug)]
pub(super) enum Refusal {
    Service(ServiceError),
    Body(BodyError),
    ModelNotFound(String),
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

impl Refusal {
    /// A mistake of the request's that only this dialect knows, booked.
    pub fn invalid(state: &AppState, field: &'static str, message: String) -> Self {
        let error = ValidationError::Field { field, message }.into();
        state.service.refuse(&error);
        Self::Service(error)
    }

    fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Service(ServiceError::Overloaded) => (StatusCode::TOO_MANY_REQUESTS, "Overloaded"),
            Self::Service(ServiceError::Validation(
                ValidationError::TextLength { .. } | ValidationError::TooMany { .. },
            )) => (StatusCode::PAYLOAD_TOO_LARGE, "Validation"),
            Self::Service(
                ServiceError::Validation(_) | ServiceError::Template(_) | ServiceError::Tool(_),
            ) => (StatusCode::UNPROCESSABLE_ENTITY, "Validation"),
            Self::Service(ServiceError::Generation(_) | ServiceError::Incomplete) => {
                (StatusCode::FAILED_DEPENDENCY, "Backend")
            }
            Self::Service(ServiceError::Unavailable(_)) => (StatusCode::SERVICE_UNAVAILABLE, "Unhealthy"),
            Self::Body(error) => (error.status, "Validation"),
            Self::ModelNotFound(_) => (StatusCode::NOT_FOUND, "Validation"),
        }
    }

    fn message(self) -> String {
        match self {
            Self::Service(error) => error.to_string(),
            Self::Body(error) => error.message,
            Self::ModelNotFound(name) => format!("The model '{name}' does not exist"),
        }
    }
}

/// The state of the model that a request names.
///
/// # Errors
/// When there is none, or it cannot be loaded now.
pub(super) async fn serving(Caller(state): Caller, model: Option<&str>) -> Result<AppState, Refusal> {
    let absent = || Refusal::ModelNotFound(model.unwrap_or_default().to_owned());
    state.serving(model).await.map_err(|error| unavailable(&error).map_or_else(absent, Refusal::Service))
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error_type) = self.kind();
        with_retry_after((status, Json(ErrorBody { error: self.message(), error_type })).into_response())
    }
}

impl IntoResponses for Refusal {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let add =
            |responses: Responses, (status, description)| responses.json::<ErrorBody>(status, description);
        let bodies = Responses::default()
            .of_bodies(|responses, status, text| responses.json::<ErrorBody>(status, text));
        [
            (StatusCode::PAYLOAD_TOO_LARGE, "A text is too long, or there are too many"),
            (StatusCode::UNPROCESSABLE_ENTITY, "Input validation error, or JSON of another shape"),
            (StatusCode::NOT_FOUND, "No such model"),
            (StatusCode::FAILED_DEPENDENCY, "The computation failed"),
            (StatusCode::TOO_MANY_REQUESTS, "Model is overloaded"),
            (StatusCode::SERVICE_UNAVAILABLE, "Not ready, or about to end"),
        ]
        .into_iter()
        .fold(bodies, add)
        .build()
    }
}
