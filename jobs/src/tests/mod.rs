//! The same tests over both databases.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod datasets;
mod postgres;
mod runner;
mod table;

use std::sync::Arc;

use serde_json::json;
use tempfile::TempDir;

use crate::{DatabaseUrl, Job, Kind, NewJob, StateFolder, Table};

/// One database for one test.
struct Setup {
    folder: TempDir,
    url: Option<DatabaseUrl>,
}

impl Setup {
    fn sqlite() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), url: None }
    }

    fn postgres() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), url: Some(postgres::new_database()) }
    }

    /// The state folder `name`, and the table as that server sees it.
    fn server(&self, name: &str) -> (StateFolder, Arc<Table>) {
        let folder = StateFolder::open(&self.folder.path().join(name)).unwrap();
        let table = Table::open(&folder, self.url.as_ref()).unwrap();
        (folder, Arc::new(table))
    }

    /// The table of the server `a` as the server `name` sees it.
    fn beside(&self, name: &str) -> Arc<Table> {
        let folder = StateFolder::open(&self.folder.path().join(name)).unwrap();
        let file = self.folder.path().join("a/jobs.sqlite");
        Arc::new(Table::open_at(self.url.as_ref(), &file, folder.owner()).unwrap())
    }
}

/// Makes a test for each database of functions of a [`Setup`].
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[test] fn $name() { super::$name(&super::super::Setup::sqlite()); })+
        }
        mod postgres {
            $(#[test] fn $name() { super::$name(&super::super::Setup::postgres()); })+
        }
    };
}
use on_both;

fn new(kind: Kind, name: &str) -> NewJob {
    NewJob { kind, name: name.to_owned(), slot: None, subject: json!({"name": name}) }
}

fn in_slot(slot: &str, name: &str) -> NewJob {
    NewJob { slot: Some(slot.to_owned()), ..new(Kind::Deploy, name) }
}

fn names(jobs: &[Job]) -> Vec<&str> {
    jobs.iter().map(|job| job.name.as_str()).collect()
}
