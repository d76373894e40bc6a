//! What jobs work on and leave behind: data sets and adapters, as the database has them. Each server sees what it can
//! open: what lies on its own disk, and data sets in a bucket.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use crate::database::{Columns, Row};
use crate::error::JobsError;
use crate::id::Id;
use crate::table::{Table, now, time};

/// A data set whose files are complete.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetRow {
    pub id: Id,
    /// On whose disk it lies; `None`: in a bucket.
    pub owner: Option<Id>,
    /// Of the file that was uploaded.
    pub name: String,
    pub description: Option<String>,
    pub created: DateTime<Utc>,
    /// What `metadata.json` says.
    pub metadata: Json,
}

/// An adapter that a training left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// What requests call it.
    pub name: String,
    /// The model that it was trained on.
    pub base: String,
    pub job: Id,
    /// A folder of PEFT's.
    pub path: PathBuf,
    pub created: DateTime<Utc>,
}

const DATASET: &str = "id, owner, name, description, created, metadata";
/// For the server $1.
const WITHIN_REACH: &str = "(owner IS NULL OR owner = $1)";
const ADAPTER: &str = "name, base, job, path, created";

impl Table {
    /// # Errors
    /// Those of the database.
    pub fn add_dataset(&self, dataset: &DatasetRow) -> Result<(), JobsError> {
        let text = format!("INSERT INTO datasets ({DATASET}) VALUES ($1, $2, $3, $4, $5, $6)");
        let parameters = vec![
            dataset.id.as_str().into(),
            dataset.owner.as_ref().map(Id::as_str).into(),
            dataset.name.clone().into(),
            dataset.description.clone().into(),
            dataset.created.timestamp_micros().into(),
            dataset.metadata.to_string().into(),
        ];
        self.database.query(&text, parameters).map(drop)
    }

    /// All data sets that this server can read, the oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub fn datasets(&self) -> Result<Vec<DatasetRow>, JobsError> {
        let text = format!("SELECT {DATASET} FROM datasets WHERE {WITHIN_REACH} ORDER BY number");
        self.database.query(&text, vec![self.owner.as_str().into()])?.into_iter().map(dataset).collect()
    }

    /// # Errors
    /// Those of the database.
    pub fn dataset(&self, id: &Id) -> Result<Option<DatasetRow>, JobsError> {
        let text = format!("SELECT {DATASET} FROM datasets WHERE {WITHIN_REACH} AND id = $2");
        let parameters = vec![self.owner.as_str().into(), id.as_str().into()];
        self.database.query(&text, parameters)?.into_iter().next().map(dataset).transpose()
    }

    /// Registers what a training left; one of the same job stays as it is.
    ///
    /// # Errors
    /// [`JobsError::Conflict`] where another adapter of this server has the name.
    pub fn add_adapter(&self, adapter: &Adapter) -> Result<(), JobsError> {
        if self.adapter(&adapter.name)?.is_some_and(|known| known.job == adapter.job) {
            return Ok(());
        }
        let text = format!("INSERT INTO adapters (owner, {ADAPTER}) VALUES ($1, $2, $3, $4, $5, $6)");
        let parameters = vec![
            self.owner.as_str().into(),
            adapter.name.clone().into(),
            adapter.base.clone().into(),
            adapter.job.as_str().into(),
            adapter.path.to_string_lossy().into_owned().into(),
            now().into(),
        ];
        self.database.query(&text, parameters).map(drop)
    }

    /// Forgets the adapter that a training left; one that is not there is not missed.
    ///
    /// # Errors
    /// Those of the database.
    pub fn remove_adapter(&self, job: &Id) -> Result<(), JobsError> {
        self.database.query("DELETE FROM adapters WHERE job = $1", vec![job.as_str().into()]).map(drop)
    }

    /// All adapters of this server, the oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub fn adapters(&self) -> Result<Vec<Adapter>, JobsError> {
        let text = format!("SELECT {ADAPTER} FROM adapters WHERE owner = $1 ORDER BY number");
        self.database.query(&text, vec![self.owner.as_str().into()])?.into_iter().map(adapter).collect()
    }

    /// # Errors
    /// Those of the database.
    pub fn adapter(&self, name: &str) -> Result<Option<Adapter>, JobsError> {
        let text = format!("SELECT {ADAPTER} FROM adapters WHERE owner = $1 AND name = $2");
        let parameters = vec![self.owner.as_str().into(), name.into()];
        self.database.query(&text, parameters)?.into_iter().next().map(adapter).transpose()
    }
}

fn dataset(row: Row) -> Result<DatasetRow, JobsError> {
    let columns = &mut Columns::of("data set", row);
    let id = columns.text()?.parse().map_err(|error| columns.damaged(error))?;
    let owner =
        columns.text_or_null()?.map(|owner| owner.parse::<Id>().map_err(|error| columns.damaged(error)));
    let owner = owner.transpose()?;
    let (name, description) = (columns.text()?, columns.text_or_null()?);
    let created = time(columns.int()?);
    let metadata = serde_json::from_str(&columns.text()?).map_err(|error| columns.damaged(error))?;
    Ok(DatasetRow { id, owner, name, description, created, metadata })
}

fn adapter(row: Row) -> Result<Adapter, JobsError> {
    let columns = &mut Columns::of("adapter", row);
    let (name, base) = (columns.text()?, columns.text()?);
    let job = columns.text()?.parse().map_err(|error| columns.damaged(error))?;
    Ok(Adapter { name, base, job, path: columns.text()?.into(), created: time(columns.int()?) })
}
