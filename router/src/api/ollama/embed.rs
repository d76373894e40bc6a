//! `POST /api/embed` and `POST /api/embeddings`. No model here embeds: empty inputs load the model, as at Ollama, and
//! others are refused in its words.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use super::duration::keep_alive;
use super::errors::Refusal;
use super::options::Options;
use super::types::{EmbedRequest, EmbedResponse, EmbeddingsRequest, EmbeddingsResponse};
use super::{models, names};
use crate::api::extract::AnyType;
use crate::api::{AppState, Caller};

/// The embeddings of texts.
#[utoipa::path(
    post,
    path = "/api/embed",
    tag = super::TAG,
    operation_id = "ollama_embed",
    request_body = EmbedRequest,
    responses((status = 200, description = "One embedding for each text", body = EmbedResponse), Refusal)
)]
pub(super) async fn embed(Caller(state): Caller, body: AnyType<EmbedRequest>) -> Response {
    let answer = async {
        let body = body.0?;
        let texts = texts(body.input)?;
        let name = names::asked(body.model, body.name)?;
        load_only(&state, &name, body.keep_alive, body.options, texts.is_empty()).await?;
        Ok::<_, Refusal>(Json(EmbedResponse { model: name, embeddings: Vec::new() }))
    };
    answer.await.map_or_else(Refusal::into_response, IntoResponse::into_response)
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
    let answer = async {
        let body = body.0?;
        let name = names::asked(body.model, body.name)?;
        let empty = body.prompt.is_none_or(|text| text.is_empty());
        load_only(&state, &name, body.keep_alive, body.options, empty).await?;
        Ok::<_, Refusal>(Json(EmbeddingsResponse { embedding: Vec::new() }))
    };
    answer.await.map_or_else(Refusal::into_response, IntoResponse::into_response)
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

async fn load_only(
    state: &AppState,
    name: &str,
    keep: Option<Value>,
    options: Option<Map<String, Value>>,
    empty: bool,
) -> Result<(), Refusal> {
    let keep = keep_alive(keep.as_ref())?;
    Options::read(options.iter())?;
    if !empty {
        models::find(state, name).await?;
        return Err(Refusal::bad(format!("{name:?} does not support embeddings")));
    }
    models::acquire(state, name, keep).await.map(|_| ())
}
