//! Refusals as the document has them; several media types may share a status.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use utoipa::ToSchema;
use utoipa::openapi::{ContentBuilder, ObjectBuilder, Ref, RefOr, Response, Schema, Type};

/// Responses by status.
#[derive(Default)]
pub(crate) struct Responses(BTreeMap<String, Response>);

impl Responses {
    pub fn json<T: ToSchema>(self, status: StatusCode, description: &str) -> Self {
        self.with(status, description, "application/json", Ref::from_schema_name(T::name()).into())
    }

    pub fn event<T: ToSchema>(self, status: StatusCode, description: &str) -> Self {
        self.with(status, description, "text/event-stream", Ref::from_schema_name(T::name()).into())
    }

    pub fn text(self, status: StatusCode, description: &str) -> Self {
        self.with(status, description, "text/plain", ObjectBuilder::new().schema_type(Type::String).into())
    }

    /// What [`crate::api::extract::Body`] refuses, each as `add` words it.
    pub fn of_bodies(self, add: impl Fn(Self, StatusCode, &str) -> Self) -> Self {
        [
            (StatusCode::BAD_REQUEST, "Not JSON"),
            (StatusCode::REQUEST_TIMEOUT, "The body took too long to come"),
            (StatusCode::PAYLOAD_TOO_LARGE, "The body is longer than `--payload-limit`"),
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, "`Content-Type` is not JSON"),
        ]
        .into_iter()
        .fold(self, |responses, (status, description)| add(responses, status, description))
    }

    /// The first description of a status stays.
    fn with(mut self, status: StatusCode, description: &str, media: &str, schema: RefOr<Schema>) -> Self {
        let response = self.0.entry(status.as_str().to_owned()).or_insert_with(|| Response::new(description));
        response.content.insert(media.to_owned(), ContentBuilder::new().schema(Some(schema)).into());
        self
    }

    pub fn build(self) -> BTreeMap<String, RefOr<Response>> {
        self.0.into_iter().map(|(status, response)| (status, response.into())).collect()
    }
}
