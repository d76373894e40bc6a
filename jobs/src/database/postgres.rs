//! PostgreSQL. One thread holds the connection, and makes a new one when the old one has broken.

use std::error::Error;
use std::sync::mpsc;
use std::time::Duration;

use postgres::error::SqlState;
use postgres::types::private::BytesMut;
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, Config, NoTls};

use super::address::Address;
use super::tls::Tls;
use super::{Database, DatabaseUrl, Dialect, Row, Statement, Value};
use crate::error::JobsError;

const DIALECT: Dialect = Dialect { number: "BIGSERIAL PRIMARY KEY", skip_locked: "FOR UPDATE SKIP LOCKED" };
/// Servers that start at the same time make the tables one after the other.
const SCHEMA_LOCK: &str = "SELECT pg_advisory_xact_lock(7310579016234)";

/// A server that does not answer for so long has gone.
const SILENCE: Duration = Duration::from_secs(5);

type Answer = Result<Vec<Vec<Row>>, JobsError>;

pub(super) struct Postgres {
    tasks: mpsc::Sender<(Vec<Statement>, mpsc::Sender<Answer>)>,
}

impl Postgres {
    pub fn open(url: &DatabaseUrl) -> Result<Self, JobsError> {
        let peer = Peer::new(url.parse()?)?;
        let mut client = Some(peer.connect()?);
        let (tasks, inbox) = mpsc::channel::<(Vec<Statement>, mpsc::Sender<Answer>)>();
        let serve = move || {
            for (statements, answer) in inbox {
                // Whoever asked may have gone.
                let _ = answer.send(answered(&peer, &mut client, &statements));
            }
        };
        std::thread::Builder::new()
            .name("postgres".to_owned())
            .spawn(serve)
            .map_err(JobsError::io("the database's thread"))?;
        Ok(Self { tasks })
    }
}

/// The server, and how it is spoken to.
struct Peer {
    config: Config,
    /// `None`: not encrypted.
    tls: Option<Tls>,
}

impl Peer {
    fn new(Address { mut config, encrypted, authorities }: Address) -> Result<Self, JobsError> {
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(SILENCE);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(SILENCE);
        }
        let tls = encrypted.then(|| Tls::new(authorities.as_deref())).transpose()?;
        Ok(Self { config, tls })
    }

    fn connect(&self) -> Result<Client, JobsError> {
        let client = match &self.tls {
            Some(tls) => self.config.connect(tls.clone()),
            None => self.config.connect(NoTls),
        };
        client.map_err(|error| failure(&error))
    }
}

fn answered(peer: &Peer, client: &mut Option<Client>, statements: &[Statement]) -> Answer {
    if client.as_ref().is_none_or(Client::is_closed) {
        *client = None;
        *client = Some(peer.connect()?);
    }
    let Some(open) = client else { return Err(JobsError::Database("not connected".to_owned())) };
    let answer = transaction(open, statements);
    if open.is_closed() {
        *client = None;
    }
    answer.map_err(|error| failure(&error))
}

fn transaction(client: &mut Client, statements: &[Statement]) -> Result<Vec<Vec<Row>>, postgres::Error> {
    let mut transaction = client.transaction()?;
    if statements.iter().any(|statement| statement.text.starts_with("CREATE")) {
        transaction.execute(SCHEMA_LOCK, &[])?;
    }
    let mut all = Vec::new();
    for statement in statements {
        let parameters: Vec<&(dyn ToSql + Sync)> =
            statement.parameters.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        let found = transaction.query(&statement.text, &parameters)?;
        all.push(found.iter().map(values).collect::<Result<_, _>>()?);
    }
    transaction.commit()?;
    Ok(all)
}

fn values(row: &postgres::Row) -> Result<Row, postgres::Error> {
    let value = |(at, column): (usize, &postgres::Column)| {
        Ok(if *column.type_() == Type::INT8 {
            row.try_get::<_, Option<i64>>(at)?.into()
        } else {
            row.try_get::<_, Option<String>>(at)?.into()
        })
    };
    row.columns().iter().enumerate().map(value).collect()
}

fn failure(error: &postgres::Error) -> JobsError {
    if error.code() == Some(&SqlState::UNIQUE_VIOLATION) {
        return JobsError::Conflict;
    }
    // The error alone says little more than "db error".
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    JobsError::Database(format!("{error}{cause}"))
}

impl Database for Postgres {
    fn dialect(&self) -> &'static Dialect {
        &DIALECT
    }

    fn run(&self, statements: Vec<Statement>) -> Answer {
        let stopped = || JobsError::Database("its thread has ended".to_owned());
        let (answer, answered) = mpsc::channel();
        self.tasks.send((statements, answer)).map_err(|_| stopped())?;
        answered.recv().map_err(|_| stopped())?
    }
}

impl ToSql for Value {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(number) => number.to_sql_checked(kind, out),
            Self::Text(text) => text.to_sql_checked(kind, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}
