//! OpenAI's routes in OpenAI's own shape, with TGI's `error_type` beside OpenAI's error object.

mod convert;
mod errors;
mod handlers;
mod stream;
mod types;

use axum::Router;
use axum::routing::{get, post};

use super::AppState;
pub(crate) use errors::unauthorized;

/// This dialect's routes.
pub(crate) fn routes() -> Router<AppState> {
    Router::new()
        .route("/v1/chat/completions", post(handlers::chat_completions))
        .route("/v1/completions", post(handlers::completions))
        .route("/v1/models", get(handlers::models))
}
