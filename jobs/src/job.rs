//! A job as the table has it.

use std::fmt;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::id::Id;

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Brings a model here.
    Download,
    /// Has a model and adapters be served: RUNNING as long as they are.
    Deploy,
    /// Trains an adapter.
    Train,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Download, Self::Deploy, Self::Train];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Download => "download",
            Self::Deploy => "deploy",
            Self::Train => "train",
        }
    }

    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Accepted, waiting.
    Created,
    Running,
    Finished,
    /// Interrupted.
    Killed,
    Failed,
}

impl Status {
    pub const ALL: [Self; 5] = [Self::Created, Self::Running, Self::Finished, Self::Killed, Self::Failed];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Running => "RUNNING",
            Self::Finished => "FINISHED",
            Self::Killed => "KILLED",
            Self::Failed => "FAILED",
        }
    }

    /// The status of this name, in any case.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name().eq_ignore_ascii_case(name))
    }

    /// Whether the job still waits or works.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Created | Self::Running)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A job that is to be done.
#[derive(Debug, Clone)]
pub struct NewJob {
    pub kind: Kind,
    pub name: String,
    /// Of the live jobs of one slot there is never more than one; `None`: any number.
    pub slot: Option<String>,
    /// What the work needs to know.
    pub subject: Value,
}

/// A job and how far it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub id: Id,
    /// In the order of their insertion.
    pub number: i64,
    pub kind: Kind,
    pub name: String,
    pub status: Status,
    pub subject: Value,
    pub created: DateTime<Utc>,
    pub ended: Option<DateTime<Utc>>,
    /// As the work told it last; `Null`: nothing yet.
    pub progress: Value,
    /// Why it failed.
    pub error: Option<String>,
    /// How often it was begun since it last got anywhere.
    pub attempts: i64,
}
