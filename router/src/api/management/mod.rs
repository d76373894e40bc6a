//! The management API under `/api/v1` (reference/dialects.md §4): models, the deployment, jobs, data sets, trainings, and
//! OpenAI's routes with its own ids. Every path is known with and without a slash at its end.

mod datasets;
mod deploy;
mod errors;
mod finetune;
mod inference;
mod jobs;
mod models;
mod types;
mod upload;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::{Json, Router};
use tower::ServiceExt;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;
use weirgate_jobs::Job;

use super::AppState;
use crate::management::{Management, ManagementError};
use errors::Refusal;
pub(crate) use errors::{forbidden, unauthorized};
use types::JobEntry;

/// How the document groups these routes.
const TAG: &str = "Management";
const PREFIX: &str = "/api/v1";
/// What is managed, and so is at `/v1`, too, on a listener of this API's own.
const OWN: [&str; 8] =
    ["models", "deploy", "jobs", "datasets", "finetune", "completions", "chat", "embeddings"];

/// This dialect's routes.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    let all = [
        routes!(models::list, models::delete),
        routes!(models::add),
        routes!(deploy::get, deploy::post),
        routes!(deploy::status),
        routes!(deploy::interrupt),
        routes!(jobs::list),
        routes!(jobs::details),
        routes!(jobs::status),
        routes!(jobs::logs),
        routes!(jobs::interrupt),
        routes!(datasets::list),
        routes!(datasets::download),
        routes!(finetune::models),
        routes!(finetune::post),
        routes!(finetune::status),
        routes!(finetune::interrupt),
        routes!(finetune::curve),
        routes!(inference::completions),
        routes!(inference::chat),
        routes!(inference::embeddings),
    ];
    // What an upload may have is not the other requests' limit.
    let upload =
        both_forms(OpenApiRouter::default(), routes!(datasets::upload)).layer(DefaultBodyLimit::disable());
    all.into_iter().fold(OpenApiRouter::default(), both_forms).merge(upload)
}

/// Adds routes whose paths end with a slash, and the same without it, which the document need not say.
fn both_forms(
    router: OpenApiRouter<AppState>,
    (schemas, paths, methods): UtoipaMethodRouter<AppState>,
) -> OpenApiRouter<AppState> {
    let bare = paths.paths.keys().map(|path| path.trim_end_matches('/').to_owned()).collect::<Vec<_>>();
    let router = router.routes((schemas, paths, methods.clone()));
    bare.into_iter().fold(router, |router, path| router.route(&path, methods.clone()))
}

/// Lets the routes be reached at `/v1`, as on a server that is this API's alone.
pub(crate) fn at_its_root(app: Router) -> Router {
    Router::new().fallback(move |mut request: Request| {
        let path = request.uri().path();
        let own = path.strip_prefix("/v1/").and_then(|rest| rest.split('/').next());
        if own.is_some_and(|own| OWN.contains(&own)) {
            let whole = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
            if let Ok(uri) = format!("/api{whole}").parse() {
                *request.uri_mut() = uri;
            }
        }
        app.clone().oneshot(request)
    })
}

/// Whether `path` is this dialect's.
pub(crate) fn is_own(path: &str) -> bool {
    path.strip_prefix(PREFIX).is_some_and(|rest| rest.starts_with('/'))
}

/// The id in a path; what cannot be read is none that is here.
struct Named(String);

impl FromRequestParts<AppState> for Named {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Refusal> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(name)| Self(name))
            .map_err(|_| Refusal::Absent("there is none of that name".to_owned()))
    }
}

/// Does what may block.
///
/// # Errors
/// Those of `work`; [`Refusal::NoState`] where the server keeps none.
async fn blocking<T: Send + 'static>(
    state: &AppState,
    work: impl FnOnce(&Management) -> Result<T, ManagementError> + Send + 'static,
) -> Result<T, Refusal> {
    let management = management(state)?;
    let done = tokio::task::spawn_blocking(move || work(&management)).await;
    Ok(done.map_err(|_| Refusal::BrokeOff)??)
}

/// Ends the job that `find` gives; the job as it was.
///
/// # Errors
/// [`Refusal::Absent`] with `nothing` where there is none, and those of [`blocking`].
async fn interrupt(
    state: &AppState,
    find: impl FnOnce(&Management) -> Result<Option<Job>, ManagementError> + Send + 'static,
    nothing: &str,
) -> Result<Json<JobEntry>, Refusal> {
    let job = blocking(state, |management| match find(management)? {
        Some(job) if job.status.is_live() => management.interrupt(&job.id).map(|_| Some(job)),
        _ => Ok(None),
    });
    let job = job.await?.ok_or_else(|| Refusal::Absent(nothing.to_owned()))?;
    Ok(Json((&job).into()))
}

/// What `find` gives, as it is shown.
///
/// # Errors
/// [`Refusal::Absent`] with `nothing` where there is none, and those of [`blocking`].
async fn shown<T: Send + 'static, S: From<T>>(
    state: &AppState,
    find: impl FnOnce(&Management) -> Result<Option<T>, ManagementError> + Send + 'static,
    nothing: &str,
) -> Result<Json<S>, Refusal> {
    let found = blocking(state, find).await?;
    found.map(|found| Json(found.into())).ok_or_else(|| Refusal::Absent(nothing.to_owned()))
}

fn management(state: &AppState) -> Result<Arc<Management>, Refusal> {
    state.management.clone().ok_or(Refusal::NoState)
}
