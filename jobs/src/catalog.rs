//! What jobs work on and leave behind: data sets and adapters, as the database has them.

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

const DATASET: &str = "id, name, description, created, metadata";
const ADAPTER: &str = "name, base, job, path, created";

impl Table {
    /// # Errors
    /// Those of the database.
    pub fn add_dataset(&self, dataset: &DatasetRow) -> Result<(), JobsError> {
        let text =
            "INSERT INTO datasets (id, name, description, created, metadata) VALUES ($1, $2, $3, $4, $5)";
        let parameters = vec![
            dataset.id.as_str().into(),
            dataset.name.clone().into(),
            dataset.description.clone().into(),
            dataset.created.timestamp_micros().into(),
            dataset.metadata.to_string().into(),
        ];
        self.database.query(text, parameters).map(drop)
    }

    /// All data sets, the oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub fn datasets(&self) -> Result<Vec<DatasetRow>, JobsError> {
        let text = format!("SELECT {DATASET} FROM datasets ORDER BY number");
        self.database.query(&text, Vec::new())?.into_iter().map(dataset).collect()
    }

    /// # Errors
    /// Those of the database.
    pub fn dataset(&self, id: &Id) -> Result<Option<DatasetRow>, JobsError> {
        let text = format!("SELECT {DATASET} FROM datasets WHERE id = $1");
        self.database.query(&text, vec![id.as_str().into()])?.into_iter().next().map(dataset).transpose()
    }

    /// Registers what a training left; one of the same job stays as it is.
    ///
    /// # Errors
    /// [`JobsError::Conflict`] where another adapter has the name.
    pub fn add_adapter(&self, adapter: &Adapter) -> Result<(), JobsError> {
        if self.adapter(&adapter.name)?.is_some_and(|known| known.job == adapter.job) {
            return Ok(());
        }
        let text = "INSERT INTO adapters (name, base, job, path, created) VALUES ($1, $2, $3, $4, $5)";
        let parameters = vec![
            adapter.name.clone().into(),
            adapter.base.clone().into(),
            adapter.job.as_str().into(),
            adapter.path.to_string_lossy().into_owned().into(),
            now().into(),
        ];
        self.database.query(text, parameters).map(drop)
    }

    /// All adapters, the oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub fn adapters(&self) -> Result<Vec<Adapter>, JobsError> {
        let text = format!("SELECT {ADAPTER} FROM adapters ORDER BY number");
        self.database.query(&text, Vec::new())?.into_iter().map(adapter).collect()
    }

    /// # Errors
    /// Those of the database.
    pub fn adapter(&self, name: &str) -> Result<Option<Adapter>, JobsError> {
        let text = format!("SELECT {ADAPTER} FROM adapters WHERE name = $1");
        self.database.query(&text, vec![name.into()])?.into_iter().next().map(adapter).transpose()
    }
}

fn dataset(row: Row) -> Result<DatasetRow, JobsError> {
    let columns = &mut Columns::of("data set", row);
    let id = columns.text()?.parse().map_err(|error| columns.damaged(error))?;
    let (name, description) = (columns.text()?, columns.text_or_null()?);
    let created = time(columns.int()?);
    let metadata = serde_json::from_str(&columns.text()?).map_err(|error| columns.damaged(error))?;
    Ok(DatasetRow { id, name, description, created, metadata })
}

fn adapter(row: Row) -> Result<Adapter, JobsError> {
    let columns = &mut Columns::of("adapter", row);
    let (name, base) = (columns.text()?, columns.text()?);
    let job = columns.text()?.parse().map_err(|error| columns.damaged(error))?;
    Ok(Adapter { name, base, job, path: columns.text()?.into(), created: time(columns.int()?) })
}
