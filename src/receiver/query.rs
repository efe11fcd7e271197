//! One statement to a peer, for a backend: in its main thread, interruptible, and with a deadline.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use super::LinkError;
use super::connect::{Target, connect};
use super::exec::{Deadline, Outcome, Wait};
use super::libpq::{Want, poll};

/// The longest time between two looks for an interrupt.
const SLICE: Duration = Duration::from_millis(100);

/// Unless the connection string has another, or the deadline is nearer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects, runs one statement with parameters in text form, and gives its rows as text in UTF-8.
///
/// `deadline` bounds all of it. `interrupted` is called at least every 100 ms, except while a host name is resolved. It
/// may unwind: the statement is then cancelled on the peer, which may take a second, and the connection closed.
pub fn query(
    dsn: &str,
    application_name: &str,
    sql: &str,
    params: &[Option<&str>],
    deadline: Duration,
    interrupted: &mut dyn FnMut(),
) -> Result<Vec<Vec<Option<String>>>, LinkError> {
    let deadline = Deadline::after(deadline);
    let target = Target { dsn, application_name, replication: false, connect_timeout: CONNECT_TIMEOUT };
    let mut wait = Backend { interrupted };
    let mut session = connect(&target, &mut wait, Some(deadline))?;
    match session.run(sql, Some(params), "waiting for the answer of the server", Some(deadline))? {
        Outcome::Rows(rows) => Ok(rows),
        Outcome::CopyBoth => Err(LinkError::protocol("a copy stream instead of rows")),
    }
}

/// A backend's way to wait.
pub(super) struct Backend<'a> {
    pub interrupted: &'a mut dyn FnMut(),
}

impl Wait for Backend<'_> {
    fn wait(&mut self, socket: RawFd, want: Want, until: Option<Instant>) -> Result<(), LinkError> {
        loop {
            (self.interrupted)();
            let left = until.map_or(SLICE, |until| until.saturating_duration_since(Instant::now()));
            let [ready] = poll([(socket, want)], Some(left.min(SLICE)));
            if ready || until.is_some_and(|until| until <= Instant::now()) {
                return Ok(());
            }
        }
    }
}
