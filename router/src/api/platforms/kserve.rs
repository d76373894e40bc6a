//! The routes of TGI's `kserve` feature: version 2 of KServe's protocol, texts as arrays of their bytes.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{prediction_failed, refusal, texts};
use crate::api::extract::Body;
use crate::api::tgi::{GenerateRequest, Parameters};
use crate::api::{AppState, Caller, tgi};
use crate::service::{self, ServiceError};

/// What TGI calls itself here; clients tell it by that.
const SERVER: &str = "text-generation-inference";

#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct InferenceRequest {
    pub id: String,
    /// Of every input.
    #[serde(default = "Parameters::absent")]
    pub parameters: Parameters,
    pub inputs: Vec<Input>,
    /// As many as there are inputs.
    pub outputs: Vec<Output>,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = InferenceInput)]
pub(crate) struct Input {
    /// A text's bytes.
    pub data: Vec<u8>,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = InferenceOutputName)]
pub(crate) struct Output {
    pub name: String,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct InferenceOutput {
    pub id: String,
    pub outputs: Vec<OutputChunk>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct OutputChunk {
    pub name: String,
    /// 1 and the number of bytes.
    pub shape: [usize; 2],
    pub datatype: &'static str,
    pub data: Vec<u8>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct LiveResponse {
    pub live: bool,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct MetadataServerResponse {
    pub name: String,
    pub version: String,
    #[schema(value_type = Vec<String>)]
    pub extensions: &'static [&'static str],
}

/// The process answers.
#[utoipa::path(
    get,
    path = "/v2/health/live",
    tag = super::TAG,
    operation_id = "kserve_live",
    security(()),
    responses((status = 200, description = "It answers", body = LiveResponse))
)]
pub(super) async fn live() -> Json<LiveResponse> {
    Json(LiveResponse { live: true })
}

/// The server and, as it has but one, every model. The key is TGI's.
#[utoipa::path(
    get,
    path = "/v2/health/ready",
    tag = super::TAG,
    operation_id = "kserve_ready",
    security(()),
    responses(
        (status = 200, description = "Requests are served", body = LiveResponse),
        (status = 503, description = "They are not, or not yet", body = tgi::ErrorResponse),
    )
)]
pub(super) async fn ready(State(state): State<AppState>) -> Response {
    match state.service.check_ready() {
        Ok(()) => Json(LiveResponse { live: true }).into_response(),
        Err(_) => tgi::handlers::health(State(state)).await,
    }
}

/// Any name is the model's, as in TGI.
#[utoipa::path(
    get,
    path = "/v2/models/{model}/versions/{version}/ready",
    tag = super::TAG,
    operation_id = "kserve_model_ready",
    params(("model" = String, Path), ("version" = String, Path)),
    responses(
        (status = 200, description = "Requests are served", body = LiveResponse),
        (status = 503, description = "They are not, or not yet", body = tgi::ErrorResponse),
    )
)]
pub(super) async fn model_ready(state: State<AppState>) -> Response {
    ready(state).await
}

#[utoipa::path(
    get,
    path = "/v2",
    tag = super::TAG,
    operation_id = "kserve_server_metadata",
    responses((status = 200, description = "What serves", body = MetadataServerResponse))
)]
pub(super) async fn server() -> Json<MetadataServerResponse> {
    Json(MetadataServerResponse {
        name: SERVER.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: &["health", "models", "metrics"],
    })
}

/// Any name is the model's, as in TGI.
#[utoipa::path(
    get,
    path = "/v2/models/{model}/versions/{version}",
    tag = super::TAG,
    operation_id = "kserve_model_metadata",
    params(("model" = String, Path), ("version" = String, Path)),
    responses((status = 200, description = "What is served", body = MetadataServerResponse))
)]
pub(super) async fn model(Path((name, version)): Path<(String, String)>) -> Json<MetadataServerResponse> {
    Json(MetadataServerResponse { name, version, extensions: &["infer", "ready"] })
}

/// Continues every input.
#[utoipa::path(
    post,
    path = "/v2/models/{model}/versions/{version}/infer",
    tag = super::TAG,
    operation_id = "kserve_infer",
    request_body = InferenceRequest,
    params(("model" = String, Path), ("version" = String, Path)),
    responses(
        (status = 200, description = "One text per input", body = InferenceOutput),
        tgi::ApiError,
    )
)]
pub(super) async fn infer(Caller(state): Caller, body: Body<InferenceRequest>) -> Response {
    let InferenceRequest { id, parameters, inputs, outputs } = match body.0 {
        Ok(body) => body,
        Err(error) => return error.into_response(),
    };
    let inputs: Result<Vec<_>, _> = inputs.into_iter().map(|input| String::from_utf8(input.data)).collect();
    let inputs = match inputs {
        Ok(inputs) => inputs,
        Err(error) => {
            return refusal(StatusCode::UNPROCESSABLE_ENTITY, error.utf8_error().to_string(), "utf8");
        }
    };
    if inputs.len() != outputs.len() {
        let text = "Inputs and outputs length mismatch";
        return refusal(StatusCode::UNPROCESSABLE_ENTITY, text, "length mismatch");
    }
    match continuations(&state, inputs, &parameters).await {
        Ok(texts) => {
            let chunks = outputs.into_iter().zip(texts).map(|(output, text)| chunk(output.name, text));
            Json(InferenceOutput { id, outputs: chunks.collect() }).into_response()
        }
        Err(error) => prediction_failed(error),
    }
}

fn chunk(name: String, text: String) -> OutputChunk {
    let data = text.into_bytes();
    OutputChunk { name, shape: [1, data.len()], datatype: "BYTES", data }
}

async fn continuations(
    state: &AppState,
    inputs: Vec<String>,
    parameters: &Parameters,
) -> Result<Vec<String>, ServiceError> {
    let request = |inputs: &String| {
        let body = GenerateRequest { inputs: inputs.clone(), parameters: parameters.clone(), stream: false };
        tgi::request(body, &state.settings)
    };
    let requests: Result<Vec<service::Request>, _> = inputs.iter().map(request).collect();
    let requests = requests.inspect_err(|error| state.service.refuse(error))?;
    let texts = texts(state, requests).await?;
    let whole = parameters.return_full_text == Some(true);
    Ok(inputs.into_iter().zip(texts).map(|(input, text)| if whole { input + &text } else { text }).collect())
}
