//! OpenAI's error object, with real statuses and TGI's `error_type` beside it.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::types::{ErrorBody, ErrorObject};
use crate::api::extract::BodyError;
use crate::service::ServiceError;

/// A refused or failed request.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    body: ErrorBody,
}

const INVALID: &str = "invalid_request_error";

impl ApiError {
    /// A mistake in the request that only this dialect knows.
    pub fn invalid(message: String, param: &'static str, error_type: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message, INVALID, error_type).at(param)
    }

    fn new(status: StatusCode, message: String, kind: &'static str, error_type: &'static str) -> Self {
        let error = ErrorObject { message, kind, param: None, code: None };
        Self { status, body: ErrorBody { error, error_type } }
    }

    fn at(mut self, param: &'static str) -> Self {
        self.body.error.param = Some(param);
        self
    }

    fn code(mut self, code: &'static str) -> Self {
        self.body.error.code = Some(code);
        self
    }

    pub fn into_body(self) -> ErrorBody {
        self.body
    }
}

/// No key, or a wrong one.
pub(crate) fn unauthorized() -> Response {
    let message = "Incorrect API key provided".to_owned();
    let error =
        ApiError::new(StatusCode::UNAUTHORIZED, message, INVALID, "unauthorized").code("invalid_api_key");
    error.into_response()
}

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> Self {
        let message = error.to_string();
        match &error {
            ServiceError::Overloaded => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, message, "rate_limit_error", "overloaded")
                    .code("rate_limit_exceeded")
            }
            ServiceError::Validation(reason) => {
                let mut new = Self::new(StatusCode::BAD_REQUEST, message, INVALID, "validation");
                new.body.error.param = reason.field();
                new
            }
            ServiceError::Template(_) => {
                Self::new(StatusCode::BAD_REQUEST, message, INVALID, "template_error").at("messages")
            }
            ServiceError::Generation(_) => unavailable(message, "generation"),
            ServiceError::Incomplete => unavailable(message, "incomplete_generation"),
            ServiceError::Unavailable(_) => unavailable(message, "unavailable"),
        }
    }
}

fn unavailable(message: String, error_type: &'static str) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message, "server_error", error_type)
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        let status = match error.status {
            StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
            status => status,
        };
        Self::new(status, error.message, INVALID, "validation")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
