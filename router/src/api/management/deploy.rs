//! `deploy/`, `deploy/status/`, `deploy/interrupt/`.

use axum::Json;

use super::errors::Refusal;
use super::types::{DeployRequest, DeployStatus, Deployed, JobEntry};
use super::{blocking, shown};
use crate::api::extract::AnyType;
use crate::api::{Administrator, Caller};

const NOTHING: &str = "nothing is deployed";

/// What is deployed.
#[utoipa::path(
    get,
    path = "/api/v1/deploy/",
    tag = super::TAG,
    operation_id = "management_deployed",
    responses((status = 200, description = "The model and its adapters", body = Deployed), Refusal)
)]
pub(super) async fn get(Caller(state): Caller) -> Result<Json<Deployed>, Refusal> {
    let deployed = blocking(&state, |management| management.deployment()).await?;
    Ok(Json(match deployed {
        Some((deployment, _)) => {
            Deployed { model_id: Some(deployment.model_id), adapter_ids: deployment.adapter_ids }
        }
        None => Deployed { model_id: None, adapter_ids: Vec::new() },
    }))
}

/// Deploys a model and adapters of its, in place of those that are deployed.
#[utoipa::path(
    post,
    path = "/api/v1/deploy/",
    tag = super::TAG,
    operation_id = "management_deploy",
    request_body = DeployRequest,
    responses((status = 200, description = "The job, which runs as long as they are deployed", body = JobEntry), Refusal)
)]
pub(super) async fn post(
    Administrator(state): Administrator,
    body: AnyType<DeployRequest>,
) -> Result<Json<JobEntry>, Refusal> {
    let body = body.0?;
    let model = body.model_id.ok_or_else(|| Refusal::missing("body", "model_id"))?;
    let mut adapters = body.adapter_ids.unwrap_or_default();
    let mut seen = std::collections::HashSet::new();
    adapters.retain(|name| seen.insert(name.clone()));
    let job = blocking(&state, move |management| management.deploy(&model, &adapters)).await?;
    Ok(Json((&job).into()))
}

/// The deployment and its job; of one that has ended, how it went.
#[utoipa::path(
    get,
    path = "/api/v1/deploy/status/",
    tag = super::TAG,
    operation_id = "management_deploy_status",
    responses((status = 200, description = "The last deployment", body = DeployStatus), Refusal)
)]
pub(super) async fn status(Caller(state): Caller) -> Result<Json<DeployStatus>, Refusal> {
    shown(&state, |management| management.last_deployment(), NOTHING).await
}

/// Ends the deployment.
#[utoipa::path(
    post,
    path = "/api/v1/deploy/interrupt/",
    tag = super::TAG,
    operation_id = "management_undeploy",
    responses((status = 200, description = "The job as it was, which is being ended", body = JobEntry), Refusal)
)]
pub(super) async fn interrupt(Administrator(state): Administrator) -> Result<Json<JobEntry>, Refusal> {
    super::interrupt(&state, |management| Ok(management.deployment()?.map(|(_, job)| job)), NOTHING).await
}
