//! Routes that stand on the dialects: those of SageMaker, Vertex AI and KServe, whose requests hold requests of TGI's or
//! OpenAI's (reference/tgi.md §2g), and TGI's tokenizing of OpenAI's conversations.

mod chat_tokenize;
mod kserve;
mod sagemaker;
pub(crate) mod vertex;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::future::try_join_all;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::collect::collect;
use super::tgi::ErrorResponse;
use super::{AppState, tgi};
use crate::service::{Account, Request, ServiceError};

/// How the document groups these routes.
const TAG: &str = "Platforms";

/// The platforms' routes.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(sagemaker::invocations))
        .routes(routes!(vertex::predict))
        .routes(routes!(chat_tokenize::chat_tokenize))
        .routes(routes!(kserve::server))
        .routes(routes!(kserve::live))
        .routes(routes!(kserve::ready))
        .routes(routes!(kserve::model))
        .routes(routes!(kserve::model_ready))
        .routes(routes!(kserve::infer))
}

/// Runs requests side by side; their texts in their order. There is a place for all of them or for none, and the first
/// failure ends the others.
async fn texts(state: &AppState, requests: Vec<Request>) -> Result<Vec<String>, ServiceError> {
    for request in &requests {
        let checked = state.service.validator.check_best_of(&request.parameters).map_err(ServiceError::from);
        checked.inspect_err(|error| state.service.refuse(error))?;
    }
    let accounts = state.service.admit(requests.len())?;
    let runs = requests.into_iter().zip(accounts).map(|(request, account)| text(state, request, account));
    try_join_all(runs).await
}

async fn text(state: &AppState, request: Request, account: Account) -> Result<String, ServiceError> {
    let request = Request { tenant: state.tenant, ..request };
    let mut generation = state.service.generate(request, account).await?;
    let best = collect(&mut generation).await?.take_best();
    Ok(best.map(|best| best.end.text).unwrap_or_default())
}

/// How a failed prediction is told: a mistake of the client's as on TGI's other routes, anything else in TGI's one way.
fn prediction_failed(error: ServiceError) -> Response {
    match error {
        ServiceError::Generation(_) | ServiceError::Incomplete => {
            const TEXT: &str = "Incomplete generation";
            refusal(StatusCode::INTERNAL_SERVER_ERROR, TEXT, TEXT)
        }
        error => tgi::ApiError(error).into_response(),
    }
}

fn refusal(status: StatusCode, error: impl Into<String>, error_type: &'static str) -> Response {
    (status, Json(ErrorResponse { error: error.into(), error_type })).into_response()
}
