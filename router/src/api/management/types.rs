//! What goes over the wire.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use weirgate_jobs::{DatasetRow, Job, LogLine};

use crate::management::{Deployment, Offer, TrainingSubject};

/// A model or an adapter.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ManagedModel)]
pub(crate) struct ModelEntry {
    pub model_id: String,
    pub adapter: bool,
    #[schema(required = true)]
    pub base_model_id: Option<String>,
}

impl From<Offer> for ModelEntry {
    fn from(offer: Offer) -> Self {
        Self { model_id: offer.name, adapter: offer.base.is_some(), base_model_id: offer.base }
    }
}

#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AddModel {
    /// The model's id on the hub.
    #[param(required = true, value_type = String, example = "openchat/openchat-3.5-0106")]
    pub model_id: Option<String>,
}

#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeleteModel {
    /// The adapter's name.
    #[param(required = true, value_type = String, example = "support")]
    pub model_id: Option<String>,
}

/// A job as every route shows it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Job)]
pub(crate) struct JobEntry {
    pub id: String,
    #[schema(example = "DOWNLOAD_openchat/openchat-3.5-0106")]
    pub name: String,
    pub status: JobStatus,
    /// UTC, without a zone.
    #[schema(example = "2024-03-21T09:58:29.846708")]
    pub started_at: String,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum JobStatus {
    Created,
    Running,
    Finished,
    Killed,
    Failed,
}

impl From<weirgate_jobs::Status> for JobStatus {
    fn from(status: weirgate_jobs::Status) -> Self {
        match status {
            weirgate_jobs::Status::Created => Self::Created,
            weirgate_jobs::Status::Running => Self::Running,
            weirgate_jobs::Status::Finished => Self::Finished,
            weirgate_jobs::Status::Killed => Self::Killed,
            weirgate_jobs::Status::Failed => Self::Failed,
        }
    }
}

/// As Python writes a time without a zone.
fn naive(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true).trim_end_matches('Z').to_owned()
}

impl From<&Job> for JobEntry {
    fn from(job: &Job) -> Self {
        Self {
            id: job.id.to_string(),
            name: job.name.clone(),
            status: job.status.into(),
            started_at: naive(job.created),
        }
    }
}

/// All that is known of a job.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct JobDetails {
    #[serde(flatten)]
    pub job: JobEntry,
    /// `download`, `deploy` or `train`.
    pub kind: &'static str,
    pub ended_at: Option<String>,
    /// What the work told last; its fields depend on the kind.
    #[schema(value_type = Option<Object>)]
    pub progress: Value,
    /// Why it failed.
    pub error: Option<String>,
}

impl From<&Job> for JobDetails {
    fn from(job: &Job) -> Self {
        Self {
            job: job.into(),
            kind: job.kind.name(),
            ended_at: job.ended.map(naive),
            progress: job.progress.clone(),
            error: job.error.clone(),
        }
    }
}

#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct JobsPage {
    /// Jobs at most; all, where it is not given.
    #[param(minimum = 1)]
    pub limit: Option<u32>,
    /// Begins behind the job of this id.
    pub after: Option<String>,
    /// Only jobs of this status.
    pub status: Option<String>,
    /// `asc` (the oldest first) or `desc`.
    #[param(example = "asc")]
    pub order: Option<String>,
}

#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogsPage {
    /// Lines at most.
    #[param(minimum = 1, maximum = 10000)]
    pub limit: Option<u32>,
    /// Begins behind the line of this number.
    pub after: Option<i64>,
}

/// A line of a job's log.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct LogEntry {
    pub number: i64,
    pub at: String,
    pub line: String,
}

impl From<LogLine> for LogEntry {
    fn from(line: LogLine) -> Self {
        Self { number: line.number, at: naive(line.at), line: line.line }
    }
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct DeployRequest {
    #[schema(required = true)]
    pub model_id: Option<String>,
    #[schema(required = false, value_type = Vec<String>)]
    pub adapter_ids: Option<Vec<String>>,
}

/// What is deployed; `null` and no adapters where nothing is.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Deployed {
    #[schema(required = true)]
    pub model_id: Option<String>,
    pub adapter_ids: Vec<String>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct DeployStatus {
    pub model_id: String,
    pub adapter_ids: Vec<String>,
    pub job: JobEntry,
}

impl From<(Deployment, Job)> for DeployStatus {
    fn from((deployment, job): (Deployment, Job)) -> Self {
        Self { model_id: deployment.model_id, adapter_ids: deployment.adapter_ids, job: (&job).into() }
    }
}

/// A data set.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Dataset {
    pub id: String,
    /// Of the file that was uploaded.
    #[schema(example = "train.jsonl")]
    pub name: String,
    pub s3_path: String,
    #[schema(required = true)]
    pub description: Option<String>,
}

impl From<&DatasetRow> for Dataset {
    fn from(row: &DatasetRow) -> Self {
        Self {
            id: row.id.to_string(),
            name: row.name.clone(),
            s3_path: format!("{}/metadata.json", row.id),
            description: row.description.clone(),
        }
    }
}

#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Describe {
    pub description: Option<String>,
}

/// What comes as `multipart/form-data`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "this describes the form; it is read field by field")]
pub(crate) struct UploadForm {
    /// Conversations, one a line.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct FinetuneRequest {
    /// What the adapter will be called.
    #[schema(required = true, value_type = String)]
    pub name: Option<String>,
    #[schema(required = true, value_type = String)]
    pub model_id: Option<String>,
    #[schema(required = true, value_type = String)]
    pub dataset_id: Option<String>,
    /// Those that are not given have their defaults.
    #[schema(required = false, value_type = Object)]
    pub hyperparameters: Option<Map<String, Value>>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct FinetuneStatus {
    /// Of the training.
    pub id: String,
    pub name: String,
    pub model_id: String,
    pub dataset_id: String,
    pub job: JobEntry,
}

impl From<(TrainingSubject, Job)> for FinetuneStatus {
    fn from((subject, job): (TrainingSubject, Job)) -> Self {
        let TrainingSubject { name, model_id, dataset_id, .. } = subject;
        Self { id: job.id.to_string(), name, model_id, dataset_id, job: (&job).into() }
    }
}

/// An error.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ManagementError)]
pub(crate) struct Detail {
    pub detail: String,
}

/// What is wrong with a request, or with the lines of a file.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ManagementValidationError)]
pub(crate) struct Problems {
    pub detail: Vec<Problem>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ManagementProblem)]
pub(crate) struct Problem {
    /// Names, and of a file the number of the line.
    pub loc: Vec<Where>,
    pub msg: String,
    #[serde(rename = "type")]
    pub kind: ProblemKind,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Where {
    Name(String),
    Line(u64),
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProblemKind {
    Missing,
    ValueError,
}
