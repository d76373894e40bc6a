//! The table of jobs, and their logs.

use std::path::Path;

use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use crate::database::{self, Columns, Database, DatabaseUrl, Row, Value};
use crate::error::JobsError;
use crate::folder::StateFolder;
use crate::id::Id;
use crate::job::{Job, Kind, NewJob, Status};

/// A job that was begun so often without getting anywhere is given up: it may be what ends its server.
const MAX_ATTEMPTS: i64 = 20;
/// Lines of one job's log that are kept.
const MAX_LINES: i64 = 10_000;
const MAX_LINE: usize = 4_000;
const COLUMNS: &str = "number, id, kind, name, status, subject, created, ended, progress, error, attempts";
const LIVE: &str = "status IN ('CREATED', 'RUNNING')";

/// The jobs of all servers that share a database, as one of them sees them. What a job fetches, trains or serves lies in
/// the state folder and the model folders of the server that took it in, so it is that server's to the end.
pub struct Table {
    pub(crate) database: Box<dyn Database>,
    pub(crate) owner: Id,
    shared: bool,
}

/// Which way a list goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    OldestFirst,
    NewestFirst,
}

/// Whose jobs a list has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Everybodys,
    /// Of the server that asks.
    Own,
}

/// A part of the list.
#[derive(Debug, Clone)]
pub struct Page {
    pub kind: Option<Kind>,
    pub status: Option<Status>,
    pub of: Whose,
    /// Begins behind the job of this number.
    pub after: Option<i64>,
    /// `None`: all.
    pub limit: Option<u32>,
    pub order: Order,
}

impl Default for Page {
    fn default() -> Self {
        let (of, order) = (Whose::Everybodys, Order::OldestFirst);
        Self { kind: None, status: None, of, after: None, limit: None, order }
    }
}

/// A line of a job's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub number: i64,
    pub at: DateTime<Utc>,
    pub line: String,
}

impl Table {
    /// The table in the database at `url`, or else in a file of the state folder.
    ///
    /// # Errors
    /// A database that cannot be opened.
    pub fn open(folder: &StateFolder, url: Option<&DatabaseUrl>) -> Result<Self, JobsError> {
        Self::open_at(url, &folder.database(), folder.owner())
    }

    pub(crate) fn open_at(url: Option<&DatabaseUrl>, file: &Path, owner: &Id) -> Result<Self, JobsError> {
        Ok(Self { database: database::open(url, file)?, owner: owner.clone(), shared: url.is_some() })
    }

    /// Whether other servers may use it at the same time.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Takes a job in.
    ///
    /// # Errors
    /// [`JobsError::Conflict`] where a live job of this server has its slot.
    pub fn insert(&self, job: &NewJob) -> Result<Job, JobsError> {
        let statement = self.insertion(job);
        let rows = self.database.run(vec![statement])?;
        first(rows).and_then(|row| row.ok_or(JobsError::Conflict))
    }

    /// Takes a job in; those that live in its slot are killed by the same step.
    ///
    /// # Errors
    /// Those of the database.
    pub fn replace(&self, job: &NewJob) -> Result<Job, JobsError> {
        loop {
            let kill = format!(
                "UPDATE jobs SET status = 'KILLED', ended = $1 WHERE owner = $2 AND slot = $3 AND {LIVE}"
            );
            let parameters = vec![now().into(), self.owner.as_str().into(), job.slot.clone().into()];
            let kill = self.database.statement(&kill, parameters);
            match self.database.run(vec![kill, self.insertion(job)]) {
                // Somebody took the slot in between.
                Err(JobsError::Conflict) => {}
                rows => return first(rows?.split_off(1)).and_then(|row| row.ok_or(JobsError::Conflict)),
            }
        }
    }

    fn insertion(&self, job: &NewJob) -> database::Statement {
        let text = format!(
            "INSERT INTO jobs (id, owner, kind, name, status, slot, subject, created, attempts)
             VALUES ($1, $2, $3, $4, 'CREATED', $5, $6, $7, 0) RETURNING {COLUMNS}"
        );
        let parameters = vec![
            Id::random().as_str().into(),
            self.owner.as_str().into(),
            job.kind.name().into(),
            job.name.clone().into(),
            job.slot.clone().into(),
            job.subject.to_string().into(),
            now().into(),
        ];
        self.database.statement(&text, parameters)
    }

    /// # Errors
    /// [`JobsError::NotFound`].
    pub fn get(&self, id: &Id) -> Result<Job, JobsError> {
        let text = format!("SELECT {COLUMNS} FROM jobs WHERE id = $1");
        let rows = self.database.query(&text, vec![id.as_str().into()])?;
        rows.into_iter().next().map_or_else(|| Err(JobsError::NotFound(id.clone())), job)
    }

    /// The live job of a slot of this server's.
    ///
    /// # Errors
    /// Those of the database.
    pub fn live(&self, slot: &str) -> Result<Option<Job>, JobsError> {
        let text = format!("SELECT {COLUMNS} FROM jobs WHERE owner = $1 AND slot = $2 AND {LIVE}");
        first(vec![self.database.query(&text, vec![self.owner.as_str().into(), slot.into()])?])
    }

    /// # Errors
    /// Those of the database.
    pub fn list(&self, page: &Page) -> Result<Vec<Job>, JobsError> {
        let mut parameters: Vec<Value> = Vec::new();
        let mut conditions = Vec::new();
        let mut asked = |condition: &str, value: Value| {
            parameters.push(value);
            conditions.push(format!("{condition} ${}", parameters.len()));
        };
        if page.of == Whose::Own {
            asked("owner =", self.owner.as_str().into());
        }
        if let Some(kind) = page.kind {
            asked("kind =", kind.name().into());
        }
        if let Some(status) = page.status {
            asked("status =", status.name().into());
        }
        let (behind, order) = match page.order {
            Order::OldestFirst => ("number >", "number"),
            Order::NewestFirst => ("number <", "number DESC"),
        };
        if let Some(after) = page.after {
            asked(behind, after.into());
        }
        let mut text = format!("SELECT {COLUMNS} FROM jobs");
        if !conditions.is_empty() {
            text.push_str(&format!(" WHERE {}", conditions.join(" AND ")));
        }
        text.push_str(&format!(" ORDER BY {order}"));
        if let Some(limit) = page.limit {
            text.push_str(&format!(" LIMIT {limit}"));
        }
        self.database.query(&text, parameters)?.into_iter().map(job).collect()
    }

    /// Kills a job that lives, whosever it is; the job as it is then. One that has ended stays as it is.
    ///
    /// # Errors
    /// [`JobsError::NotFound`].
    pub fn kill(&self, id: &Id) -> Result<Job, JobsError> {
        let text = format!(
            "UPDATE jobs SET status = 'KILLED', ended = $1 WHERE id = $2 AND {LIVE} RETURNING {COLUMNS}"
        );
        let rows = self.database.query(&text, vec![now().into(), id.as_str().into()])?;
        rows.into_iter().next().map_or_else(|| self.get(id), job)
    }

    /// Takes this server's oldest live job of the kind but for those that are `under_way` already.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) fn claim(&self, kind: Kind, under_way: &[Id]) -> Result<Option<Job>, JobsError> {
        let mut parameters: Vec<Value> = vec![self.owner.as_str().into(), kind.name().into()];
        parameters.extend(under_way.iter().map(|id| id.as_str().into()));
        let others: String = (3..=parameters.len()).map(|number| format!(" AND id <> ${number}")).collect();
        let text = format!(
            "UPDATE jobs SET status = 'RUNNING', attempts = attempts + 1
             WHERE number = (SELECT number FROM jobs WHERE owner = $1 AND kind = $2 AND {LIVE}{others}
                             ORDER BY number LIMIT 1 {{skip_locked}}) RETURNING {COLUMNS}"
        );
        let Some(job) = first(vec![self.database.query(&text, parameters)?])? else { return Ok(None) };
        if job.attempts > MAX_ATTEMPTS {
            let reason =
                format!("it was begun {MAX_ATTEMPTS} times and got nowhere: its server ended each time");
            self.end(&job.id, Status::Failed, Some(&reason))?;
            return self.claim(kind, under_way);
        }
        Ok(Some(job))
    }

    /// The jobs of this server that have begun and have not ended.
    pub(crate) fn running(&self) -> Result<Vec<Id>, JobsError> {
        let text = "SELECT id FROM jobs WHERE owner = $1 AND status = 'RUNNING'";
        let rows = self.database.query(text, vec![self.owner.as_str().into()])?;
        rows.into_iter().map(|row| id(&mut Columns::of("job", row))).collect()
    }

    /// Ends a job that runs; whether it did.
    pub(crate) fn end(&self, id: &Id, status: Status, error: Option<&str>) -> Result<bool, JobsError> {
        let text = "UPDATE jobs SET status = $1, ended = $2, error = $3
                    WHERE id = $4 AND status = 'RUNNING' RETURNING id";
        let parameters =
            vec![status.name().into(), now().into(), error.map(clean).into(), id.as_str().into()];
        Ok(!self.database.query(text, parameters)?.is_empty())
    }

    /// What a job got to, which also counts as getting somewhere.
    pub(crate) fn progress(&self, id: &Id, progress: &Json) -> Result<(), JobsError> {
        let text = "UPDATE jobs SET progress = $1, attempts = 0 WHERE id = $2 AND status = 'RUNNING'";
        self.database.query(text, vec![progress.to_string().into(), id.as_str().into()]).map(drop)
    }

    /// Adds a line to a job's log; of a long one the end is kept.
    ///
    /// # Errors
    /// Those of the database.
    pub fn log(&self, id: &Id, line: &str) -> Result<(), JobsError> {
        let line: String = clean(line).chars().take(MAX_LINE).collect();
        let add = "INSERT INTO job_logs (job, at, line) VALUES ($1, $2, $3)";
        let add = self.database.statement(add, vec![id.as_str().into(), now().into(), line.into()]);
        let cut = format!(
            "DELETE FROM job_logs WHERE job = $1 AND number <=
             (SELECT number FROM job_logs WHERE job = $1 ORDER BY number DESC LIMIT 1 OFFSET {MAX_LINES})"
        );
        let cut = self.database.statement(&cut, vec![id.as_str().into()]);
        self.database.run(vec![add, cut]).map(drop)
    }

    /// Lines of a job's log behind line number `after`, at most `limit`.
    ///
    /// # Errors
    /// Those of the database.
    pub fn logs(&self, id: &Id, after: i64, limit: u32) -> Result<Vec<LogLine>, JobsError> {
        let text = format!(
            "SELECT number, at, line FROM job_logs WHERE job = $1 AND number > $2 ORDER BY number LIMIT {limit}"
        );
        let rows = self.database.query(&text, vec![id.as_str().into(), after.into()])?;
        let line = |row| {
            let mut columns = Columns::of("job_logs", row);
            Ok(LogLine { number: columns.int()?, at: time(columns.int()?), line: columns.text()? })
        };
        rows.into_iter().map(line).collect()
    }
}

/// Microseconds since 1970.
pub(crate) fn now() -> i64 {
    Utc::now().timestamp_micros()
}

pub(crate) fn time(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or_default()
}

/// PostgreSQL's texts have no NUL.
fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn first(rows: Vec<Vec<Row>>) -> Result<Option<Job>, JobsError> {
    rows.into_iter().flatten().next().map(job).transpose()
}

fn id(columns: &mut Columns) -> Result<Id, JobsError> {
    columns.text()?.parse().map_err(|error| columns.damaged(error))
}

fn json(columns: &Columns, text: &str) -> Result<Json, JobsError> {
    serde_json::from_str(text).map_err(|error| columns.damaged(error))
}

fn job(row: Row) -> Result<Job, JobsError> {
    let columns = &mut Columns::of("job", row);
    let (number, id) = (columns.int()?, id(columns)?);
    let kind = Kind::of(&columns.text()?).ok_or_else(|| columns.damaged("of no known kind"))?;
    let name = columns.text()?;
    let status = Status::of(&columns.text()?).ok_or_else(|| columns.damaged("of no known status"))?;
    let subject = columns.text()?;
    let subject = json(columns, &subject)?;
    let (created, ended) = (time(columns.int()?), columns.int_or_null()?.map(time));
    let progress = columns.text_or_null()?.map(|text| json(columns, &text)).transpose()?;
    let (error, attempts) = (columns.text_or_null()?, columns.int()?);
    let progress = progress.unwrap_or_default();
    Ok(Job { id, number, kind, name, status, subject, created, ended, progress, error, attempts })
}
