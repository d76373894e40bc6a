use std::sync::Arc;

use axum::extract::Request;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tower::ServiceExt;
use utoipa::ToSchema;

use super::{prediction_failed, refusal, texts};
use crate::api::extract::Body;
use crate::api::openai::ChatRequest;
use crate::api::openai::chat::chat_request;
use crate::api::tgi::{GenerateRequest, Parameters};
use crate::api::{AppState, Caller, tgi};
use crate::config::VertexRoutes;
use crate::service::{self, ServiceError};

#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct VertexRequest {
    pub instances: Vec<VertexInstance>,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum VertexInstance {
    Generate(Box<GenerateVertexInstance>),
    Chat(Box<ChatRequest>),
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct GenerateVertexInstance {
    pub inputs: String,
    pub parameters: Option<Parameters>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct VertexResponse {
    /// One text per instance, in their order.
    pub predictions: Vec<String>,
}

impl VertexInstance {
    /// TGI samples here; so does this, unless told not to.
    fn into_request(self, state: &AppState) -> Result<service::Request, ServiceError> {
        match self {
            Self::Generate(instance) => {
                let GenerateVertexInstance { inputs, parameters } = *instance;
                let mut parameters = parameters.unwrap_or_default();
                parameters.do_sample.get_or_insert(true);
                tgi::request(GenerateRequest { inputs, parameters, stream: false }, &state.settings)
            }
            Self::Chat(body) => chat_request(*body, state),
        }
    }
}

/// Continues every instance's prompt.
#[utoipa::path(
    post,
    path = "/vertex",
    tag = super::TAG,
    operation_id = "vertex_compatibility",
    request_body = VertexRequest,
    responses(
        (status = 200, description = "One text per instance", body = VertexResponse),
        tgi::ApiError,
    )
)]
pub(super) async fn predict(Caller(state): Caller, body: Body<VertexRequest>) -> Response {
    let instances = match body.0 {
        Ok(body) => body.instances,
        Err(error) => return error.into_response(),
    };
    if instances.is_empty() {
        const TEXT: &str = "Input validation error";
        return refusal(StatusCode::UNPROCESSABLE_ENTITY, TEXT, TEXT);
    }
    let requests = instances.into_iter().map(|instance| instance.into_request(&state));
    let requests: Result<Vec<_>, _> = requests.collect();
    let predictions = match requests.inspect_err(|error| state.service.refuse(error)) {
        Ok(requests) => texts(&state, requests).await,
        Err(error) => Err(error),
    };
    match predictions {
        Ok(predictions) => Json(VertexResponse { predictions }).into_response(),
        Err(error) => prediction_failed(error),
    }
}

/// Lets `/vertex` and `/health` be reached by the names that Vertex AI gave them, too. The names are arbitrary: one may
/// be another route's.
pub(crate) fn under_its_own_paths(app: Router, routes: &VertexRoutes) -> Router {
    let alias = |method, path: &Option<String>, target| Some((method, path.clone()?, target));
    let aliases: Arc<[(Method, String, &str)]> =
        [alias(Method::POST, &routes.predict, "/vertex"), alias(Method::GET, &routes.health, "/health")]
            .into_iter()
            .flatten()
            .collect();
    if aliases.is_empty() {
        return app;
    }
    Router::new().fallback(move |mut request: Request| {
        let named = |(method, path, _): &&(Method, String, &str)| {
            request.method() == *method && request.uri().path() == path
        };
        if let Some((_, _, target)) = aliases.iter().find(named) {
            *request.uri_mut() = Uri::from_static(target);
        }
        app.clone().oneshot(request)
    })
}
