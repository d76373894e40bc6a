//! `POST /v1/responses`.

use axum::response::Response as HttpResponse;

use super::lower;
use super::output::{Event, Response};
use super::tell::Telling;
use super::types::ResponsesRequest;
use crate::api::extract::Body;
use crate::api::openai::Refusal;
use crate::api::openai::chat;
use crate::api::{AppState, Caller, blocks};
use crate::config::Profile;

/// The answer to a conversation. Nothing of it is kept.
#[utoipa::path(
    post,
    path = "/v1/responses",
    tag = super::TAG,
    operation_id = "create_response",
    request_body = ResponsesRequest,
    responses(
        (status = 200, description = "The answer, or its parts as events", content(
            (Response = "application/json"),
            (Event = "text/event-stream")
        )),
        Refusal,
    )
)]
pub(super) async fn responses(Caller(state): Caller, body: Body<ResponsesRequest>) -> HttpResponse {
    // In OpenAI's own words, whatever the listener's profile: TGI has no such route.
    let state = state.under(Profile::OpenAi);
    let answered = async { answer(&state, body.0?).await };
    answered.await.unwrap_or_else(|refusal: Refusal| refusal.respond_under(Profile::OpenAi))
}

async fn answer(state: &AppState, body: ResponsesRequest) -> Result<HttpResponse, Refusal> {
    let streams = body.stream.unwrap_or(false);
    let chat = lower::request(&body).inspect_err(|error| state.service.refuse(error))?;
    let begun = chat::begin(state, chat).await?;
    let telling = Telling::new(body, &begun);
    Ok(blocks::respond(begun, telling, streams, |telling| telling.response).await?)
}
