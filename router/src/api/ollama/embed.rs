//! `POST /api/embed` and `POST /api/embeddings`. Empty inputs load the model.

use std::time::Instant;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use super::duration::keep_alive;
use super::errors::Refusal;
use super::options::Options;
use super::reply::nanoseconds;
use super::types::{
    EmbedFigures, EmbedRequest, EmbedResponse, EmbeddingsRequest, EmbeddingsResponse, ErrorBody,
};
use super::{models, names};
use crate::api::extract::AnyType;
use crate::api::{AppState, Caller};
use crate::residency::Lease;
use crate::service::{self, Embedded, ServiceError, TextInput, ValidationError};

/// The embeddings of texts.
#[utoipa::path(
    post,
    path = "/api/embed",
    tag = super::TAG,
    operation_id = "ollama_embed",
    request_body = EmbedRequest,
    responses((status = 200, description = "One embedding for each text", body = EmbedResponse),
        (status = 400, description = "The request is not one, or asks for what cannot be", body = ErrorBody), Refusal)
)]
pub(super) async fn embed(Caller(state): Caller, body: AnyType<EmbedRequest>) -> Response {
    let answered = match body.0 {
        Ok(body) => several(&state, body).await,
        Err(error) => Err(error.into()),
    };
    answered.map_or_else(Refusal::into_response, |answer| Json(answer).into_response())
}

/// The embedding of one text, in the form of earlier versions.
#[utoipa::path(
    post,
    path = "/api/embeddings",
    tag = super::TAG,
    operation_id = "ollama_embeddings",
    request_body = EmbeddingsRequest,
    responses((status = 200, description = "The embedding", body = EmbeddingsResponse), Refusal)
)]
pub(super) async fn embeddings(Caller(state): Caller, body: AnyType<EmbeddingsRequest>) -> Response {
    let answered = match body.0 {
        Ok(body) => one(&state, body).await,
        Err(error) => Err(error.into()),
    };
    answered.map_or_else(Refusal::into_response, |answer| Json(answer).into_response())
}

async fn several(state: &AppState, body: EmbedRequest) -> Result<EmbedResponse, Refusal> {
    let started = Instant::now();
    let texts = texts(body.input)?;
    let model = names::asked(body.model, body.name)?;
    let dimensions = match body.dimensions {
        None | Some(0) => None,
        Some(wanted) => Some(usize::try_from(wanted).unwrap_or(0)),
    };
    let empty = texts.is_empty();
    let (lease, max_tokens) = acquire(state, &model, body.keep_alive, body.options, empty).await?;
    let load = started.elapsed();
    if empty {
        return Ok(EmbedResponse { model, embeddings: Vec::new(), figures: None });
    }
    let request = service::EmbedRequest {
        truncate: body.truncate.unwrap_or(true),
        max_tokens,
        dimensions,
        ..service::EmbedRequest::new("input", texts.into_iter().map(TextInput::Text).collect())
    };
    let embedded = lease.service.embed(request, Some(state.models.queue())).await;
    let Embedded { vectors, tokens } = embedded.map_err(refusal)?;
    let figures = EmbedFigures {
        total_duration: nanoseconds(started.elapsed()),
        load_duration: nanoseconds(load),
        prompt_eval_count: tokens,
    };
    Ok(EmbedResponse { model, embeddings: vectors, figures: Some(figures) })
}

async fn one(state: &AppState, body: EmbeddingsRequest) -> Result<EmbeddingsResponse, Refusal> {
    let name = names::asked(body.model, body.name)?;
    let text = body.prompt.unwrap_or_default();
    let (lease, max_tokens) = acquire(state, &name, body.keep_alive, body.options, text.is_empty()).await?;
    if text.is_empty() {
        return Ok(EmbeddingsResponse { embedding: Vec::new() });
    }
    let request = service::EmbedRequest {
        truncate: true,
        max_tokens,
        normalize: false,
        ..service::EmbedRequest::new("prompt", vec![TextInput::Text(text)])
    };
    let embedded = lease.service.embed(request, Some(state.models.queue())).await;
    let mut vectors = embedded.map_err(refusal)?.vectors;
    Ok(EmbeddingsResponse { embedding: vectors.pop().unwrap_or_default() })
}

/// Upstream's words for a text that is too long.
fn refusal(error: ServiceError) -> Refusal {
    match error {
        ServiceError::Validation(ValidationError::TextLength { .. }) => {
            Refusal::bad("the input length exceeds the context length".to_owned())
        }
        error => error.into(),
    }
}

fn texts(input: Option<Value>) -> Result<Vec<String>, Refusal> {
    let invalid = || Refusal::bad("invalid input type".to_owned());
    match input {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty()).into_iter().collect()),
        Some(Value::Array(list)) => {
            list.into_iter().map(|entry| entry.as_str().map(str::to_owned).ok_or_else(invalid)).collect()
        }
        Some(_) => Err(invalid()),
    }
}

/// The model, and the tokens that the request allows a text.
///
/// # Errors
/// When there is no such model, or it makes no embeddings of the texts that there are.
async fn acquire(
    state: &AppState,
    name: &str,
    keep: Option<Value>,
    options: Option<Map<String, Value>>,
    empty: bool,
) -> Result<(Lease, Option<usize>), Refusal> {
    let keep = keep_alive(keep.as_ref())?;
    let options = Options::read(options.iter())?;
    let lease = models::acquire(state, name, keep).await?;
    if !empty && let Err(error) = lease.service.engine.embeds() {
        lease.service.refuse(&error.into());
        return Err(Refusal::bad(format!("{name:?} does not support embeddings")));
    }
    let max_tokens =
        options.num_ctx.and_then(|tokens| usize::try_from(tokens).ok()).filter(|tokens| *tokens > 0);
    Ok((lease, max_tokens.or(state.settings.default_num_ctx)))
}
