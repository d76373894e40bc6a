//! What was read of models' headers, so that it is read once and not at every start: a GGUF file's may be megabytes.
//!
//! Files are the truth. Facts are kept under the digest that changes with their files, so none can be out of date; an
//! index that is missing, damaged or of another version is made anew as models are looked at, and one that cannot be
//! written is done without.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::entry::Details;
use crate::name::Digest;

/// Raised whenever something else is read of the same file.
const VERSION: i32 = 1;
/// Most facts of a kind. One more, and all are forgotten: those of models that are gone, too.
const MAX_FACTS: usize = 10_000;
/// How long another process may keep the file to itself.
const BUSY: Duration = Duration::from_secs(1);

const DETAILS: &str = "details";
const EMBEDDER: &str = "embedder";

/// Facts by what they are of. Shared between threads, its file between processes.
#[derive(Default)]
pub(crate) struct Index {
    details: Facts<Details>,
    embedders: Facts<Option<bool>>,
    file: Mutex<Option<Connection>>,
}

type Facts<T> = Mutex<HashMap<Digest, T>>;
type Failure = Box<dyn std::error::Error>;

impl Index {
    /// With what `file` holds, which is made where it is missing and made anew where it is damaged.
    pub fn open(file: &Path) -> Self {
        let opened = Self::read(file).or_else(|error| {
            if is_busy(error.as_ref()) {
                return Err(error);
            }
            tracing::warn!("{}: made anew: {error}", file.display());
            for ending in ["", "-wal", "-shm"] {
                let mut path = file.as_os_str().to_owned();
                path.push(ending);
                let _ = fs::remove_file(path);
            }
            Self::read(file)
        });
        opened.unwrap_or_else(|error| {
            tracing::warn!("{}: done without: {error}", file.display());
            Self::default()
        })
    }

    fn read(file: &Path) -> Result<Self, Failure> {
        let mut connection = Connection::open(file)?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version: i32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version != VERSION {
            transaction.execute_batch(
                "DROP TABLE IF EXISTS facts;
                 CREATE TABLE facts (kind TEXT, digest TEXT, value TEXT, PRIMARY KEY (kind, digest)) STRICT;",
            )?;
            transaction.pragma_update(None, "user_version", VERSION)?;
        }
        let details = facts(&transaction, DETAILS)?;
        let embedders = facts(&transaction, EMBEDDER)?;
        transaction.commit()?;
        Ok(Self { details, embedders, file: Mutex::new(Some(connection)) })
    }

    /// The details of what `digest` stands for, read by `read` the first time.
    pub fn details(&self, digest: Digest, read: impl FnOnce() -> Details) -> Details {
        // Of a file that could not be read nothing is known.
        self.get(&self.details, DETAILS, digest, read, |details| !details.parameter_size.is_empty())
    }

    /// Whether what `digest` stands for is an embedder, as `read` says the first time; `None`: it cannot be read.
    pub fn is_embedder(&self, digest: Digest, read: impl FnOnce() -> Option<bool>) -> Option<bool> {
        self.get(&self.embedders, EMBEDDER, digest, read, Option::is_some)
    }

    /// What `lasts` is for the next start, too; the rest for this one alone.
    fn get<T: Clone + Serialize>(
        &self,
        facts: &Facts<T>,
        kind: &str,
        digest: Digest,
        read: impl FnOnce() -> T,
        lasts: impl FnOnce(&T) -> bool,
    ) -> T {
        if let Some(known) = lock(facts).get(&digest) {
            return known.clone();
        }
        let value = read();
        let mut all = lock(facts);
        let full = all.len() >= MAX_FACTS;
        if full {
            all.clear();
        }
        all.insert(digest, value.clone());
        drop(all);
        if lasts(&value) {
            self.write(kind, digest, &value, full);
        }
        value
    }

    fn write<T: Serialize>(&self, kind: &str, digest: Digest, value: &T, full: bool) {
        let mut file = lock(&self.file);
        let Some(connection) = file.as_ref() else { return };
        let write = || -> Result<(), Failure> {
            if full {
                connection.execute("DELETE FROM facts WHERE kind = ?1", [kind])?;
            }
            let mut insert = connection.prepare_cached("INSERT OR REPLACE INTO facts VALUES (?1, ?2, ?3)")?;
            insert.execute(params![kind, digest.to_string(), serde_json::to_string(value)?])?;
            Ok(())
        };
        if let Err(error) = write() {
            tracing::warn!("the index of models is not written from here on: {error}");
            *file = None;
        }
    }
}

/// All facts of a kind.
fn facts<T: DeserializeOwned>(from: &Transaction<'_>, kind: &str) -> Result<Facts<T>, Failure> {
    let mut select = from.prepare("SELECT digest, value FROM facts WHERE kind = ?1")?;
    let mut rows = select.query([kind])?;
    let mut facts = HashMap::new();
    while let Some(row) = rows.next()? {
        let (digest, value): (String, String) = (row.get(0)?, row.get(1)?);
        facts.insert(digest.parse()?, serde_json::from_str(&value)?);
    }
    Ok(Mutex::new(facts))
}

/// Whether another process has the file to itself.
fn is_busy(error: &(dyn std::error::Error + 'static)) -> bool {
    let code = error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
    matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
