//! Errors: `{"detail": …}`, a text, or a list where several things are wrong.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use utoipa::IntoResponses;
use utoipa::openapi::{RefOr, Response as Described};
use weirgate_jobs::DatasetError;
use weirgate_text::LineError;

use super::types::{Detail, Problem, ProblemKind, Problems, Where};
use crate::api::docs::Responses;
use crate::api::extract::BodyError;
use crate::api::headers::with_retry_after;
use crate::management::ManagementError;

/// Problems in text bodies are at this place.
const BODY: &str = "body";

/// A refused or failed request.
#[derive(Debug)]
pub(super) enum Refusal {
    Management(ManagementError),
    Body(BodyError),
    /// A field of the query or of the body is missing or wrong.
    Field {
        place: &'static str,
        field: &'static str,
        reason: String,
    },
    /// There is none of it now.
    Absent(String),
    /// The server keeps no state.
    NoState,
    /// A thread could not be started, or panicked.
    BrokeOff,
}

/// What is answered to a request without its key.
pub(crate) fn unauthorized() -> Response {
    text(StatusCode::UNAUTHORIZED, "unauthorized".to_owned())
}

/// What is answered to a request whose key, or whose way here, does not give it the role it needs.
pub(crate) fn forbidden(error: &str) -> Response {
    text(StatusCode::FORBIDDEN, error.to_owned())
}

/// What is answered to a request that cannot be done.
pub(super) fn text(status: StatusCode, detail: String) -> Response {
    with_retry_after((status, Json(Detail { detail })).into_response())
}

/// What is answered where a field of the body is wrong, or all of it.
pub(super) fn wrong(field: Option<&str>, reason: String) -> Response {
    problems(vec![Problem::of(BODY, field, reason)])
}

fn problems(detail: Vec<Problem>) -> Response {
    (StatusCode::UNPROCESSABLE_ENTITY, Json(Problems { detail })).into_response()
}

impl Refusal {
    pub fn missing(place: &'static str, field: &'static str) -> Self {
        Self::Field { place, field, reason: "Field required".to_owned() }
    }
}

impl From<ManagementError> for Refusal {
    fn from(error: ManagementError) -> Self {
        Self::Management(error)
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        Self::Body(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Management(error) => management(error),
            // What FastAPI says of bodies that are no JSON, or none of the request's.
            Self::Body(error) if error.status == StatusCode::BAD_REQUEST => wrong(None, error.message),
            Self::Body(error) => text(error.status, error.message),
            Self::Field { place, field, reason } => problems(vec![Problem::of(place, Some(field), reason)]),
            Self::Absent(detail) => text(StatusCode::NOT_FOUND, detail),
            Self::NoState => {
                const TEXT: &str = "this server keeps no jobs or data sets; start it with `--state-dir`";
                text(StatusCode::FORBIDDEN, TEXT.to_owned())
            }
            Self::BrokeOff => {
                const TEXT: &str = "the work broke off; the server's log says why";
                text(StatusCode::INTERNAL_SERVER_ERROR, TEXT.to_owned())
            }
        }
    }
}

fn management(error: ManagementError) -> Response {
    match error {
        ManagementError::Invalid { field, reason } => wrong(Some(field), reason),
        ManagementError::Absent(detail) => text(StatusCode::NOT_FOUND, detail),
        ManagementError::Taken(detail) => text(StatusCode::CONFLICT, detail),
        ManagementError::Dataset(error) => dataset(error),
        ManagementError::State(error) => {
            tracing::error!(%error, "the state of jobs and data sets");
            const TEXT: &str = "the server's state cannot be read or written; its log says why";
            text(StatusCode::SERVICE_UNAVAILABLE, TEXT.to_owned())
        }
    }
}

fn dataset(error: DatasetError) -> Response {
    let status = match error {
        DatasetError::Lines(errors) => return problems(errors.into_iter().map(Problem::from).collect()),
        DatasetError::State(error) => return management(ManagementError::State(error)),
        // The file's name has no control characters by then.
        DatasetError::Nul(field) => {
            return problems(vec![Problem::of("query", Some(field), error.to_string())]);
        }
        DatasetError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        DatasetError::BrokenOff(_) => StatusCode::BAD_REQUEST,
        DatasetError::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        DatasetError::Bucket(reason) => {
            tracing::error!(reason, "the bucket of data sets");
            const TEXT: &str = "the bucket of data sets failed; the server's log says why";
            return text(StatusCode::BAD_GATEWAY, TEXT.to_owned());
        }
    };
    text(status, error.to_string())
}

impl Problem {
    fn of(place: &str, field: Option<&str>, msg: String) -> Self {
        let place = std::iter::once(Where::Name(place.to_owned()));
        let kind = if msg == "Field required" { ProblemKind::Missing } else { ProblemKind::ValueError };
        let loc = place.chain(field.map(|field| Where::Name(field.to_owned()))).collect();
        Self { loc, msg, kind }
    }
}

impl From<LineError> for Problem {
    fn from(error: LineError) -> Self {
        let names = [BODY, "file"].map(|name| Where::Name(name.to_owned()));
        let loc = names.into_iter().chain([Where::Line(error.line)]).collect();
        Self { loc, msg: error.to_string(), kind: ProblemKind::ValueError }
    }
}

impl IntoResponses for Refusal {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let texts = [
            (StatusCode::BAD_REQUEST, "The upload broke off"),
            (StatusCode::UNAUTHORIZED, "No key, or a wrong one"),
            (StatusCode::FORBIDDEN, "Not for who asks, or the server keeps no state"),
            (StatusCode::NOT_FOUND, "There is none of it"),
            (StatusCode::REQUEST_TIMEOUT, "The body took too long to come"),
            (StatusCode::CONFLICT, "The name is another's, or the work is under way"),
            (StatusCode::PAYLOAD_TOO_LARGE, "The body is too long"),
            (StatusCode::TOO_MANY_REQUESTS, "Too many requests wait"),
            (StatusCode::INTERNAL_SERVER_ERROR, "The work broke off"),
            (StatusCode::BAD_GATEWAY, "The bucket of data sets failed"),
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "The server is not ready, or its state cannot be read or written",
            ),
            (StatusCode::INSUFFICIENT_STORAGE, "The disk is full"),
        ];
        let responses = texts.into_iter().fold(Responses::default(), |responses, (status, description)| {
            responses.json::<Detail>(status, description)
        });
        responses.json::<Problems>(StatusCode::UNPROCESSABLE_ENTITY, "What is wrong with the request").build()
    }
}
