//! text-generation-inference's own routes (reference/tgi.md §2b, §2c, §2g).

mod convert;
mod errors;
mod generate;
pub(crate) mod handlers;
mod stream;
mod types;

use axum::Router;
use axum::routing::{get, post};

use super::AppState;
pub(crate) use convert::{request, simple_tokens};
pub(crate) use errors::ApiError;
pub(crate) use types::{ErrorResponse, GenerateRequest, Parameters, SimpleToken};

/// This dialect's routes.
pub(crate) fn routes() -> Router<AppState> {
    Router::new()
        .route("/", get(handlers::health).post(handlers::compatible))
        .route("/generate", post(handlers::generate))
        .route("/generate_stream", post(handlers::generate_stream))
        .route("/tokenize", post(handlers::tokenize))
        .route("/health", get(handlers::health))
        .route("/ping", get(handlers::health))
        .route("/livez", get(handlers::live))
        .route("/readyz", get(handlers::health))
        .route("/info", get(handlers::info))
        .route("/metrics", get(handlers::metrics))
}
