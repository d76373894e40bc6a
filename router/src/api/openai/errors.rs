//! Errors: OpenAI's object with real statuses and TGI's `error_type` beside it, or TGI's own form, by [`Quirks`].

use std::collections::BTreeMap;
use std::convert::Infallible;

use axum::Json;
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use utoipa::IntoResponses;
use utoipa::openapi::{RefOr, Response as Described};

use super::parameters::field;
use super::quirks::Quirks;
use super::types::ErrorObject;
use crate::api::docs::Responses;
use crate::api::docs::schemas::{ErrorAnswer, ErrorResponse, OpenAiErrorResponse};
use crate::api::events::json_event;
use crate::api::extract::BodyError;
use crate::api::headers::with_retry_after;
use crate::config::Profile;
use crate::service::{Service, ServiceError, ValidationError};

/// A refused or failed request.
#[derive(Debug)]
pub(crate) enum Refusal {
    Service(ServiceError),
    Body(BodyError),
    /// A mistake that only this dialect knows.
    Invalid {
        message: String,
        param: &'static str,
        error_type: &'static str,
    },
    ModelNotFound(String),
    /// No key, or a wrong one.
    Unauthorized,
    /// Not with this key, or not from there.
    Forbidden(&'static str),
    /// What is wrong with a model, or with work on it.
    Model {
        status: StatusCode,
        message: String,
    },
}

const INVALID: &str = "invalid_request_error";

/// What is answered under `/v1` to a request without its key, but for TGI's profile.
pub(crate) fn unauthorized() -> Response {
    Refusal::Unauthorized.respond(Quirks::of(Profile::OpenAi), false)
}

/// What is answered under `/v1` to a request that may not change models.
pub(crate) fn forbidden(why: &'static str, profile: Profile) -> Response {
    Refusal::Forbidden(why).respond_under(profile)
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
    /// Counts the request, which never took a place.
    pub fn book(&self, service: &Service) {
        match self {
            Self::Service(error) => service.refuse(error),
            Self::Invalid { message, param, .. } => {
                service.refuse(&field(param, message));
            }
            _ => {}
        }
    }

    /// The response where no stream was asked for.
    pub fn respond_under(self, profile: Profile) -> Response {
        self.respond(Quirks::of(profile), false)
    }

    /// The response; `streams`: the client asked for a stream, which has not begun.
    pub(super) fn respond(self, quirks: &Quirks, streams: bool) -> Response {
        if streams && quirks.text_errors && self.is_told_in_stream() {
            let done = Event::default().data(super::stream::DONE);
            let events = [Ok::<_, Infallible>(json_event(&self.event(quirks))), Ok(done)];
            return Sse::new(stream::iter(events)).into_response();
        }
        let status = if quirks.text_errors { self.tgi_status() } else { self.status() };
        with_retry_after(match self {
            Self::Body(error) if quirks.text_errors => (status, error.message).into_response(),
            refusal => (status, Json(refusal.body(quirks))).into_response(),
        })
    }

    /// The event that ends a stream.
    pub(super) fn event(&self, quirks: &Quirks) -> Value {
        if quirks.text_errors {
            // The code is 422 whatever happened, as in TGI.
            json!({"error": {"message": self.message(), "http_status_code": 422}})
        } else {
            self.body(quirks)
        }
    }

    fn body(&self, quirks: &Quirks) -> Value {
        let error_type = self.error_type();
        if quirks.text_errors {
            return json!({"error": self.message(), "error_type": error_type});
        }
        let (param, code) = (self.param(), self.code());
        json!({"error": ErrorObject { message: self.message(), kind: self.kind(), param, code }, "error_type": error_type})
    }

    /// TGI tells in the stream what it finds after the template; a full or closed server says so at once.
    fn is_told_in_stream(&self) -> bool {
        matches!(
            self,
            Self::Service(
                ServiceError::Validation(_) | ServiceError::Generation(_) | ServiceError::Incomplete
            )
        )
    }

    pub fn message(&self) -> String {
        match self {
            Self::Service(error) => error.to_string(),
            Self::Body(error) => error.message.clone(),
            Self::Invalid { message, .. } => message.clone(),
            Self::ModelNotFound(id) => format!("The model '{id}' does not exist"),
            Self::Unauthorized => "Incorrect API key provided".to_owned(),
            Self::Forbidden(why) => (*why).to_owned(),
            Self::Model { message, .. } => message.clone(),
        }
    }

    fn error_type(&self) -> &'static str {
        match self {
            Self::Service(error) => error.error_type(),
            Self::Body(_) => "validation",
            Self::Invalid { error_type, .. } => error_type,
            Self::ModelNotFound(_) => "model_not_found",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden(_) => "forbidden",
            Self::Model { .. } => "model",
        }
    }

    pub fn status(&self) -> StatusCode {
        match self {
            Self::Service(ServiceError::Overloaded) => StatusCode::TOO_MANY_REQUESTS,
            Self::Service(
                ServiceError::Validation(_) | ServiceError::Template(_) | ServiceError::Tool(_),
            ) => StatusCode::BAD_REQUEST,
            Self::Service(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Body(error) if error.status == StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
            Self::Body(error) => error.status,
            Self::Invalid { .. } => StatusCode::BAD_REQUEST,
            Self::ModelNotFound(_) => StatusCode::NOT_FOUND,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Model { status, .. } => *status,
        }
    }

    fn tgi_status(&self) -> StatusCode {
        match self {
            Self::Service(
                ServiceError::Validation(_) | ServiceError::Template(_) | ServiceError::Tool(_),
            )
            | Self::Invalid { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Service(ServiceError::Generation(_)) => StatusCode::FAILED_DEPENDENCY,
            Self::Service(ServiceError::Incomplete) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Body(error) => error.status,
            refusal => refusal.status(),
        }
    }

    /// OpenAI's `type`.
    fn kind(&self) -> &'static str {
        match self.status() {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => INVALID,
        }
    }

    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::Service(ServiceError::Validation(reason)) => reason.field(),
            Self::Service(ServiceError::Template(_)) => Some("messages"),
            Self::Service(ServiceError::Tool(_)) => Some("tools"),
            Self::Invalid { param, .. } => Some(param),
            Self::ModelNotFound(_) | Self::Model { .. } => Some("model"),
            _ => None,
        }
    }

    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::Service(ServiceError::Overloaded) => Some("rate_limit_exceeded"),
            Self::Service(ServiceError::Validation(
                ValidationError::MaxTotalTokens { .. }
                | ValidationError::InputLength { .. }
                | ValidationError::TextLength { .. },
            )) => Some("context_length_exceeded"),
            Self::ModelNotFound(_) => Some("model_not_found"),
            Self::Unauthorized => Some("invalid_api_key"),
            _ => None,
        }
    }
}

impl IntoResponses for Refusal {
    /// Of both forms, as the document does not know the profile.
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let both = |responses: Responses, status, text: &str| {
            responses.json::<OpenAiErrorResponse>(status, text).text(status, text)
        };
        let answers = Responses::default()
            .json::<OpenAiErrorResponse>(StatusCode::BAD_REQUEST, "Input validation error, or not JSON")
            .of_bodies(both)
            .json::<ErrorAnswer>(StatusCode::NOT_FOUND, "No such model");
        let tgi = [
            (StatusCode::UNPROCESSABLE_ENTITY, "Input validation error, under the profile `tgi`"),
            (StatusCode::FAILED_DEPENDENCY, "Request failed during generation, under the profile `tgi`"),
            (StatusCode::INTERNAL_SERVER_ERROR, "Incomplete generation, under the profile `tgi`"),
        ];
        let answers = tgi
            .into_iter()
            .fold(answers, |answers, (status, text)| answers.json::<ErrorResponse>(status, text));
        answers
            .text(StatusCode::UNPROCESSABLE_ENTITY, "JSON of another shape")
            .json::<ErrorAnswer>(StatusCode::TOO_MANY_REQUESTS, "Model is overloaded")
            .json::<ErrorAnswer>(StatusCode::SERVICE_UNAVAILABLE, "Not ready, failed, or about to end")
            .build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{Failure, TemplateError};

    /// TGI's and OpenAI's statuses of the same failures (reference/tgi.md §2b), for answers and for streams.
    #[test]
    fn each_failure_has_its_status_in_both_forms() {
        let validation = || ServiceError::from(ValidationError::EmptyInput);
        for (error, tgi, tgi_stream, openai) in [
            (validation(), 422, 200, 400),
            (TemplateError::Missing.into(), 422, 422, 400),
            (Failure::Engine.into(), 424, 200, 503),
            (ServiceError::Incomplete, 500, 200, 503),
            (ServiceError::Overloaded, 429, 429, 429),
            (ServiceError::Unavailable("x"), 503, 503, 503),
        ] {
            let status = |profile, streams| {
                Refusal::from(error.clone()).respond(Quirks::of(profile), streams).status().as_u16()
            };
            assert_eq!(
                (status(Profile::Tgi, false), status(Profile::Tgi, true)),
                (tgi, tgi_stream),
                "{error}"
            );
            for profile in [Profile::OpenAi, Profile::Ollama, Profile::Jan, Profile::Management] {
                assert_eq!([false, true].map(|streams| status(profile, streams)), [openai; 2], "{error}");
            }
        }
    }

    #[test]
    fn a_prompt_that_is_too_long_has_openais_code() {
        let error = ServiceError::from(ValidationError::InputLength { limit: 1, given: 2 });
        let body = Refusal::from(error).body(Quirks::of(Profile::OpenAi));
        assert_eq!(body["error"]["code"], "context_length_exceeded");
    }
}
