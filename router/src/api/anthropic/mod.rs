//! Anthropic's Messages API (<https://docs.anthropic.com/en/api/messages>), as its SDK speaks it.
//!
//! A request's way: `types` → `lower` → [`super::openai`]'s chat → `tell`, which makes one message or its events; what
//! goes wrong on it is in `errors`.

mod errors;
mod handlers;
mod lower;
mod tell;
mod types;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
pub(crate) use errors::unauthorized;

/// How the document groups these routes.
const TAG: &str = "Anthropic";

/// Whether a path is one of these routes.
pub(crate) fn is_own(path: &str) -> bool {
    path == "/v1/messages" || path.starts_with("/v1/messages/")
}

/// This dialect's routes.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(handlers::messages)).routes(routes!(handlers::count_tokens))
}
