//! Data sets: files of conversations, checked before they are kept, on this machine or in an S3 bucket.

mod lines;
mod local;
mod s3;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::Utc;
use serde_json::{Value, json};

use crate::catalog::DatasetRow;
use crate::error::JobsError;
use crate::folder::StateFolder;
use crate::id::Id;
use crate::table::Table;
pub use lines::Form;
use lines::{Counts, Lines};
use local::Local;
use s3::S3;
pub use s3::S3Settings;
use weirgate_text::LineError;

/// The file of a data set's content, beside `METADATA`.
const CONTENT: &str = "data.jsonl";
const METADATA: &str = "metadata.json";
const BUFFER_BYTES: usize = 256 << 10;

/// Where data sets are kept.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Place {
    /// In the state folder.
    Local,
    S3(S3Settings),
}

/// What an upload says of itself.
#[derive(Debug, Clone)]
pub struct NewDataset {
    /// Of the file.
    pub name: String,
    pub description: Option<String>,
    /// Bytes at most.
    pub limit: u64,
}

/// Why a data set is not kept, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The first errors of the file.
    #[error("the file is no data set: {}", .0.first().map(ToString::to_string).unwrap_or_default())]
    Lines(Vec<LineError>),
    /// PostgreSQL's texts have no NUL, so no database's have.
    #[error("{0} has a NUL character")]
    Nul(&'static str),
    #[error("the file is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    /// The upload ended early.
    #[error("the upload broke off: {0}")]
    BrokenOff(io::Error),
    #[error("the disk is full")]
    DiskFull,
    #[error("{0}")]
    State(#[from] JobsError),
    #[error("the bucket failed: {0}")]
    Bucket(String),
}

/// Where files of data sets are kept, each under its id. Calls block.
trait Files: Send + Sync {
    /// Keeps the files of the folder `incoming`; `METADATA` comes last. What [`Files::remove`] needs to know is left in the
    /// folder as long as it may be needed.
    fn keep(&self, id: &Id, incoming: &Path) -> Result<(), DatasetError>;
    /// Reads a file.
    fn open(&self, id: &Id) -> Result<Box<dyn Read + Send>, DatasetError>;
    /// The path of the content on this machine, which may be put into the folder `fetched` as long as `go_on` says so.
    fn on_disk(&self, id: &Id, fetched: &Path, go_on: &dyn Fn() -> bool) -> Result<PathBuf, DatasetError>;
    /// Removes what [`Files::keep`] did with the folder `incoming`, however far it came.
    fn remove(&self, id: &Id, incoming: &Path) -> Result<(), DatasetError>;
}

/// All data sets.
pub struct Datasets {
    table: Arc<Table>,
    files: Arc<dyn Files>,
    /// Whose disk they are put on; `None`: a bucket.
    owner: Option<Id>,
    /// Uploads that are not complete: a folder for each, from before anything is kept of it until it is listed.
    incoming: PathBuf,
}

impl Datasets {
    /// Begins to clear away what uploads left that broke off with the server.
    ///
    /// # Errors
    /// Folders that cannot be made, a bucket's settings that make no sense.
    pub fn open(folder: &StateFolder, table: Arc<Table>, place: &Place) -> Result<Self, DatasetError> {
        let (files, owner): (Arc<dyn Files>, _) = match place {
            Place::Local => {
                (Arc::new(Local::new(folder.subfolder("datasets")?)), Some(folder.owner().clone()))
            }
            Place::S3(settings) => (Arc::new(S3::new(settings)?), None),
        };
        let incoming = folder.subfolder("incoming")?;
        let left = fs::read_dir(&incoming).map_err(JobsError::io("the folder of uploads"))?;
        let left: Vec<PathBuf> = left.flatten().map(|entry| entry.path()).collect();
        if !left.is_empty() {
            // A bucket may not answer, which is no reason to wait.
            let (table, files) = (table.clone(), files.clone());
            let clear =
                move || left.into_iter().for_each(|path| clear(&table, files.as_ref(), Incoming(path)));
            let thread = std::thread::Builder::new().name("uploads".to_owned()).spawn(clear);
            thread.map_err(JobsError::io("the thread of uploads"))?;
        }
        Ok(Self { table, files, owner, incoming })
    }

    /// Takes a file in. Nothing is kept of one that is not valid, or that does not come whole.
    ///
    /// # Errors
    /// [`DatasetError`].
    pub fn add(&self, new: &NewDataset, source: &mut dyn Read) -> Result<DatasetRow, DatasetError> {
        for (field, text) in [("name", Some(&new.name)), ("description", new.description.as_ref())] {
            if text.is_some_and(|text| text.contains('\0')) {
                return Err(DatasetError::Nul(field));
            }
        }
        let id = Id::random();
        let folder = Incoming::new(self.incoming.join(id.as_str()))?;
        let (counts, bytes) = copy_in(&folder.0.join(CONTENT), source, new.limit)?;
        let created = Utc::now();
        let metadata = metadata(&id, new, (counts, bytes), &created.to_rfc3339());
        write(&folder.0.join(METADATA), metadata.to_string().as_bytes())?;
        let row = DatasetRow {
            id: id.clone(),
            owner: self.owner.clone(),
            name: new.name.clone(),
            description: new.description.clone(),
            created,
            metadata,
        };
        let kept = self.files.keep(&id, &folder.0);
        match kept.and_then(|()| Ok(self.table.add_dataset(&row)?)) {
            Ok(()) => Ok(row),
            Err(error) => {
                // A database whose answer was lost may have it all the same.
                clear(&self.table, self.files.as_ref(), folder);
                Err(error)
            }
        }
    }

    /// The file as it was uploaded.
    ///
    /// # Errors
    /// [`DatasetError`].
    pub fn read(&self, id: &Id) -> Result<Box<dyn Read + Send>, DatasetError> {
        self.files.open(id)
    }

    /// The path of the file, which may be put into the folder `fetched` for it, as long as `go_on` says so.
    ///
    /// # Errors
    /// [`DatasetError`].
    pub fn on_disk(
        &self,
        id: &Id,
        fetched: &Path,
        go_on: &dyn Fn() -> bool,
    ) -> Result<PathBuf, DatasetError> {
        self.files.on_disk(id, fetched, go_on)
    }
}

/// Clears away what an upload left, unless it is listed.
fn clear(table: &Table, files: &dyn Files, left: Incoming) {
    let id = left.0.file_name().and_then(|name| name.to_str()?.parse::<Id>().ok());
    let Some(id) = id else { return };
    let removed = match table.dataset(&id) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => files.remove(&id, &left.0),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = removed {
        tracing::warn!(%error, "what an upload left will be removed at the next start");
        left.stay();
    }
}

/// A folder that goes with this.
struct Incoming(PathBuf);

impl Incoming {
    fn new(path: PathBuf) -> Result<Self, DatasetError> {
        fs::create_dir(&path).map_err(write_error)?;
        Ok(Self(path))
    }

    /// Leaves the folder to the next start, without what takes room.
    fn stay(self) {
        for file in [CONTENT, METADATA] {
            // It may have been kept.
            let _ = fs::remove_file(self.0.join(file));
        }
        std::mem::forget(self);
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "an upload's files are left");
            }
            _ => {}
        }
    }
}

/// Copies and checks; what was in it, and its bytes.
fn copy_in(path: &Path, source: &mut dyn Read, limit: u64) -> Result<(Counts, u64), DatasetError> {
    let mut file = File::create_new(path).map_err(write_error)?;
    let mut lines = Lines::default();
    let mut bytes = 0;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let n = match source.read(&mut buffer) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(DatasetError::BrokenOff(error)),
        };
        let piece = buffer.get(..n).unwrap_or_default();
        bytes += n as u64;
        if bytes > limit {
            return Err(DatasetError::TooLarge { limit });
        }
        if n == 0 || !lines.feed(piece) {
            break;
        }
        file.write_all(piece).map_err(write_error)?;
    }
    let counts = lines.finish().map_err(DatasetError::Lines)?;
    file.sync_all().map_err(write_error)?;
    Ok((counts, bytes))
}

fn metadata(id: &Id, new: &NewDataset, (counts, bytes): (Counts, u64), created: &str) -> Value {
    json!({
        "id": id.as_str(),
        "name": new.name,
        "description": new.description,
        "created_at": created,
        "file": CONTENT,
        "bytes": bytes,
        "format": counts.form,
        "conversations": counts.conversations,
        "prompts": counts.prompts,
        "responses": counts.responses,
    })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), DatasetError> {
    let mut file = File::create_new(path).map_err(write_error)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(write_error)
}

fn write_error(error: io::Error) -> DatasetError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DatasetError::DiskFull,
        _ => JobsError::io("a data set")(error).into(),
    }
}
