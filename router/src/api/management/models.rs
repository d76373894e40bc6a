//! `GET models/`, `POST models/add/`, `DELETE models/`.

use axum::Json;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;

use super::blocking;
use super::errors::Refusal;
use super::types::{AddModel, DeleteModel, Detail, JobEntry, ModelEntry, Problems};
use crate::api::{Administrator, Caller};

/// The models and adapters that can be deployed.
#[utoipa::path(
    get,
    path = "/api/v1/models/",
    tag = super::TAG,
    operation_id = "management_models",
    responses((status = 200, description = "All of them", body = Vec<ModelEntry>), Refusal)
)]
pub(super) async fn list(Caller(state): Caller) -> Result<Json<Vec<ModelEntry>>, Refusal> {
    let offers = blocking(&state, |management| management.offers()).await?;
    Ok(Json(offers.into_iter().map(ModelEntry::from).collect()))
}

/// Downloads a model from the hub. Asked for twice at the same time, it is downloaded once.
#[utoipa::path(
    post,
    path = "/api/v1/models/add/",
    tag = super::TAG,
    operation_id = "management_add_model",
    params(AddModel),
    responses(
        (status = 200, description = "The job that does it", body = JobEntry),
        (status = 404, description = "There is none of it", body = Detail),
        (status = 422, description = "What is wrong with the request", body = Problems),
        Refusal
    )
)]
pub(super) async fn add(
    Administrator(state): Administrator,
    query: Result<Query<AddModel>, QueryRejection>,
) -> Result<Json<JobEntry>, Refusal> {
    let model = named(query.ok().and_then(|Query(query)| query.model_id))?;
    let job = blocking(&state, move |management| management.download(&model)).await?;
    Ok(Json((&job).into()))
}

/// Deletes an adapter that was trained here, unless it is deployed. Its name and its memory are free then.
#[utoipa::path(
    delete,
    path = "/api/v1/models/",
    tag = super::TAG,
    operation_id = "management_delete_adapter",
    params(DeleteModel),
    responses(
        (status = 200, description = "What was deleted", body = ModelEntry),
        (status = 404, description = "There is no such adapter", body = Detail),
        (status = 409, description = "It is deployed", body = Detail),
        (status = 422, description = "What is wrong with the request", body = Problems),
        Refusal
    )
)]
pub(super) async fn delete(
    Administrator(state): Administrator,
    query: Result<Query<DeleteModel>, QueryRejection>,
) -> Result<Json<ModelEntry>, Refusal> {
    let adapter = named(query.ok().and_then(|Query(query)| query.model_id))?;
    let deleted = blocking(&state, move |management| management.delete_adapter(&adapter)).await?;
    Ok(Json(deleted.into()))
}

/// The id that a request has to name.
fn named(model_id: Option<String>) -> Result<String, Refusal> {
    model_id.filter(|id| !id.is_empty()).ok_or_else(|| Refusal::missing("query", "model_id"))
}
