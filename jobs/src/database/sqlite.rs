//! SQLite in a file, with a write-ahead log.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::types::{Type, ValueRef};
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::{Database, Dialect, Row, Statement, Value};
use crate::error::JobsError;

const DIALECT: Dialect = Dialect { number: "INTEGER PRIMARY KEY AUTOINCREMENT", skip_locked: "" };
const BUSY: Duration = Duration::from_secs(10);

pub(super) struct Sqlite {
    writer: Mutex<Connection>,
    /// Long lists are read beside the writer.
    reader: Mutex<Connection>,
}

impl Sqlite {
    pub fn open(file: &Path) -> Result<Self, JobsError> {
        let open = || -> rusqlite::Result<Connection> {
            let connection = Connection::open(file)?;
            connection.busy_timeout(BUSY)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            // What was acknowledged is there after a loss of power, too.
            connection.pragma_update(None, "synchronous", "FULL")?;
            Ok(connection)
        };
        let connect = || open().map_err(failure).map(Mutex::new);
        Ok(Self { writer: connect()?, reader: connect()? })
    }
}

fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failure(error: rusqlite::Error) -> JobsError {
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => JobsError::Conflict,
        _ => JobsError::Database(error.to_string()),
    }
}

impl Database for Sqlite {
    fn dialect(&self) -> &'static Dialect {
        &DIALECT
    }

    fn run(&self, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, JobsError> {
        let reads = statements.iter().all(|statement| statement.text.starts_with("SELECT"));
        let mut connection = lock(if reads { &self.reader } else { &self.writer });
        let behavior = if reads { TransactionBehavior::Deferred } else { TransactionBehavior::Immediate };
        let transaction = connection.transaction_with_behavior(behavior).map_err(failure)?;
        let all = statements.iter().map(|statement| rows(&transaction, statement));
        let all = all.collect::<rusqlite::Result<Vec<_>>>().map_err(failure)?;
        transaction.commit().map_err(failure)?;
        Ok(all)
    }
}

fn rows(transaction: &Transaction<'_>, statement: &Statement) -> rusqlite::Result<Vec<Row>> {
    let mut prepared = transaction.prepare_cached(&statement.text.replace('$', "?"))?;
    let columns = prepared.column_count();
    let mut found = prepared.query(rusqlite::params_from_iter(&statement.parameters))?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let values = (0..columns).map(|column| value(column, row.get_ref(column)?));
        rows.push(values.collect::<rusqlite::Result<Row>>()?);
    }
    Ok(rows)
}

fn value(column: usize, value: ValueRef<'_>) -> rusqlite::Result<Value> {
    match value {
        ValueRef::Null => Ok(Value::Null),
        ValueRef::Integer(number) => Ok(Value::Int(number)),
        ValueRef::Text(_) => Ok(Value::Text(value.as_str()?.to_owned())),
        ValueRef::Real(_) | ValueRef::Blob(_) => {
            Err(rusqlite::Error::InvalidColumnType(column, String::new(), Type::Text))
        }
    }
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        match self {
            Self::Null => Ok(rusqlite::types::Null.into()),
            Self::Int(number) => number.to_sql(),
            Self::Text(text) => text.to_sql(),
        }
    }
}
