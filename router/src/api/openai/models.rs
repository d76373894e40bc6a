//! `GET /v1/models` and `GET /v1/models/{id}`.

use std::time::UNIX_EPOCH;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};

use super::errors::Refusal;
use super::quirks::Quirks;
use super::types::{ModelInfo, ModelList};
use crate::api::docs::schemas::ErrorAnswer;
use crate::api::{AppState, Settings};
use crate::residency::{AcquireError, Card};
use crate::service::ServiceError;

/// The model that is served.
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = super::TAG,
    operation_id = "openai_get_model_info",
    security(()),
    responses((status = 200, description = "The model that is served", body = ModelList))
)]
pub(super) async fn list(State(state): State<AppState>) -> Json<ModelList> {
    let others = state.models.cards().await;
    let others = others.iter().filter(|card| card.digest != state.lease.card.digest);
    let data = std::iter::once(served(&state.settings)).chain(others.map(|card| stored(card))).collect();
    Json(ModelList { object: "list", data })
}

/// The state of the model that a request names.
///
/// # Errors
/// When there is none, or it cannot be loaded now.
pub(super) async fn serving(state: &AppState, model: Option<&str>) -> Result<AppState, Refusal> {
    let refuse = |error| match error {
        AcquireError::NotFound => Refusal::ModelNotFound(model.unwrap_or_default().to_owned()),
        AcquireError::Busy => ServiceError::Overloaded.into(),
        AcquireError::Memory { .. } => ServiceError::Unavailable("there is no memory for the model").into(),
        AcquireError::Failed(_) => ServiceError::Unavailable("the model cannot be loaded").into(),
    };
    state.serving(model).await.map_err(refuse)
}

/// One model by its name, which may have slashes.
#[utoipa::path(
    get,
    path = "/v1/models/{*id}",
    tag = super::TAG,
    operation_id = "openai_get_model",
    params(("id" = String, Path, description = "The model's name; it may have slashes")),
    responses(
        (status = 200, description = "The model", body = ModelInfo),
        (status = 404, description = "No such model", body = ErrorAnswer),
    )
)]
pub(super) async fn one(State(state): State<AppState>, Path(id): Path<String>) -> Response {
    if id == state.settings.model_id {
        return Json(served(&state.settings)).into_response();
    }
    match state.models.card(&id).await {
        Ok(card) if !state.models.is_single() => Json(stored(&card)).into_response(),
        _ => Refusal::ModelNotFound(id).respond(Quirks::of(state.settings.profile), false),
    }
}

/// A model of the library; how long its texts may get is known once it is loaded.
fn stored(card: &Card) -> ModelInfo {
    let since = card.modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    ModelInfo {
        id: card.name.clone(),
        object: "model",
        created: since.map_or(0, |since| since.as_secs()),
        owned_by: card.name.clone(),
        max_model_len: 0,
    }
}

fn served(settings: &Settings) -> ModelInfo {
    ModelInfo {
        id: settings.model_id.clone(),
        object: "model",
        created: 0,
        owned_by: settings.model_id.clone(),
        max_model_len: settings.max_total_tokens,
    }
}
