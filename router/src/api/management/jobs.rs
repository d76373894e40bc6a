//! `jobs/` and what is below it.

use axum::Json;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use weirgate_jobs::{Id, Order, Page, Status};

use super::errors::Refusal;
use super::types::{JobDetails, JobEntry, JobsPage, LogEntry, LogsPage};
use super::{Named, blocking};
use crate::api::{Administrator, Caller};

const LINES: u32 = 1000;
const MAX_LINES: u32 = 10_000;

/// All jobs, the oldest first, or a part of them.
#[utoipa::path(
    get,
    path = "/api/v1/jobs/",
    tag = super::TAG,
    operation_id = "management_jobs",
    params(JobsPage),
    responses((status = 200, description = "The jobs", body = Vec<JobEntry>), Refusal)
)]
pub(super) async fn list(
    Caller(state): Caller,
    query: Result<Query<JobsPage>, QueryRejection>,
) -> Result<Json<Vec<JobEntry>>, Refusal> {
    let Query(query) = query.map_err(|error| wrong("limit", error.body_text()))?;
    if query.limit == Some(0) {
        return Err(wrong("limit", "must be at least 1".to_owned()));
    }
    let status = query.status.map(|text| {
        Status::of(&text).ok_or_else(|| wrong("status", format!("{:?} is no status", cut(&text))))
    });
    let order = match query.order.as_deref() {
        None | Some("asc") => Order::OldestFirst,
        Some("desc") => Order::NewestFirst,
        Some(_) => return Err(wrong("order", "must be asc or desc".to_owned())),
    };
    let after = query.after.as_deref().map(id).transpose()?;
    let mut page = Page { status: status.transpose()?, limit: query.limit, order, ..Page::default() };
    let jobs = blocking(&state, move |management| {
        page.after = after.map(|id| management.job(&id)).transpose()?.map(|job| job.number);
        management.jobs(&page)
    });
    Ok(Json(jobs.await?.iter().map(JobEntry::from).collect()))
}

/// All that is known of a job.
#[utoipa::path(
    get,
    path = "/api/v1/jobs/{job_id}/",
    tag = super::TAG,
    operation_id = "management_job",
    params(("job_id" = String, Path, description = "The job's id")),
    responses((status = 200, description = "The job, its progress and, where it failed, why", body = JobDetails), Refusal)
)]
pub(super) async fn details(
    Administrator(state): Administrator,
    Named(job): Named,
) -> Result<Json<JobDetails>, Refusal> {
    let id = id(&job)?;
    let job = blocking(&state, move |management| management.job(&id)).await?;
    Ok(Json((&job).into()))
}

/// A job as it is now.
#[utoipa::path(
    get,
    path = "/api/v1/jobs/{job_id}/status/",
    tag = super::TAG,
    operation_id = "management_job_status",
    params(("job_id" = String, Path, description = "The job's id")),
    responses((status = 200, description = "The job", body = JobEntry), Refusal)
)]
pub(super) async fn status(Caller(state): Caller, Named(job): Named) -> Result<Json<JobEntry>, Refusal> {
    let id = id(&job)?;
    let job = blocking(&state, move |management| management.job(&id)).await?;
    Ok(Json((&job).into()))
}

/// The lines of a job's log.
#[utoipa::path(
    get,
    path = "/api/v1/jobs/{job_id}/logs/",
    tag = super::TAG,
    operation_id = "management_job_logs",
    params(("job_id" = String, Path, description = "The job's id"), LogsPage),
    responses((status = 200, description = "The lines in their order", body = Vec<LogEntry>), Refusal)
)]
pub(super) async fn logs(
    Administrator(state): Administrator,
    Named(job): Named,
    query: Result<Query<LogsPage>, QueryRejection>,
) -> Result<Json<Vec<LogEntry>>, Refusal> {
    let Query(query) = query.map_err(|error| wrong("after", error.body_text()))?;
    let limit = query.limit.unwrap_or(LINES);
    if !(1..=MAX_LINES).contains(&limit) {
        return Err(wrong("limit", format!("must be 1 to {MAX_LINES}")));
    }
    let (id, after) = (id(&job)?, query.after.unwrap_or(0));
    let lines = blocking(&state, move |management| management.logs(&id, after, limit)).await?;
    Ok(Json(lines.into_iter().map(LogEntry::from).collect()))
}

/// Ends a job. One that has ended stays as it is.
#[utoipa::path(
    post,
    path = "/api/v1/jobs/{job_id}/interrupt/",
    tag = super::TAG,
    operation_id = "management_interrupt_job",
    params(("job_id" = String, Path, description = "The job's id")),
    responses((status = 200, description = "The job as it is then", body = JobEntry), Refusal)
)]
pub(super) async fn interrupt(
    Administrator(state): Administrator,
    Named(job): Named,
) -> Result<Json<JobEntry>, Refusal> {
    let id = id(&job)?;
    let job = blocking(&state, move |management| management.interrupt(&id)).await?;
    Ok(Json((&job).into()))
}

/// # Errors
/// What no job can be called.
pub(super) fn id(text: &str) -> Result<Id, Refusal> {
    text.parse().map_err(|_| Refusal::Absent(format!("there is no job {:?}", cut(text))))
}

fn wrong(field: &'static str, reason: String) -> Refusal {
    Refusal::Field { place: "query", field, reason }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}
