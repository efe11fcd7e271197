//! One node of a cluster: a server with the database that takes part, and SQL on it.
//!
//! The short helpers panic with the statement and the error, at the line of the scenario that called them; what may
//! fail has a `try_` form, and [`Node::error`] is for what must fail. A session is kept open and made anew after a crash.

use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError};

use postgres::types::{FromSqlOwned, ToSql};
use postgres::{Client, Row};

use crate::server::Server;

/// Database that takes part on each server.
pub const DATABASE: &str = "app";
/// Stands in every connection string; must never show up in a log.
pub const SECRET: &str = "harness-secret-0815";

pub struct Node {
    /// Place in the cluster, from 1; also its node id in a mesh.
    pub place: usize,
    pub name: String,
    pub server: Server,
    session: Mutex<Option<Client>>,
    expected: Mutex<Vec<String>>,
}

/// An error as the server reported it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SqlError {
    pub sqlstate: String,
    pub message: String,
    pub detail: String,
    pub hint: String,
}

impl Node {
    pub fn new(place: usize, server: Server) -> Node {
        Node { place, name: format!("n{place}"), server, session: Mutex::default(), expected: Mutex::default() }
    }

    pub fn id(&self) -> i32 {
        self.place as i32
    }

    /// Connection string by which other nodes reach this one.
    pub fn dsn(&self) -> String {
        dsn_to_port(self.server.port())
    }

    /// A session of the caller's own, for transactions that stay open.
    #[track_caller]
    pub fn client(&self) -> Client {
        match self.server.connect(DATABASE) {
            Ok(client) => client,
            Err(error) => panic!("{}: could not connect: {error:?}\n{}", self.name, self.server.log_tail(20)),
        }
    }

    /// Runs statements, separated by semicolons, as one implicit transaction.
    #[track_caller]
    pub fn batch(&self, sql: &str) {
        self.checked(sql, |client| client.batch_execute(sql));
    }

    /// Runs one statement; the number of rows it touched.
    #[track_caller]
    pub fn execute(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> u64 {
        self.checked(sql, |client| client.execute(sql, params))
    }

    #[track_caller]
    pub fn rows(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        self.checked(sql, |client| client.query(sql, params))
    }

    /// The one value of a query that gives one row.
    #[track_caller]
    pub fn value<T: FromSqlOwned>(&self, sql: &str) -> T {
        self.checked(sql, |client| client.query_one(sql, &[])).get(0)
    }

    /// The values of a query with one column.
    #[track_caller]
    pub fn values<T: FromSqlOwned>(&self, sql: &str) -> Vec<T> {
        self.rows(sql, &[]).iter().map(|row| row.get(0)).collect()
    }

    /// The value, or nothing if the server cannot be asked or the query gives no row: for polling over crashes.
    pub fn try_value<T: FromSqlOwned>(&self, sql: &str) -> Option<T> {
        let row = self.with(|client| client.query_opt(sql, &[])).ok()??;
        row.try_get(0).ok()
    }

    pub fn try_batch(&self, sql: &str) -> Result<(), postgres::Error> {
        self.with(|client| client.batch_execute(sql))
    }

    /// Runs what must fail.
    #[track_caller]
    pub fn error(&self, sql: &str) -> SqlError {
        match self.try_batch(sql) {
            Ok(()) => panic!("{}: this should have failed: {sql}", self.name),
            Err(error) => SqlError::of(&error),
        }
    }

    /// How far the clock of this node is ahead from now on; negative: behind. See [`crate::Plan::own_clocks`].
    #[track_caller]
    pub fn set_clock(&self, ahead_ms: i64) {
        if let Err(error) = self.server.set_clock(ahead_ms) {
            panic!("{}: {error:?}", self.name);
        }
    }

    /// Gives up the kept session, which a crash has broken.
    pub fn forget_session(&self) {
        *self.session() = None;
    }

    /// Announces that lines with this text may be in the server's log; `*` in it stands for anything.
    pub fn expect_log(&self, text: &str) {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    }

    pub fn expected(&self) -> Vec<String> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[track_caller]
    fn checked<T>(&self, sql: &str, run: impl FnOnce(&mut Client) -> Result<T, postgres::Error>) -> T {
        match self.with(run) {
            Ok(value) => value,
            Err(error) => panic!("{}: {error:?}\nin: {sql}", self.name),
        }
    }

    fn with<T>(&self, run: impl FnOnce(&mut Client) -> Result<T, postgres::Error>) -> Result<T, postgres::Error> {
        let mut session = self.session();
        let mut client = match session.take() {
            Some(client) if !client.is_closed() => client,
            _ => self.server.connect(DATABASE)?,
        };
        let outcome = run(&mut client);
        *session = Some(client);
        outcome
    }

    fn session(&self) -> MutexGuard<'_, Option<Client>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SqlError {
    #[track_caller]
    pub fn of(error: &postgres::Error) -> SqlError {
        let Some(db) = error.as_db_error() else { panic!("not an error of the server: {error:?}") };
        SqlError {
            sqlstate: db.code().code().to_owned(),
            message: db.message().to_owned(),
            detail: db.detail().unwrap_or_default().to_owned(),
            hint: db.hint().unwrap_or_default().to_owned(),
        }
    }

    /// Everything the user reads.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}", self.message, self.detail, self.hint)
    }
}

/// Connection string to whatever listens on a port of this machine.
pub fn dsn_to_port(port: u16) -> String {
    format!(
        "host=127.0.0.1 port={port} dbname={DATABASE} user={} password={SECRET} sslmode=disable gssencmode=disable",
        crate::template::SUPERUSER
    )
}

/// Quotes a text as an SQL literal.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
