//! `POST /embed`.

use axum::Json;
use axum::response::{IntoResponse, Response};

use super::errors::{Refusal, serving};
use super::types::{EmbedRequest, ErrorBody, Inputs};
use crate::api::Caller;
use crate::api::extract::Body;
use crate::service::{self, TextInput};

const FIELD: &str = "inputs";

/// Vectors of texts, as text-embeddings-inference answers.
#[utoipa::path(
    post,
    path = "/embed",
    tag = super::TAG,
    operation_id = "tei_embed",
    request_body = EmbedRequest,
    responses((status = 200, description = "One vector for each text, in their order", body = Vec<Vec<f32>>),
        (status = 413, description = "A text is too long, or there are too many", body = ErrorBody), Refusal)
)]
pub(super) async fn embed(caller: Caller, body: Body<EmbedRequest>) -> Response {
    let answered = match body.0 {
        Ok(body) => answer(caller, body).await,
        Err(error) => Err(error.into()),
    };
    answered.map_or_else(Refusal::into_response, |vectors| Json(vectors).into_response())
}

async fn answer(caller: Caller, body: EmbedRequest) -> Result<Vec<Vec<f32>>, Refusal> {
    let state = serving(caller, body.model.as_deref()).await?;
    let texts: Vec<TextInput> = match body.inputs {
        Inputs::Text(text) => vec![TextInput::Text(text)],
        Inputs::Texts(texts) => texts.into_iter().map(TextInput::Text).collect(),
        Inputs::Tokens(tokens) => vec![TextInput::Tokens(tokens)],
        Inputs::TokenLists(lists) => lists.into_iter().map(TextInput::Tokens).collect(),
    };
    if texts.is_empty() {
        return Err(Refusal::invalid(&state, FIELD, "must not be empty".to_owned()));
    }
    let request = service::EmbedRequest {
        truncate: body.truncate.unwrap_or(false),
        prompt_name: body.prompt_name,
        dimensions: body.dimensions,
        normalize: body.normalize.unwrap_or(true),
        ..service::EmbedRequest::new(FIELD, texts)
    };
    Ok(state.service.embed(request, None).await?.vectors)
}
