//! `GET /v1/models` and `GET /v1/models/{id}`.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};

use super::errors::Refusal;
use super::quirks::Quirks;
use super::types::{ModelInfo, ModelList};
use crate::api::docs::schemas::ErrorAnswer;
use crate::api::{AppState, Settings};

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
    Json(ModelList { object: "list", data: vec![served(&state.settings)] })
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
        Json(served(&state.settings)).into_response()
    } else {
        Refusal::ModelNotFound(id).respond(Quirks::of(state.settings.profile), false)
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
