//! Which model a request is for, and what the model itself asks where the request does not.

use serde_json::{Map, Value};

use super::errors::Refusal;
use super::parameters::field;
use super::types::{Common, Stop};
use crate::api::{AppState, unavailable};
use crate::residency::Card;
use crate::service::{ServiceError, ValidationError};

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
    let state = serving_base(state, common.model.as_deref()).await?;
    fill(common, &state.lease.card);
    if common.adapter_id.is_none() {
        common.adapter_id = state.lease.adapter.clone();
    }
    Ok(state)
}

/// The state of the model that a request names, which is no adapter's name.
///
/// # Errors
/// When there is none, or it cannot be loaded now.
pub(super) async fn serving_base(state: &AppState, model: Option<&str>) -> Result<AppState, Refusal> {
    let absent = || Refusal::ModelNotFound(model.unwrap_or_default().to_owned());
    state.serving(model).await.map_err(|error| unavailable(&error).map_or_else(absent, Refusal::Service))
}

/// Has a request ask for what its model brings, where it does not ask for something else. A Modelfile says what ends a
/// text and how long it gets, as under Ollama's `/v1`; a `model.json` also says how it is drawn.
fn fill(common: &mut Common, card: &Card) {
    let own: &Map<String, Value> = &card.layers.parameters;
    let number = |name: &str| own.get(name).and_then(Value::as_f64);
    if card.document.is_some() {
        common.temperature = common.temperature.or(number("temperature").map(|value| value as f32));
        common.top_p = common.top_p.or(number("top_p").map(|value| value as f32));
    }
    let whole = |name: &str| own.get(name).and_then(Value::as_i64);
    common.top_k = common.top_k.or(whole("top_k").and_then(|value| value.try_into().ok()));
    common.own_max_tokens = whole("num_predict").and_then(|value| value.try_into().ok());
    if common.stop.is_none()
        && let Some(stops) = own.get("stop").and_then(Value::as_array)
    {
        common.stop = Some(Stop::Many(stops.iter().filter_map(Value::as_str).map(str::to_owned).collect()));
    }
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
