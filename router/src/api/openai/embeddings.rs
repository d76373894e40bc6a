//! `POST /v1/embeddings`.

use std::time::SystemTime;

use axum::Json;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::errors::Refusal;
use super::models::serving_base;
use super::parameters::field;
use super::quirks::Quirks;
use super::types::{
    EmbeddingObject, EmbeddingVector, EmbeddingsRequest, EmbeddingsResponse, EmbeddingsUsage, EncodingFormat,
    PromptInput,
};
use crate::api::extract::Body;
use crate::api::{AppState, Caller, seconds};
use crate::service::{EmbedRequest, TextInput};

const FIELD: &str = "input";

/// Vectors of texts.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    tag = super::TAG,
    operation_id = "embeddings",
    request_body = EmbeddingsRequest,
    responses((status = 200, description = "One vector for each text, in their order", body = EmbeddingsResponse), Refusal)
)]
pub(crate) async fn embeddings(Caller(state): Caller, body: Body<EmbeddingsRequest>) -> Response {
    let quirks = Quirks::of(state.settings.profile);
    let answered = match body.0 {
        Ok(body) => answer(&state, body, quirks).await,
        Err(error) => Err(error.into()),
    };
    answered.map_or_else(|refusal| refusal.respond(quirks, false), |answer| Json(answer).into_response())
}

async fn answer(
    state: &AppState,
    body: EmbeddingsRequest,
    quirks: &Quirks,
) -> Result<EmbeddingsResponse, Refusal> {
    let named = body.model.clone().filter(|name| !name.is_empty() && name != "tgi");
    let state = &serving_base(state, body.model.as_deref()).await?;
    tracing::debug!(user = body.user, "embeddings");
    if body.input.is_empty() {
        let error = field(FIELD, "must not be empty");
        state.service.refuse(&error);
        return Err(error.into());
    }
    let request = EmbedRequest {
        truncate: body.truncate.unwrap_or(false),
        prompt_name: body.prompt_name,
        dimensions: body.dimensions,
        ..EmbedRequest::new(FIELD, texts(body.input))
    };
    let embedded = state.service.embed(request, None).await?;
    let encode = |vector| match body.encoding_format {
        Some(EncodingFormat::Base64) => EmbeddingVector::Bytes(base64_of(vector)),
        Some(EncodingFormat::Float) | None => EmbeddingVector::Numbers(vector),
    };
    let object = |(index, vector)| EmbeddingObject { object: "embedding", index, embedding: encode(vector) };
    Ok(EmbeddingsResponse {
        id: quirks.id("embd"),
        object: "list",
        created: seconds(SystemTime::now()),
        model: named.unwrap_or_else(|| state.settings.model_id.clone()),
        data: embedded.vectors.into_iter().enumerate().map(object).collect(),
        usage: EmbeddingsUsage {
            prompt_tokens: embedded.tokens,
            completion_tokens: 0,
            total_tokens: embedded.tokens,
        },
    })
}

fn texts(input: PromptInput) -> Vec<TextInput> {
    match input {
        PromptInput::Text(text) => vec![TextInput::Text(text)],
        PromptInput::Texts(texts) => texts.into_iter().map(TextInput::Text).collect(),
        PromptInput::Tokens(tokens) => vec![TextInput::Tokens(tokens)],
        PromptInput::TokenLists(lists) => lists.into_iter().map(TextInput::Tokens).collect(),
    }
}

fn base64_of(vector: Vec<f32>) -> String {
    STANDARD.encode(vector.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>())
}
