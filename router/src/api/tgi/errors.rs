//! TGI's error bodies and statuses (reference/tgi.md §2b).

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::types::ErrorResponse;
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
        let status = self.status();
        let mut response = (status, Json(self.body())).into_response();
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
