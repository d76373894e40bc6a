//! Long work that outlives its process: a durable table of jobs, a runner that does them, and what they leave behind
//! (data sets, adapters). Knows nothing of HTTP, of models or of how any job is done.
//!
//! A job is inserted as CREATED, claimed by one runner (RUNNING, with an owner and a lease), and ends as FINISHED, KILLED
//! or FAILED. A runner that dies loses its jobs to whoever looks next: at its own next start at once, for another server
//! of the same PostgreSQL when the lease has run out. All calls block.

mod catalog;
mod database;
mod datasets;
mod error;
mod folder;
mod id;
mod job;
mod runner;
mod table;

pub use catalog::{Adapter, DatasetRow};
pub use database::DatabaseUrl;
pub use datasets::{DatasetError, Datasets, Form, LineError, NewDataset, Place, S3Settings};
pub use error::JobsError;
pub use folder::StateFolder;
pub use id::Id;
pub use job::{Job, Kind, NewJob, Status};
pub use runner::{Context, Runner, Stopped, Work, WorkError};
pub use table::{LogLine, Order, Page, Table};

#[cfg(test)]
mod tests;
