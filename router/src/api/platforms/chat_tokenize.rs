use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::AppState;
use crate::api::extract::Body;
use crate::api::openai::ChatRequest;
use crate::api::openai::chat::chat_request;
use crate::api::tgi::{ApiError, SimpleToken, simple_tokens};
use crate::service::ServiceError;

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ChatTokenizeResponse {
    pub tokenize_response: Vec<SimpleToken>,
    pub templated_text: String,
}

/// A chat as the model would read it: its text, and the text's tokens. Nothing is generated.
#[utoipa::path(
    post,
    path = "/chat_tokenize",
    tag = super::TAG,
    operation_id = "chat_tokenize",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "The text that the model would read, and its tokens", body = ChatTokenizeResponse),
        ApiError,
    )
)]
pub(super) async fn chat_tokenize(State(state): State<AppState>, body: Body<ChatRequest>) -> Response {
    match body.0 {
        Ok(body) => match tokenize(&state, body).await {
            Ok(response) => Json(response).into_response(),
            Err(error) => ApiError(error).into_response(),
        },
        Err(error) => error.into_response(),
    }
}

async fn tokenize(state: &AppState, body: ChatRequest) -> Result<ChatTokenizeResponse, ServiceError> {
    let request = chat_request(body, state)?;
    let (templated_text, placed) = state.service.tokenize_rendered(&request.prompt).await?;
    let tokenize_response = simple_tokens(&placed, &templated_text);
    Ok(ChatTokenizeResponse { tokenize_response, templated_text })
}
