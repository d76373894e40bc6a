//! text-generation-inference's own routes (reference/tgi.md §2b, §2c, §2g).

mod convert;
mod errors;
mod generate;
pub(crate) mod handlers;
mod stream;
mod types;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
pub(crate) use convert::{request, simple_tokens};
pub(crate) use errors::ApiError;
pub(crate) use types::{
    ErrorResponse, GenerateRequest, GenerateResponse, Parameters, SimpleToken, StreamResponse,
};

/// This dialect's routes.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(handlers::root, handlers::compatible))
        .routes(routes!(handlers::generate))
        .routes(routes!(handlers::generate_stream))
        .routes(routes!(handlers::tokenize))
        .routes(routes!(handlers::health))
        .routes(routes!(handlers::ping))
        .routes(routes!(handlers::live))
        .routes(routes!(handlers::ready))
        .routes(routes!(handlers::info))
        .routes(routes!(handlers::metrics))
}
