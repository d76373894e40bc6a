//! Ollama's routes under `/api` (reference/dialects.md §1).
//!
//! A request's way: `types` → `generate` or `chat` (with `options`, `messages`, `convert`) → [`crate::service`] →
//! `reply` → `stream` or one object; what goes wrong on it is in `errors`.

mod blobs;
mod chat;
mod convert;
mod create;
mod duration;
mod embed;
mod errors;
mod generate;
mod manage;
mod messages;
mod models;
mod names;
mod options;
mod reply;
mod stream;
mod transfer;
mod types;
mod work;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
pub(crate) use errors::{forbidden, unauthorized};

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
        .routes(routes!(create::create))
        .routes(routes!(blobs::find, blobs::add))
        .routes(routes!(manage::copy))
        .routes(routes!(manage::delete))
        .routes(routes!(transfer::pull))
        .routes(routes!(transfer::push))
}
