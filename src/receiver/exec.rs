//! Statements over a connection, one at a time, with every wait in the caller's hands.
//!
//! [`Wait`] is how a link waits: the receiver thread's way can be stopped, a backend's way looks for a query cancel.
//! A statement that is left before its end, by an error or by unwinding, is cancelled on the server, so that no slot is
//! left half-made and no query runs for nobody.

use std::ffi::CString;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use super::error::LinkError;
use super::libpq::{Answer, AnswerKind, Canceller, Connection, Form, Want, with_signals_blocked};

/// How to wait for a socket.
pub(super) trait Wait {
    /// Returns when the socket may be ready or the time has come, and then or before with an error if whoever waits
    /// should give up. May unwind.
    fn wait(&mut self, socket: RawFd, want: Want, until: Option<Instant>) -> Result<(), LinkError>;
}

/// A time by which something has to be done.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    pub until: Instant,
    pub limit: Duration,
}

impl Deadline {
    pub fn after(limit: Duration) -> Deadline {
        let now = Instant::now();
        // a limit that the clock can't hold is as good as a year
        Deadline { until: now.checked_add(limit).unwrap_or(now + Duration::from_secs(365 * 86_400)), limit }
    }

    /// The earlier of the two.
    pub fn or(self, other: Deadline) -> Deadline {
        if other.until < self.until { other } else { self }
    }

    pub fn check(self, doing: &'static str) -> Result<(), LinkError> {
        if Instant::now() < self.until { Ok(()) } else { Err(LinkError::Timeout { doing, limit: self.limit }) }
    }
}

/// A row as text; `None` is null.
pub(super) type Row = Vec<Option<String>>;

/// A row as the bytes that came; `None` is null.
pub(super) type RawRow = Vec<Option<Vec<u8>>>;

/// More than any answer that a link asks for; a server that sends more is not a provider.
const ANSWER_LIMIT_BYTES: usize = 64 << 20;

/// How soon an encrypted connection is read again though its socket is not readable.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How long the end of a statement waits for its cancel request to be on its way.
const CANCEL_PATIENCE: Duration = Duration::from_secs(1);

/// One connection and its way to wait.
pub(super) struct Session<'a> {
    pub connection: Connection,
    pub wait: &'a mut dyn Wait,
}

/// What a statement ended with.
pub(super) enum Outcome {
    Rows(Vec<Row>),
    /// The connection is a copy stream now.
    CopyBoth,
}

/// How a statement ended.
enum Ended {
    Done,
    CopyBoth,
}

impl Session<'_> {
    /// Runs statements in the simple protocol and gives the rows of all of them.
    pub fn rows(&mut self, sql: &str, doing: &'static str, deadline: Option<Deadline>) -> Result<Vec<Row>, LinkError> {
        match self.run(sql, None, doing, deadline)? {
            Outcome::Rows(rows) => Ok(rows),
            Outcome::CopyBoth => Err(LinkError::protocol("a copy stream instead of rows")),
        }
    }

    /// Runs a statement: with parameters in the extended protocol, without any in the simple one.
    pub fn run(
        &mut self,
        sql: &str,
        params: Option<&[Option<&str>]>,
        doing: &'static str,
        deadline: Option<Deadline>,
    ) -> Result<Outcome, LinkError> {
        let text = c_string(sql)?;
        let sent = match params {
            None => self.connection.send_query(&text),
            Some(params) => self.connection.send_query_params(&text, &c_params(params)?, Form::Text),
        };
        let mut rows: Vec<Row> = Vec::new();
        let mut held_bytes = 0;
        let mut take = |answer: &Answer| {
            let more = answer.rows().ok_or_else(|| LinkError::protocol("text that is not valid UTF-8"))?;
            hold(&mut held_bytes, more.iter().flatten().flatten().map(String::len).sum(), ANSWER_LIMIT_BYTES)?;
            rows.extend(more);
            Ok(())
        };
        Ok(match self.execute(sent, &mut take, doing, deadline)? {
            Ended::Done => Outcome::Rows(rows),
            Ended::CopyBoth => Outcome::CopyBoth,
        })
    }

    /// Runs a statement in the extended protocol and gives its rows as bytes, in the types' binary forms, up to so many
    /// bytes.
    pub fn raw_rows(
        &mut self,
        sql: &str,
        params: &[Option<&str>],
        limit_bytes: usize,
        doing: &'static str,
        deadline: Option<Deadline>,
    ) -> Result<Vec<RawRow>, LinkError> {
        let sent = self.connection.send_query_params(&c_string(sql)?, &c_params(params)?, Form::Binary);
        let mut rows: Vec<RawRow> = Vec::new();
        let mut held_bytes = 0;
        let mut take = |answer: &Answer| {
            let more = answer.raw_rows();
            hold(&mut held_bytes, more.iter().flatten().flatten().map(Vec::len).sum(), limit_bytes)?;
            rows.extend(more);
            Ok(())
        };
        match self.execute(sent, &mut take, doing, deadline)? {
            Ended::Done => Ok(rows),
            Ended::CopyBoth => Err(LinkError::protocol("a copy stream instead of rows")),
        }
    }

    /// Goes on with a statement that was sent, to its end.
    fn execute(
        &mut self,
        sent: bool,
        take: &mut dyn FnMut(&Answer) -> Result<(), LinkError>,
        doing: &'static str,
        deadline: Option<Deadline>,
    ) -> Result<Ended, LinkError> {
        if !sent {
            return Err(LinkError::Closed);
        }
        let mut running = Running { session: self, done: false };
        let outcome = running.session.finish(take, doing, deadline);
        // an error that the server reported, or a lost connection, has ended the statement as well
        running.done = matches!(outcome, Ok(_) | Err(LinkError::Remote(_) | LinkError::Closed));
        outcome
    }

    fn finish(
        &mut self,
        take: &mut dyn FnMut(&Answer) -> Result<(), LinkError>,
        doing: &'static str,
        deadline: Option<Deadline>,
    ) -> Result<Ended, LinkError> {
        self.send_all(doing, deadline)?;
        let mut error = None;
        loop {
            while self.connection.is_busy() {
                self.pause(Want::Read, doing, deadline)?;
                if !self.connection.consume_input() {
                    break;
                }
            }
            let Some(answer) = self.connection.answer() else { break };
            match answer.kind() {
                AnswerKind::Rows => take(&answer)?,
                AnswerKind::CopyBoth => return Ok(Ended::CopyBoth),
                AnswerKind::Done => {}
                AnswerKind::Error => {
                    let reported = answer.remote_error().map(|report| LinkError::Remote(Box::new(report)));
                    error.get_or_insert(reported.unwrap_or(LinkError::Closed));
                    if self.connection.is_bad() {
                        break;
                    }
                }
                AnswerKind::Other => return Err(LinkError::protocol("an answer of an unknown kind")),
            }
        }
        error.map_or(Ok(Ended::Done), Err)
    }

    /// Waits until all that was queued is sent. Reads meanwhile: a server whose answers nobody takes stops reading.
    pub fn send_all(&mut self, doing: &'static str, deadline: Option<Deadline>) -> Result<(), LinkError> {
        while !self.connection.flush().ok_or(LinkError::Closed)? {
            self.pause(Want::Either, doing, deadline)?;
            if !self.connection.consume_input() {
                return Err(LinkError::Closed);
            }
        }
        Ok(())
    }

    fn pause(&mut self, want: Want, doing: &'static str, deadline: Option<Deadline>) -> Result<(), LinkError> {
        if let Some(deadline) = deadline {
            deadline.check(doing)?;
        }
        let look_again = self.connection.is_encrypted().then(|| Instant::now() + LOOK_AGAIN);
        let until = deadline.map(|deadline| deadline.until).into_iter().chain(look_again).min();
        self.wait.wait(self.connection.socket(), want, until)
    }
}

/// Cancels its statement on the server unless it is done.
struct Running<'s, 'w> {
    session: &'s mut Session<'w>,
    done: bool,
}

impl Drop for Running<'_, '_> {
    fn drop(&mut self) {
        if !self.done
            && let Some(canceller) = self.session.connection.canceller()
        {
            cancel(canceller);
        }
    }
}

/// Sends a cancel request from a thread of its own, because that connects anew and may hang as long as the network
/// likes; waits a moment for it.
fn cancel(canceller: Canceller) {
    let (done, finished) = crossbeam_channel::bounded::<()>(1);
    let thread = std::thread::Builder::new().name("meld cancel".into());
    let started = with_signals_blocked(|| {
        thread.spawn(move || {
            canceller.cancel();
            drop(done);
        })
    });
    // without a thread the server finds out by itself, when the connection is closed
    if started.is_ok() {
        let _ = finished.recv_timeout(CANCEL_PATIENCE);
    }
}

/// Counts what an answer holds.
fn hold(held_bytes: &mut usize, more: usize, limit_bytes: usize) -> Result<(), LinkError> {
    *held_bytes += more;
    if *held_bytes > limit_bytes { Err(LinkError::protocol("an answer that is too large")) } else { Ok(()) }
}

fn c_params(params: &[Option<&str>]) -> Result<Vec<Option<CString>>, LinkError> {
    params.iter().map(|param| param.map(c_string).transpose()).collect()
}

pub(super) fn c_string(text: &str) -> Result<CString, LinkError> {
    CString::new(text)
        .map_err(|_| LinkError::System { doing: "send a statement", reason: "a text has a zero byte".into() })
}
