//! OpenAI's Responses API (<https://platform.openai.com/docs/api-reference/responses>), without its state: nothing is
//! kept, so a conversation comes whole with each request, as its SDKs send it with `store: false`.
//!
//! A request's way: `types` → `lower` → [`super::openai`]'s chat → `tell`, which makes one response or its events.
//! Errors are OpenAI's.

mod handlers;
mod lower;
mod output;
mod tell;
mod types;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;

/// How the document groups these routes.
const TAG: &str = "OpenAI";

/// This dialect's routes.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(handlers::responses))
}
