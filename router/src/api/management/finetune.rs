//! `finetune/` and what is below it.

use axum::Json;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::errors::Refusal;
use super::types::{FinetuneRequest, FinetuneStatus, JobEntry, ModelEntry};
use super::{Named, blocking, jobs, shown};
use crate::api::extract::AnyType;
use crate::api::{Administrator, Caller};

const NOTHING: &str = "nothing is being trained";

/// The models that adapters can be trained for.
#[utoipa::path(
    get,
    path = "/api/v1/finetune/models/",
    tag = super::TAG,
    operation_id = "management_finetune_models",
    responses((status = 200, description = "All of them", body = Vec<ModelEntry>), Refusal)
)]
pub(super) async fn models(Caller(state): Caller) -> Result<Json<Vec<ModelEntry>>, Refusal> {
    let offers = blocking(&state, |management| management.offers()).await?;
    let trainable = offers.into_iter().filter(|offer| offer.trainable);
    Ok(Json(trainable.map(ModelEntry::from).collect()))
}

/// Trains an adapter, after those that wait already.
#[utoipa::path(
    post,
    path = "/api/v1/finetune/",
    tag = super::TAG,
    operation_id = "management_finetune",
    request_body = FinetuneRequest,
    responses((status = 200, description = "The job that does it", body = JobEntry), Refusal)
)]
pub(super) async fn post(
    Administrator(state): Administrator,
    body: AnyType<FinetuneRequest>,
) -> Result<Json<JobEntry>, Refusal> {
    let body = body.0?;
    let given = |value: Option<String>, field| value.ok_or_else(|| Refusal::missing("body", field));
    let (name, model) = (given(body.name, "name")?, given(body.model_id, "model_id")?);
    let dataset = given(body.dataset_id, "dataset_id")?;
    let values = body.hyperparameters.unwrap_or_default();
    let job = blocking(&state, move |management| management.train(&name, &model, &dataset, values)).await?;
    Ok(Json((&job).into()))
}

/// The training under way, or else the last one.
#[utoipa::path(
    get,
    path = "/api/v1/finetune/status/",
    tag = super::TAG,
    operation_id = "management_finetune_status",
    responses((status = 200, description = "The training and its job", body = FinetuneStatus), Refusal)
)]
pub(super) async fn status(Caller(state): Caller) -> Result<Json<FinetuneStatus>, Refusal> {
    shown(&state, |management| management.training(), NOTHING).await
}

/// Ends the training under way.
#[utoipa::path(
    post,
    path = "/api/v1/finetune/interrupt/",
    tag = super::TAG,
    operation_id = "management_interrupt_finetune",
    responses((status = 200, description = "The job as it was, which is being ended", body = JobEntry), Refusal)
)]
pub(super) async fn interrupt(Administrator(state): Administrator) -> Result<Json<JobEntry>, Refusal> {
    super::interrupt(&state, |management| Ok(management.training()?.map(|(_, job)| job)), NOTHING).await
}

/// The picture of a training's losses.
#[utoipa::path(
    get,
    path = "/api/v1/finetune/{job_id}/curve/",
    tag = super::TAG,
    operation_id = "management_finetune_curve",
    params(("job_id" = String, Path, description = "The training's job")),
    responses((status = 200, description = "The losses by step", content_type = "image/svg+xml", body = String), Refusal)
)]
pub(super) async fn curve(Caller(state): Caller, Named(job): Named) -> Result<Response, Refusal> {
    let id = jobs::id(&job)?;
    let picture = blocking(&state, move |management| management.curve(&id)).await?;
    Ok(([(header::CONTENT_TYPE, "image/svg+xml")], picture).into_response())
}
