//! Two databases behind one trait. Statements are written once: `$1`… are parameters, `{number}` is a column that counts
//! up, `{skip_locked}` passes over rows that somebody else is about to change.

mod address;
mod postgres;
mod schema;
mod sqlite;
mod tls;

use std::path::Path;

pub use address::DatabaseUrl;

use crate::error::JobsError;

/// One value of a row, or one parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Int(i64),
    Text(String),
}

pub(crate) type Row = Vec<Value>;

/// A statement and its parameters.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    pub text: String,
    pub parameters: Vec<Value>,
}

/// What differs between databases.
pub(crate) struct Dialect {
    number: &'static str,
    skip_locked: &'static str,
}

/// A database. Calls block and may come from any thread.
pub(crate) trait Database: Send + Sync {
    fn dialect(&self) -> &'static Dialect;

    /// Does all of `statements` or nothing; the rows that each gave.
    ///
    /// # Errors
    /// [`JobsError::Conflict`] where a row has to be unique and is not, else [`JobsError::Database`].
    fn run(&self, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, JobsError>;
}

impl dyn Database + '_ {
    /// A statement in this database's words.
    pub fn statement(&self, text: &str, parameters: Vec<Value>) -> Statement {
        let Dialect { number, skip_locked } = self.dialect();
        let text = text.replace("{number}", number).replace("{skip_locked}", skip_locked);
        Statement { text, parameters }
    }

    pub fn query(&self, text: &str, parameters: Vec<Value>) -> Result<Vec<Row>, JobsError> {
        let rows = self.run(vec![self.statement(text, parameters)])?;
        Ok(rows.into_iter().next().unwrap_or_default())
    }
}

/// Opens the database at `url`, or else the file `file`, and makes the tables that are missing.
///
/// # Errors
/// A database that cannot be opened.
pub(crate) fn open(url: Option<&DatabaseUrl>, file: &Path) -> Result<Box<dyn Database>, JobsError> {
    let database: Box<dyn Database> = match url {
        Some(url) => Box::new(postgres::Postgres::open(url)?),
        None => Box::new(sqlite::Sqlite::open(file)?),
    };
    schema::prepare(database.as_ref())?;
    Ok(database)
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Takes a row apart, column by column.
pub(crate) struct Columns {
    table: &'static str,
    values: std::vec::IntoIter<Value>,
}

impl Columns {
    pub fn of(table: &'static str, row: Row) -> Self {
        Self { table, values: row.into_iter() }
    }

    pub fn damaged(&self, reason: impl std::fmt::Display) -> JobsError {
        JobsError::Damaged { table: self.table, id: String::new(), reason: reason.to_string() }
    }

    pub fn int(&mut self) -> Result<i64, JobsError> {
        self.int_or_null()?.ok_or_else(|| self.damaged("a number is missing"))
    }

    pub fn int_or_null(&mut self) -> Result<Option<i64>, JobsError> {
        match self.values.next() {
            Some(Value::Int(number)) => Ok(Some(number)),
            Some(Value::Null) => Ok(None),
            other => Err(self.damaged(format!("{other:?} is no number"))),
        }
    }

    pub fn text(&mut self) -> Result<String, JobsError> {
        self.text_or_null()?.ok_or_else(|| self.damaged("a text is missing"))
    }

    pub fn text_or_null(&mut self) -> Result<Option<String>, JobsError> {
        match self.values.next() {
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Null) => Ok(None),
            other => Err(self.damaged(format!("{other:?} is no text"))),
        }
    }
}
