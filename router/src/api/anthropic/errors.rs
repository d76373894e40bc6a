//! Errors in Anthropic's words (<https://docs.anthropic.com/en/api/errors>).

use std::collections::BTreeMap;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use utoipa::IntoResponses;
use utoipa::openapi::{RefOr, Response as Described};

use super::types::{ErrorBody, ErrorDetail, ErrorDetails};
use crate::api::docs::Responses;
use crate::api::headers::with_retry_after;
use crate::api::openai::Refusal;

/// A refused or failed request.
pub(super) struct Refused(pub Refusal);

/// What is answered to a request without its key.
pub(crate) fn unauthorized() -> Response {
    Refused(Refusal::Unauthorized).into_response()
}

/// What went wrong, for a body or for the last event of a stream.
pub(super) fn detail(refusal: &Refusal) -> ErrorDetail {
    let kind = match refusal.status() {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        status if status.is_server_error() => "api_error",
        _ => "invalid_request_error",
    };
    // By which a client knows that it has to send the whole conversation.
    let threads = || ErrorDetails { error_code: "thread_unsupported_request" };
    let details = (refusal.param() == Some("thread")).then(threads);
    ErrorDetail { kind, message: refusal.message(), details }
}

impl<E: Into<Refusal>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = ErrorBody { kind: "error", error: detail(&self.0) };
        with_retry_after((self.0.status(), Json(body)).into_response())
    }
}

impl IntoResponses for Refused {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let answers = Responses::default()
            .json::<ErrorBody>(StatusCode::BAD_REQUEST, "The request is not one, or asks for what cannot be")
            .of_bodies(Responses::json::<ErrorBody>);
        [
            (StatusCode::UNAUTHORIZED, "No key, or a wrong one, on a server that has one"),
            (StatusCode::NOT_FOUND, "No such model"),
            (StatusCode::TOO_MANY_REQUESTS, "Too many requests are under way"),
            (StatusCode::SERVICE_UNAVAILABLE, "Not ready, failed, or about to end"),
        ]
        .into_iter()
        .fold(answers, |answers, (status, text)| answers.json::<ErrorBody>(status, text))
        .build()
    }
}
