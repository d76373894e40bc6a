//! `POST /v1/load_lora_adapter` and `POST /v1/unload_lora_adapter`, in the shapes that vLLM gave them.

use std::path::PathBuf;

use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;

use super::errors::Refusal;
use super::quirks::Quirks;
use crate::api::docs::schemas::ErrorAnswer;
use crate::api::extract::Body;
use crate::api::{Administrator, AppState};
use crate::service::{AdapterError, ServiceError};

/// An adapter to load.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct LoadAdapter {
    /// What requests will call it.
    #[schema(example = "sql")]
    pub lora_name: String,
    /// A folder of PEFT's or a .gguf file, on the server.
    #[schema(value_type = String, example = "/adapters/sql")]
    pub lora_path: PathBuf,
    /// Replaces one of that name; what is under way with the old one ends with it.
    #[serde(default)]
    #[schema(required = false)]
    pub load_inplace: bool,
}

/// An adapter to unload.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct UnloadAdapter {
    #[schema(example = "sql")]
    pub lora_name: String,
}

/// Loads an adapter beside the model.
#[utoipa::path(
    post,
    path = "/v1/load_lora_adapter",
    tag = super::TAG,
    operation_id = "load_lora_adapter",
    request_body = LoadAdapter,
    responses(
        (status = 200, description = "It can be used from now on", content_type = "text/plain", body = String),
        (status = 403, description = "Not for who asks", body = ErrorAnswer),
        Refusal,
    )
)]
pub(super) async fn load(Administrator(state): Administrator, body: Body<LoadAdapter>) -> Response {
    let done = match body.0 {
        Ok(body) => load_adapter(&state, body).await,
        Err(error) => Err(error.into()),
    };
    answer(&state, done.map(|name| format!("Success: LoRA adapter '{name}' added.")))
}

async fn load_adapter(state: &AppState, body: LoadAdapter) -> Result<String, Refusal> {
    let LoadAdapter { lora_name: name, lora_path, load_inplace } = body;
    if state.is_own_name(&name) {
        return Err(refusal(AdapterError::Name(name)));
    }
    let (service, own) = (state.service.clone(), name.clone());
    let load = move || service.adapters.load(&own, &lora_path, load_inplace);
    match tokio::task::spawn_blocking(load).await {
        Ok(loaded) => loaded.map(|()| name).map_err(refusal),
        Err(_) => Err(ServiceError::Unavailable("the adapter cannot be loaded").into()),
    }
}

/// Takes an adapter's name away; what is under way with it goes on to its end.
#[utoipa::path(
    post,
    path = "/v1/unload_lora_adapter",
    tag = super::TAG,
    operation_id = "unload_lora_adapter",
    request_body = UnloadAdapter,
    responses(
        (status = 200, description = "No request can use it from now on", content_type = "text/plain", body = String),
        (status = 403, description = "Not for who asks", body = ErrorAnswer),
        Refusal,
    )
)]
pub(super) async fn unload(Administrator(state): Administrator, body: Body<UnloadAdapter>) -> Response {
    let done = match body.0 {
        Ok(UnloadAdapter { lora_name }) => {
            state.service.adapters.unload(&lora_name).map(|()| lora_name).map_err(refusal)
        }
        Err(error) => Err(error.into()),
    };
    answer(&state, done.map(|name| format!("Success: LoRA adapter '{name}' removed.")))
}

fn answer(state: &AppState, done: Result<String, Refusal>) -> Response {
    match done {
        Ok(text) => text.into_response(),
        Err(refusal) => refusal.respond(Quirks::of(state.settings.profile), false),
    }
}

fn refusal(error: AdapterError) -> Refusal {
    let param = match error {
        AdapterError::NotFound(name) => return Refusal::ModelNotFound(name),
        AdapterError::Memory { .. } | AdapterError::Device(_) | AdapterError::Stopped => {
            tracing::warn!(%error, "an adapter was not loaded");
            return ServiceError::Unavailable("the adapter cannot be loaded").into();
        }
        AdapterError::Exists(_) | AdapterError::Name(_) => "lora_name",
        AdapterError::Files(_) => "lora_path",
        AdapterError::Unsupported => "model",
    };
    Refusal::Invalid { message: error.to_string(), param, error_type: "validation" }
}
