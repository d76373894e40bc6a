//! Ollama's routes under `/api` (reference/dialects.md §1).
//!
//! A request's way: `types` → `generate` or `chat` (with `options`, `messages`, `convert`) → [`crate::service`] →
//! `reply` → `stream` or one object; what goes wrong on it is in `errors`.

mod chat;
mod convert;
mod duration;
mod embed;
mod errors;
mod generate;
mod messages;
mod models;
mod names;
mod options;
mod reply;
mod stream;
mod types;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
pub(crate) use errors::unauthorized;

/// How the document groups these routes.
const TAG: &str = "Ollama";

/// This dialect's routes.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(generate::generate))
        .routes(routes!(chat::chat))
        .routes(routes!(models::tags))
        .routes(routes!(models::show))
        .routes(routes!(models::ps))
        .routes(routes!(models::version))
        .routes(routes!(embed::embed))
        .routes(routes!(embed::embeddings))
}
