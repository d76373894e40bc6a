use std::path::PathBuf;

use crate::id::Id;

/// What goes wrong with the state of jobs and data sets.
#[derive(Debug, thiserror::Error)]
pub enum JobsError {
    /// The address, without what may be secret in it.
    #[error("{0:?} is not an address of a database: expected `postgres://user@host/name`")]
    Url(String),
    #[error("the connection to the database cannot be encrypted: {0}")]
    Tls(String),
    /// The database said so, or cannot be reached.
    #[error("the database failed: {0}")]
    Database(String),
    /// A row of another job, data set or adapter is in the way.
    #[error("it is there already")]
    Conflict,
    #[error("another server uses the folder {}", .0.display())]
    InUse(PathBuf),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("{table} {id} is damaged: {reason}")]
    Damaged { table: &'static str, id: String, reason: String },
    #[error("there is no job {0}")]
    NotFound(Id),
}

impl JobsError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
