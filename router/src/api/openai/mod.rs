//! OpenAI's routes, in OpenAI's own shape or in TGI's ([`quirks`]).
//!
//! A request's way: `types` → `chat` or `completions` (with `parameters`, `messages`) → [`crate::service`] → `collect`
//! or `stream` → `types`; what goes wrong on it is in `errors`.

mod answer;
pub(crate) mod chat;
mod collect;
pub(crate) mod completions;
mod constraints;
mod errors;
mod logprobs;
mod messages;
mod models;
mod parameters;
mod quirks;
mod reading;
mod stream;
mod tools;
mod types;

use axum::Router;
use axum::routing::{get, post};

use super::AppState;
pub(crate) use errors::unauthorized;
pub(crate) use types::{ChatRequest, CompletionRequest};

/// This dialect's routes.
pub(crate) fn routes() -> Router<AppState> {
    Router::new()
        .route("/v1/chat/completions", post(chat::completions))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
}
