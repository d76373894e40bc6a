use weirgate_jobs::{DatasetError, JobsError};

/// Why something is refused, or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManagementError {
    /// A value of the request.
    #[error("{field}: {reason}")]
    Invalid { field: &'static str, reason: String },
    #[error("{0}")]
    Absent(String),
    /// A name that something else has.
    #[error("{0}")]
    Taken(String),
    #[error("{0}")]
    Dataset(#[from] DatasetError),
    #[error("{0}")]
    State(JobsError),
}

impl ManagementError {
    pub fn invalid(field: &'static str, reason: String) -> Self {
        Self::Invalid { field, reason }
    }
}

impl From<JobsError> for ManagementError {
    fn from(error: JobsError) -> Self {
        match error {
            JobsError::NotFound(_) => Self::Absent(error.to_string()),
            error => Self::State(error),
        }
    }
}
