//! TGI's error bodies and statuses (reference/tgi.md §2b).

use std::collections::BTreeMap;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use utoipa::IntoResponses;
use utoipa::openapi::{RefOr, Response as Described};

use super::types::ErrorResponse;
use crate::api::docs::Responses;
use crate::api::headers::with_retry_after;
use crate::service::ServiceError;

/// A failed request, as TGI answers it.
#[derive(Debug)]
pub(crate) struct ApiError(pub ServiceError);

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> Self {
        Self(error)
    }
}

impl ApiError {
    pub fn body(&self) -> ErrorResponse {
        ErrorResponse { error: self.0.to_string(), error_type: self.0.error_type() }
    }

    fn status(&self) -> StatusCode {
        match self.0 {
            ServiceError::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            ServiceError::Validation(_) | ServiceError::Template(_) | ServiceError::Tool(_) => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            ServiceError::Generation(_) => StatusCode::FAILED_DEPENDENCY,
            ServiceError::Incomplete => StatusCode::INTERNAL_SERVER_ERROR,
            ServiceError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        with_retry_after((self.status(), Json(self.body())).into_response())
    }
}

impl IntoResponses for ApiError {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let add = |responses: Responses, (status, description)| {
            responses.json::<ErrorResponse>(status, description)
        };
        DESCRIBED.into_iter().fold(bodies(), add).build()
    }
}

/// The refusals of `/generate_stream`: as events, but for those that come before the stream.
pub(super) struct StreamErrors;

impl IntoResponses for StreamErrors {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let early = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        let add = |responses: Responses, (status, description)| {
            let responses = responses.event::<ErrorResponse>(status, description);
            if early.contains(&status) {
                responses.json::<ErrorResponse>(status, description)
            } else {
                responses
            }
        };
        DESCRIBED.into_iter().fold(bodies(), add).build()
    }
}

const DESCRIBED: [(StatusCode, &str); 5] = [
    (StatusCode::UNPROCESSABLE_ENTITY, "Input validation error"),
    (StatusCode::FAILED_DEPENDENCY, "Request failed during generation"),
    (StatusCode::TOO_MANY_REQUESTS, "Model is overloaded"),
    (StatusCode::INTERNAL_SERVER_ERROR, "Incomplete generation"),
    (StatusCode::SERVICE_UNAVAILABLE, "Not ready, or about to end"),
];

/// What is no request is refused in plain text.
fn bodies() -> Responses {
    let text = Responses::default().of_bodies(Responses::text);
    text.text(StatusCode::UNPROCESSABLE_ENTITY, "Input validation error, or JSON of another shape")
}
