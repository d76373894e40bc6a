//! text-embeddings-inference's `/embed` and `/rerank`, and `/rerank` as Cohere, Jina and their clients have it.

mod embed;
mod errors;
mod rerank;
mod types;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;

/// How the document groups these routes.
const TAG: &str = "Embeddings and reranking";

/// This dialect's routes.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(embed::embed))
        .routes(routes!(rerank::rerank))
        .routes(routes!(rerank::rerank_v1))
}
