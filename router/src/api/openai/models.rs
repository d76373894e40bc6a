//! `GET /v1/models` and `GET /v1/models/{id}`.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};

use super::errors::Refusal;
use super::quirks::Quirks;
use super::types::{ModelInfo, ModelList};
use crate::api::{AppState, Settings};

/// The model that is served.
pub(super) async fn list(State(state): State<AppState>) -> Json<ModelList> {
    Json(ModelList { object: "list", data: vec![served(&state.settings)] })
}

/// One model by its name, which may have slashes.
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
