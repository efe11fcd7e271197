//! A connection on which a peer is asked again and again: opened at the first question, kept until something fails.
//!
//! For an apply worker, in its main thread, beside the stream of its [`super::Link`]. Answers come as bytes, in binary
//! form, so that values in the encoding of the peer's database pass as they are. A connection that was idle may have been
//! closed by the peer meanwhile, so one that breaks at a question is opened anew once; what fails on a new one is told.

use std::time::Duration;

use meld_core::ids::NodeIdentity;

use super::LinkError;
use super::connect::{Target, connect};
use super::exec::{Deadline, RawRow, Session};
use super::libpq::Connection;
use super::query::Backend;
use super::thread::{SESSION_SETTINGS, check_provider, identity};

/// Unless the connection string has another, or the deadline is nearer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

const DOING: &str = "waiting for the answer of the provider";

/// What a peer is asked on. Holds a connection string, so it can't be printed.
pub struct Inquiry {
    dsn: String,
    application_name: String,
    expected: NodeIdentity,
    connection: Option<Connection>,
}

impl Inquiry {
    /// Connects at the first question. `expected` is who has to answer.
    pub fn new(dsn: &str, application_name: &str, expected: &NodeIdentity) -> Inquiry {
        Inquiry {
            dsn: dsn.to_owned(),
            application_name: application_name.to_owned(),
            expected: expected.clone(),
            connection: None,
        }
    }

    /// Runs one statement with parameters in text form, and gives its rows, at most so many bytes.
    ///
    /// `limit` bounds all of it, connecting included. `interrupted` is called at least every 100 ms, except while a host
    /// name is resolved. It may unwind: the statement is then cancelled on the peer and the connection closed.
    pub fn ask(
        &mut self,
        sql: &str,
        params: &[Option<&str>],
        limit_bytes: usize,
        limit: Duration,
        interrupted: &mut dyn FnMut(),
    ) -> Result<Vec<RawRow>, LinkError> {
        let deadline = Deadline::after(limit);
        let mut wait = Backend { interrupted };
        // out of its place, so that it is gone when this unwinds or fails
        if let Some(connection) = self.connection.take() {
            let mut session = Session { connection, wait: &mut wait };
            let answer = session.raw_rows(sql, params, limit_bytes, DOING, Some(deadline));
            if !session.connection.is_bad() {
                if matches!(answer, Ok(_) | Err(LinkError::Remote(_))) {
                    self.connection = Some(session.connection);
                }
                return answer;
            }
        }
        let target = Target {
            dsn: &self.dsn,
            application_name: &self.application_name,
            replication: false,
            connect_timeout: CONNECT_TIMEOUT,
        };
        let mut session = connect(&target, &mut wait, Some(deadline))?;
        session.rows(SESSION_SETTINGS, "preparing the session", Some(deadline))?;
        let (found, _) = identity(&mut session, deadline)?;
        check_provider(&self.expected, &found)?;
        let answer = session.raw_rows(sql, params, limit_bytes, DOING, Some(deadline));
        if matches!(answer, Ok(_) | Err(LinkError::Remote(_))) && !session.connection.is_bad() {
            self.connection = Some(session.connection);
        }
        answer
    }
}
