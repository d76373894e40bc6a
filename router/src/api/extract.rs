//! Request bodies.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

/// A body that has not come in full by then will not come.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// A JSON body, or why there is none: each dialect says it in its own words.
pub(crate) struct Body<T>(pub Result<T, BodyError>);

/// Status and text as axum 0.7 gives them, which is TGI's wording.
#[derive(Debug)]
pub(crate) struct BodyError {
    pub status: StatusCode,
    pub message: String,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = std::convert::Infallible;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let read = tokio::time::timeout(BODY_TIMEOUT, Json::<T>::from_request(request, state)).await;
        Ok(Self(match read {
            Ok(Ok(Json(body))) => Ok(body),
            Ok(Err(rejection)) => Err(rejection.into()),
            Err(_) => Err(BodyError {
                status: StatusCode::REQUEST_TIMEOUT,
                message: "Failed to buffer the request body: it took too long".to_owned(),
            }),
        }))
    }
}

/// A JSON body whatever the request says that it is, as Ollama reads it.
pub(crate) struct AnyType<T>(pub Result<T, BodyError>);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for AnyType<T> {
    type Rejection = std::convert::Infallible;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let refused = |status, message: String| Err(BodyError { status, message });
        let read = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await;
        Ok(Self(match read {
            Ok(Ok(bytes)) if bytes.is_empty() => {
                refused(StatusCode::BAD_REQUEST, "missing request body".to_owned())
            }
            Ok(Ok(bytes)) => serde_json::from_slice(&bytes)
                .or_else(|error| refused(StatusCode::BAD_REQUEST, error.to_string())),
            Ok(Err(rejection)) => refused(rejection.status(), rejection.body_text()),
            Err(_) => refused(StatusCode::REQUEST_TIMEOUT, "the request body took too long".to_owned()),
        }))
    }
}

impl BodyError {
    /// JSON whose values are not those of the request; `reason` begins with the field.
    pub fn data(reason: &str) -> Self {
        let message = format!("Failed to deserialize the JSON body into the target type: {reason}");
        Self { status: StatusCode::UNPROCESSABLE_ENTITY, message }
    }
}

impl From<JsonRejection> for BodyError {
    fn from(rejection: JsonRejection) -> Self {
        Self { status: rejection.status(), message: rejection.body_text() }
    }
}

impl IntoResponse for BodyError {
    fn into_response(self) -> Response {
        (self.status, self.message).into_response()
    }
}
