//! The tables. Every statement can be repeated.

use super::Database;
use crate::error::JobsError;

const STATEMENTS: [&str; 9] = [
    "CREATE TABLE IF NOT EXISTS jobs (
        number {number}, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
        status TEXT NOT NULL, slot TEXT, subject TEXT NOT NULL, created BIGINT NOT NULL, ended BIGINT, progress TEXT,
        error TEXT, attempts BIGINT NOT NULL)",
    "CREATE UNIQUE INDEX IF NOT EXISTS jobs_slot ON jobs (owner, slot) WHERE status IN ('CREATED', 'RUNNING')",
    "CREATE INDEX IF NOT EXISTS jobs_live ON jobs (owner, kind, number) WHERE status IN ('CREATED', 'RUNNING')",
    "CREATE INDEX IF NOT EXISTS jobs_status ON jobs (status, number)",
    "CREATE INDEX IF NOT EXISTS jobs_kind ON jobs (owner, kind, number)",
    "CREATE TABLE IF NOT EXISTS job_logs (number {number}, job TEXT NOT NULL, at BIGINT NOT NULL, line TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS job_logs_job ON job_logs (job, number)",
    "CREATE TABLE IF NOT EXISTS datasets (
        number {number}, id TEXT NOT NULL UNIQUE, owner TEXT, name TEXT NOT NULL, description TEXT,
        created BIGINT NOT NULL, metadata TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS adapters (
        number {number}, owner TEXT NOT NULL, name TEXT NOT NULL, base TEXT NOT NULL, job TEXT NOT NULL,
        path TEXT NOT NULL, created BIGINT NOT NULL, UNIQUE (owner, name))",
];

/// Makes what is missing.
///
/// # Errors
/// Those of the database.
pub(super) fn prepare(database: &dyn Database) -> Result<(), JobsError> {
    let statements = STATEMENTS.map(|text| database.statement(text, Vec::new())).into();
    database.run(statements).map(drop)
}
