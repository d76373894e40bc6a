//! Long work that outlives its process: a durable table of jobs, a runner that does them, and what they leave behind
//! (data sets, adapters). Knows nothing of HTTP, of models or of how any job is done.
//!
//! A job belongs to the server that took it in, which is known by its state folder. It is inserted as CREATED, begun by
//! that server's runner (RUNNING), and ends as FINISHED, KILLED or FAILED. What a server was at when it died it goes on
//! with at its next start; other servers of the same PostgreSQL see its jobs and may kill them. All calls block.

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
pub use datasets::{DatasetError, Datasets, Form, NewDataset, Place, S3Settings};
pub use error::JobsError;
pub use folder::StateFolder;
pub use id::Id;
pub use job::{Job, Kind, NewJob, Status};
pub use runner::{Context, Runner, Stopped, Work, WorkError};
pub use table::{LogLine, Order, Page, Table, Whose};

#[cfg(test)]
mod tests;
