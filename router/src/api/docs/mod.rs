//! The API's own description: the OpenAPI document that the routes give, and Swagger UI to read it and try it out.

mod document;
mod page;
mod responses;
pub(crate) mod schemas;

use axum::Router;
use utoipa::openapi::OpenApi;

pub(crate) use document::{complete, head};
pub(crate) use responses::Responses;

/// Where the pages of the description lie; they are open to all.
const PREFIX: &str = "/docs";
/// Where the management API has them, with the document beside.
const MANAGEMENT_PREFIX: &str = "/api/docs";
const MANAGEMENT_DOCUMENT: &str = "/api/openapi.json";
/// TGI's address of the document.
const DOCUMENT: &str = "/api-doc/openapi.json";

/// Whether `path` is part of the description, which needs no key.
pub(crate) fn is_open(path: &str) -> bool {
    let below =
        |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    [DOCUMENT, MANAGEMENT_DOCUMENT].contains(&path) || below(PREFIX) || below(MANAGEMENT_PREFIX)
}

/// The document and the pages that show it.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>(document: &OpenApi) -> Router<S> {
    page::routes(document::json(document))
}

/// The OpenAPI document of this build, as JSON with a final newline: the file `openapi.json`.
#[must_use]
pub fn openapi_json() -> String {
    document::json(&super::routes().1)
}
