//! Models at `/v1/models`: OpenAI's list, and what Jan has beyond it (reference/dialects.md §3, §5.2).
//!
//! One object serves both, so that either's clients find what they know. Jan has two forms of it, one for lists and one
//! for a model by itself, with other states and other types; each is where Jan has it.

mod convert;
mod errors;
mod handlers;
mod types;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;

/// How the document groups these routes.
const TAG: &str = "Models";

/// This dialect's routes.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(handlers::list))
        .routes(routes!(handlers::one, handlers::delete, handlers::put, handlers::post))
        .routes(routes!(handlers::download, handlers::post_download))
}
