use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::convert;
use super::errors::{ApiError, StreamErrors};
use super::generate::{generate as run, prefix, serving};
use super::stream::{self, StreamOptions};
use super::types::{ErrorResponse, GenerateRequest, GenerateResponse, Info, StreamResponse};
use crate::api::docs::schemas::{GenerateOnce, GenerateResponses, TokenizeResponse};
use crate::api::extract::Body;
use crate::api::headers::compute_headers;
use crate::api::{AppState, Caller, OLLAMA_GREETING, Settings};
use crate::config::Profile;
use crate::metrics::render_loading;

/// How the document groups these routes.
const TAG: &str = "Text Generation Inference";
/// What TGI's router calls itself; clients tell TGI by it.
const ROUTER: &str = "text-generation-router";

#[utoipa::path(
    post,
    path = "/generate",
    tag = TAG,
    operation_id = "generate",
    request_body = GenerateOnce,
    responses(
        (status = 200, description = "Generated text", body = GenerateResponse),
        ApiError,
    )
)]
pub(super) async fn generate(Caller(state): Caller, body: Body<GenerateRequest>) -> Response {
    match body.0 {
        Ok(body) => match run(&state, body).await {
            Ok((headers, body)) => (headers, Json(body)).into_response(),
            Err(error) => ApiError(error).into_response(),
        },
        Err(error) => error.into_response(),
    }
}

#[utoipa::path(
    post,
    path = "/generate_stream",
    tag = TAG,
    operation_id = "generate_stream",
    request_body = GenerateOnce,
    responses(
        (status = 200, description = "One event per token; errors are events, too", body = StreamResponse, content_type = "text/event-stream"),
        StreamErrors,
    )
)]
pub(super) async fn generate_stream(Caller(state): Caller, body: Body<GenerateRequest>) -> Response {
    match body.0 {
        Ok(body) => stream_response(state, body).await,
        Err(error) => error.into_response(),
    }
}

/// `/`: either of the two by `stream`, an array where it does not stream, and the full text by default.
#[utoipa::path(
    post,
    path = "/",
    tag = TAG,
    operation_id = "compat_generate",
    request_body = GenerateRequest,
    responses(
        (status = 200, description = "Generated text, or one event per token", content(
            (GenerateResponses = "application/json"),
            (StreamResponse = "text/event-stream")
        )),
        ApiError,
    )
)]
pub(crate) async fn compatible(Caller(state): Caller, body: Body<GenerateRequest>) -> Response {
    let mut body = match body.0 {
        Ok(body) => body,
        Err(error) => return error.into_response(),
    };
    // TGI's default where the hub calls the model a text-generation model or does not say.
    body.parameters.return_full_text.get_or_insert(true);
    if body.stream {
        return stream_response(state, body).await;
    }
    match run(&state, body).await {
        Ok((headers, body)) => (headers, Json([body])).into_response(),
        Err(error) => ApiError(error).into_response(),
    }
}

async fn stream_response(state: AppState, body: GenerateRequest) -> Response {
    let (state, body) = match serving(&state, body).await {
        Ok(serving) => serving,
        Err(error) => return ApiError(error).into_response(),
    };
    let options =
        StreamOptions { details: body.parameters.details, prefix: prefix(&body.parameters, &body.inputs) };
    let headers = compute_headers(&state.settings, body.inputs.chars().count());
    let request = convert::request(body, &state.settings);
    let checked = request.and_then(|mut request| {
        request.tenant = state.tenant;
        state.service.validator.check_streaming(&request.parameters)?;
        Ok(request)
    });
    let request = match checked {
        Ok(request) => request,
        Err(error) => {
            state.service.refuse(&error);
            return stream::refuse(error, headers);
        }
    };
    match state.service.admit_one() {
        Ok(account) => stream::respond(state, request, account, options, headers),
        // Before the stream begins a refusal can be told by a status, which load balancers understand.
        Err(error) => ApiError(error).into_response(),
    }
}

#[utoipa::path(
    post,
    path = "/tokenize",
    tag = TAG,
    operation_id = "tokenize",
    request_body = GenerateOnce,
    responses(
        (status = 200, description = "The tokens of the prompt", body = TokenizeResponse),
        (status = 404, description = "No tokenizer; no model here is without", body = ErrorResponse),
        ApiError,
    )
)]
pub(super) async fn tokenize(State(state): State<AppState>, body: Body<GenerateRequest>) -> Response {
    let inputs = match body.0 {
        Ok(body) => body.inputs,
        Err(error) => return error.into_response(),
    };
    match state.service.tokenize(inputs.clone()).await {
        Ok(placed) => Json(convert::simple_tokens(&placed, &inputs)).into_response(),
        Err(error) => ApiError(error).into_response(),
    }
}

#[utoipa::path(
    get,
    path = "/health",
    tag = TAG,
    operation_id = "health",
    security(()),
    responses(
        (status = 200, description = "Requests are served"),
        (status = 503, description = "They are not, or not yet", body = ErrorResponse),
    )
)]
pub(crate) async fn health(State(state): State<AppState>) -> Response {
    match state.service.check_ready() {
        Ok(()) => StatusCode::OK.into_response(),
        Err(_) => {
            let body = ErrorResponse { error: "unhealthy".to_owned(), error_type: "healthcheck" };
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

/// `Ollama is running`, which many tools look for; not ready, or under the profiles `tgi` and `management`, as `/health`.
#[utoipa::path(
    get,
    path = "/",
    tag = TAG,
    operation_id = "root_health",
    security(()),
    responses(
        (status = 200, description = "Requests are served; or the profile is one that greets"),
        (status = 503, description = "They are not, or not yet", body = ErrorResponse),
    )
)]
pub(super) async fn root(state: State<AppState>) -> Response {
    let greets = match state.settings.profile {
        // As Ollama does, whatever the state.
        Profile::Ollama => true,
        Profile::OpenAi | Profile::Jan => state.service.check_ready().is_ok(),
        Profile::Tgi | Profile::Management => false,
    };
    if greets { OLLAMA_GREETING.into_response() } else { health(state).await }
}

/// SageMaker's name for `/health`.
#[utoipa::path(
    get,
    path = "/ping",
    tag = TAG,
    operation_id = "ping",
    security(()),
    responses(
        (status = 200, description = "Requests are served"),
        (status = 503, description = "They are not, or not yet", body = ErrorResponse),
    )
)]
pub(super) async fn ping(state: State<AppState>) -> Response {
    health(state).await
}

/// Kubernetes' name for `/health`.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = TAG,
    operation_id = "readiness",
    security(()),
    responses(
        (status = 200, description = "Requests are served"),
        (status = 503, description = "They are not, or not yet", body = ErrorResponse),
    )
)]
pub(super) async fn ready(state: State<AppState>) -> Response {
    health(state).await
}

/// The process answers; nothing more is asked of it.
#[utoipa::path(
    get,
    path = "/livez",
    tag = TAG,
    operation_id = "live",
    security(()),
    responses((status = 200, description = "The process answers"))
)]
pub(super) async fn live() -> StatusCode {
    StatusCode::OK
}

#[utoipa::path(
    get,
    path = "/info",
    tag = TAG,
    operation_id = "get_model_info",
    security(()),
    responses((status = 200, description = "What is served, and its limits", body = Info))
)]
pub(super) async fn info(State(state): State<AppState>) -> Json<Info> {
    let Settings { model_id, model_sha, .. } = &*state.settings;
    Json(Info {
        model_id: model_id.clone(),
        model_sha: model_sha.clone(),
        model_pipeline_tag: None,
        max_concurrent_requests: state.settings.max_concurrent_requests,
        max_best_of: state.settings.max_best_of,
        max_stop_sequences: state.settings.max_stop_sequences,
        max_input_tokens: state.settings.max_input_tokens,
        max_total_tokens: state.settings.max_total_tokens,
        validation_workers: state.settings.validation_workers,
        max_client_batch_size: state.settings.max_client_batch_size,
        router: ROUTER,
        version: env!("CARGO_PKG_VERSION"),
        sha: None,
        docker_label: None,
    })
}

#[utoipa::path(
    get,
    path = "/metrics",
    tag = TAG,
    operation_id = "metrics",
    security(()),
    responses((status = 200, description = "Prometheus metrics", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(State(state): State<AppState>) -> Response {
    let services = state.models.services();
    let mut all = services.iter().map(|service| (&*service.metrics, service.reading()));
    let mut text = match all.next() {
        Some((pinned, reading)) => pinned.render(&reading, &all.collect::<Vec<_>>()),
        None => String::new(),
    };
    text += &render_loading(&state.models.loading());
    text.extend(state.management.iter().map(|management| management.metrics()));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
