//! OpenAI's routes, as this API has them: its ids, and its errors.

use axum::body::to_bytes;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;

use super::errors::{Refusal, text, wrong};
use crate::api::docs::schemas::{ChatCompletion, ChatCompletionChunk, Chunk, CompletionFinal};
use crate::api::extract::AnyType;
use crate::api::openai::{self, ChatRequest, CompletionRequest, EmbeddingsRequest, EmbeddingsResponse};
use crate::api::{Caller, extract::Body};
use crate::config::Profile;

/// No error is longer.
const MAX_ERROR: usize = 1 << 20;

/// The caller, who is answered in this API's words.
fn here(Caller(state): Caller) -> Caller {
    Caller(state.under(Profile::Management))
}

#[utoipa::path(
    post,
    path = "/api/v1/completions/",
    tag = super::TAG,
    operation_id = "management_completions",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "The answer, or its parts as events", content(
            (CompletionFinal = "application/json"),
            (Chunk = "text/event-stream")
        )),
        Refusal,
    )
)]
pub(super) async fn completions(caller: Caller, body: AnyType<CompletionRequest>) -> Response {
    detailed(openai::completions::completions(here(caller), Body(body.0)).await).await
}

#[utoipa::path(
    post,
    path = "/api/v1/chat/completions/",
    tag = super::TAG,
    operation_id = "management_chat_completions",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "The answer, or its parts as events", content(
            (ChatCompletion = "application/json"),
            (ChatCompletionChunk = "text/event-stream")
        )),
        Refusal,
    )
)]
pub(super) async fn chat(caller: Caller, body: AnyType<ChatRequest>) -> Response {
    detailed(openai::chat::completions(here(caller), Body(body.0)).await).await
}

#[utoipa::path(
    post,
    path = "/api/v1/embeddings/",
    tag = super::TAG,
    operation_id = "management_embeddings",
    request_body = EmbeddingsRequest,
    responses(
        (status = 200, description = "One vector for each text, in their order", body = EmbeddingsResponse),
        Refusal
    )
)]
pub(super) async fn embeddings(caller: Caller, body: AnyType<EmbeddingsRequest>) -> Response {
    detailed(openai::embeddings::embeddings(here(caller), Body(body.0)).await).await
}

/// An error of OpenAI's as one of this API's; anything else as it is.
async fn detailed(response: Response) -> Response {
    let status = response.status();
    if status.is_success() {
        return response;
    }
    let body = to_bytes(response.into_body(), MAX_ERROR).await.unwrap_or_default();
    let parsed = serde_json::from_slice::<Value>(&body).ok();
    let message = parsed.as_ref().and_then(|body| body.pointer("/error/message")?.as_str());
    let detail = message.map_or_else(|| String::from_utf8_lossy(&body).into_owned(), str::to_owned);
    // FastAPI has one status for what is no request and for what is a wrong one.
    if [StatusCode::BAD_REQUEST, StatusCode::UNPROCESSABLE_ENTITY].contains(&status) {
        return wrong(parsed.as_ref().and_then(|body| body.pointer("/error/param")?.as_str()), detail);
    }
    text(status, detail)
}
