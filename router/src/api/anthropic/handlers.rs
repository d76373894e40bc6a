//! `POST /v1/messages`, and the count of a prompt's tokens.

use axum::Json;
use axum::response::{IntoResponse, Response};

use super::errors::Refused;
use super::lower;
use super::tell::Telling;
use super::types::{ConversationRequest, ErrorBody, Event, Message, MessagesRequest, TokenCount};
use crate::api::extract::Body;
use crate::api::openai::chat;
use crate::api::{AppState, Caller, blocks};
use crate::config::Profile;

/// The next message of a conversation.
#[utoipa::path(
    post,
    path = "/v1/messages",
    tag = super::TAG,
    operation_id = "anthropic_messages",
    request_body = MessagesRequest,
    responses(
        (status = 200, description = "The message, or its parts as events", content(
            (Message = "application/json"),
            (Event = "text/event-stream")
        )),
        (status = 400, description = "The request is not one, or asks for what cannot be", body = ErrorBody),
        Refused,
    )
)]
pub(super) async fn messages(caller: Caller, body: Body<MessagesRequest>) -> Response {
    let answered = async { answer(&here(caller), body.0?).await };
    answered.await.unwrap_or_else(Refused::into_response)
}

/// How many tokens a request's prompt has. Nothing is generated.
#[utoipa::path(
    post,
    path = "/v1/messages/count_tokens",
    tag = super::TAG,
    operation_id = "anthropic_count_tokens",
    request_body = ConversationRequest,
    responses((status = 200, description = "The count", body = TokenCount), Refused)
)]
pub(super) async fn count_tokens(caller: Caller, body: Body<ConversationRequest>) -> Response {
    let counted = async { count(&here(caller), body.0?).await };
    counted.await.map_or_else(Refused::into_response, |count| Json(count).into_response())
}

/// The caller's state; the chat beneath is OpenAI's, whatever the listener's profile.
fn here(Caller(state): Caller) -> AppState {
    state.under(Profile::OpenAi)
}

async fn answer(state: &AppState, body: MessagesRequest) -> Result<Response, Refused> {
    let streams = body.stream.unwrap_or(false);
    let chat = lower::request(body).inspect_err(|error| state.service.refuse(error))?;
    let begun = chat::begin(state, chat).await?;
    let telling = Telling::new(&begun);
    Ok(blocks::respond(begun, telling, streams, |telling| telling.message).await?)
}

async fn count(state: &AppState, body: ConversationRequest) -> Result<TokenCount, Refused> {
    let (state, prompt) = chat::prompt(state, lower::conversation(body)?).await?;
    let (_, tokens) = state.service.tokenize_rendered(&prompt).await?;
    Ok(TokenCount { input_tokens: tokens.len() })
}
