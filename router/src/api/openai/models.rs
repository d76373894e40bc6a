//! `GET /v1/models` and `GET /v1/models/{id}`.

use std::time::UNIX_EPOCH;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};

use super::errors::Refusal;
use super::parameters::field;
use super::quirks::Quirks;
use super::types::{Common, ModelInfo, ModelList};
use crate::api::docs::schemas::ErrorAnswer;
use crate::api::{AppState, Settings};
use crate::residency::{AcquireError, Card};
use crate::service::{ServiceError, ValidationError};

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
    let own = std::iter::once(served(&state.settings)).chain(adapted(&state));
    let data = own.chain(others.map(|card| stored(card))).collect();
    Json(ModelList { object: "list", data })
}

/// The state of the model that a request names; its `adapter_id` is set where `model` is an adapter's name.
///
/// # Errors
/// When there is none, or it cannot be loaded now.
pub(super) async fn serving(state: &AppState, common: &mut Common) -> Result<AppState, Refusal> {
    match take_adapter(common, state) {
        Ok(true) => return Ok(state.clone()),
        Ok(false) => {}
        Err(ServiceError::Validation(ValidationError::Adapter(name))) => {
            return Err(Refusal::ModelNotFound(name));
        }
        Err(error) => return Err(error.into()),
    }
    serving_base(state, common.model.as_deref()).await
}

/// The state of the model that a request names, which is no adapter's name.
///
/// # Errors
/// When there is none, or it cannot be loaded now.
pub(super) async fn serving_base(state: &AppState, model: Option<&str>) -> Result<AppState, Refusal> {
    let refuse = |error| match error {
        AcquireError::NotFound => Refusal::ModelNotFound(model.unwrap_or_default().to_owned()),
        AcquireError::Busy => ServiceError::Overloaded.into(),
        AcquireError::Memory { .. } => ServiceError::Unavailable("there is no memory for the model").into(),
        AcquireError::Failed(_) => ServiceError::Unavailable("the model cannot be loaded").into(),
    };
    state.serving(model).await.map_err(refuse)
}

/// Has a `model` that is an adapter's name be the `adapter_id`; whether it is one.
///
/// # Errors
/// Two adapters named at once; or a name that is neither an adapter's nor the model's, where there are adapters and no
/// other models: it may be that of an adapter that has gone, which the model does not stand in for.
pub(super) fn take_adapter(common: &mut Common, state: &AppState) -> Result<bool, ServiceError> {
    let Some(model) = common.model.as_deref().filter(|name| !state.is_own_name(name)) else {
        return Ok(false);
    };
    let adapters = &state.service.adapters;
    if !adapters.contains(model) {
        let unknown = state.models.is_single() && adapters.are_named();
        return if unknown { Err(ValidationError::Adapter(model.to_owned()).into()) } else { Ok(false) };
    }
    if common.adapter_id.as_deref().is_some_and(|id| id != model) {
        return Err(field("adapter_id", "is another adapter than the one that `model` names"));
    }
    common.adapter_id = Some(model.to_owned());
    Ok(true)
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
    if let Some(adapter) = adapted(&state).find(|adapter| adapter.id == id) {
        return Json(adapter).into_response();
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
        parent: None,
    }
}

/// The model's adapters.
fn adapted(state: &AppState) -> impl Iterator<Item = ModelInfo> {
    let model = served(&state.settings);
    state.service.adapters.list().into_iter().map(move |(name, since)| ModelInfo {
        id: name,
        created: since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        parent: Some(model.id.clone()),
        ..model.clone()
    })
}

fn served(settings: &Settings) -> ModelInfo {
    ModelInfo {
        id: settings.model_id.clone(),
        object: "model",
        created: 0,
        owned_by: settings.model_id.clone(),
        max_model_len: settings.max_total_tokens,
        parent: None,
    }
}
