//! The thread from connecting to the start of the stream. What it does in which state stands in the room's header.

use std::convert::Infallible;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use meld_core::identity::check_distinct;
use meld_core::ids::{NodeId, NodeIdentity};
use meld_core::lsn::Lsn;

use super::connect::{Target, connect, server_encoding};
use super::exec::{Deadline, Outcome, Row, Session, Wait};
use super::libpq::{Want, poll};
use super::link::Control;
use super::queue::Sender;
use super::stream::Stream;
use super::{Event, LinkError, LinkOptions, SlotPlan};

/// Times that are no settings.
#[derive(Clone, Copy)]
pub(super) struct Tuning {
    /// How long a provider may be silent, though asked, before the link is given up. Long, because a provider that
    /// skips through a large transaction may not look at its connection; that the peer's machine or the network is
    /// gone, the kernel tells earlier.
    pub silence_limit: Duration,
    /// Between the first questions for the provider's time, if that is less than between two reports.
    pub question_pause: Duration,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning { silence_limit: Duration::from_secs(300), question_pause: Duration::from_secs(1) }
    }
}

/// Makes the session's answers independent of how the provider is configured: names in full, values in the one form
/// that every server reads, no statement stopped by a time-out that was meant for applications.
pub(super) const SESSION_SETTINGS: &str = "SELECT pg_catalog.set_config('search_path', '', false); \
     SET datestyle TO 'ISO'; SET intervalstyle TO 'postgres'; SET extra_float_digits TO 3; \
     SET statement_timeout TO 0; SET lock_timeout TO 0";

const IDENTITY: &str = "SELECT node_id, node_name, system_identifier, database, snowflake_node, server_version \
     FROM meld.identity()";

const SENDER_TIMEOUT: &str = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'";

/// The whole life of a link; gives what ended it.
pub(super) fn run(options: &LinkOptions, tuning: Tuning, control: &Control, events: &mut Sender) -> LinkError {
    match run_inner(options, tuning, control, events) {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

fn run_inner(
    options: &LinkOptions,
    tuning: Tuning,
    control: &Control,
    events: &mut Sender,
) -> Result<Infallible, LinkError> {
    let mut wait = Stoppable { control };
    let target = Target {
        dsn: &options.dsn,
        application_name: &options.application_name,
        replication: true,
        connect_timeout: options.connect_timeout,
    };
    let mut session = connect(&target, &mut wait, None)?;
    let status_interval = prepare(&mut session, options)?;
    let (provider, server_version) = identity(&mut session, Deadline::after(options.connect_timeout))?;
    check(&provider, options)?;
    be_admitted(&mut session, options)?;
    events.event(Event::Connected { provider, server_version });
    let start = start_clause(&mut session, options)?;
    let from = match options.slot {
        SlotPlan::Existing { from } => from,
        SlotPlan::Create => {
            let consistent = create_slot(&mut session, options)?;
            events.event(Event::SlotCreated { consistent });
            consistent
        }
    };
    start_replication(&mut session, options, from, &start)?;
    Stream::new(session.connection, control, events, status_interval, tuning).run()
}

/// Settings, and how often positions have to be sent, so that several are due within the provider's time-out.
fn prepare(session: &mut Session<'_>, options: &LinkOptions) -> Result<Duration, LinkError> {
    let deadline = Some(Deadline::after(options.connect_timeout));
    let doing = "preparing the replication session";
    session.rows(SESSION_SETTINGS, doing, deadline)?;
    let rows = session.rows(SENDER_TIMEOUT, doing, deadline)?;
    let timeout_ms: u64 = rows.first().and_then(|row| row.first()?.as_ref()?.parse().ok()).unwrap_or(0);
    let often = Duration::from_millis(timeout_ms / 4);
    Ok(if often.is_zero() { options.status_interval } else { options.status_interval.min(often) })
}

/// Asks the provider who it is, and of what version its server.
pub(super) fn identity(session: &mut Session<'_>, deadline: Deadline) -> Result<(NodeIdentity, u32), LinkError> {
    let rows = session.rows(IDENTITY, "asking the provider who it is", Some(deadline))?;
    rows.first()
        .filter(|_| rows.len() == 1)
        .and_then(parse_identity)
        .ok_or_else(|| LinkError::protocol("meld.identity() did not give one node"))
}

fn parse_identity(row: &Row) -> Option<(NodeIdentity, u32)> {
    let [id, name, system_identifier, database, snowflake_node, server_version] = row.as_slice() else { return None };
    let identity = NodeIdentity {
        id: NodeId::checked(id.as_ref()?.parse().ok()?)?,
        name: name.clone()?,
        // the server has no unsigned type and shows the same 64 bits as a signed number
        system_identifier: system_identifier.as_ref()?.parse::<i64>().ok()?.cast_unsigned(),
        database: database.clone()?,
        snowflake_node: snowflake_node.as_ref()?.parse().ok()?,
    };
    Some((identity, server_version.as_ref()?.parse().ok()?))
}

fn check(provider: &NodeIdentity, options: &LinkOptions) -> Result<(), LinkError> {
    check_distinct(&options.start.node, provider)?;
    options.expected_provider.as_ref().map_or(Ok(()), |expected| check_provider(expected, provider))
}

/// Lets the provider look whether this is the server that its own connection strings of this node lead to.
fn be_admitted(session: &mut Session<'_>, options: &LinkOptions) -> Result<(), LinkError> {
    if options.server_run == 0 {
        return Ok(());
    }
    let node = &options.start.node;
    let name = node.name.replace('\'', "''");
    let ask = format!("SELECT meld.admit({}, '{name}', {})", node.id, options.server_run);
    // it connects to this node
    let deadline = Deadline::after(options.connect_timeout + Duration::from_secs(10));
    session.rows(&ask, "waiting to be admitted by the provider", Some(deadline)).map(drop)
}

pub(super) fn check_provider(expected: &NodeIdentity, found: &NodeIdentity) -> Result<(), LinkError> {
    if is_same_node(expected, found) {
        return Ok(());
    }
    Err(LinkError::WrongProvider { expected: Box::new(expected.clone()), found: Box::new(found.clone()) })
}

/// The snowflake number is a setting and may change.
fn is_same_node(a: &NodeIdentity, b: &NodeIdentity) -> bool {
    (a.id, &a.name, a.system_identifier, &a.database) == (b.id, &b.name, b.system_identifier, &b.database)
}

/// Drops a slot of that name, if there is one and it is ours, and makes it anew. The wait for the provider's running
/// transactions has no limit, but can be stopped.
fn create_slot(session: &mut Session<'_>, options: &LinkOptions) -> Result<Lsn, LinkError> {
    let name = &options.slot_name;
    let look = format!(
        "SELECT plugin = 'meld' AND database = pg_catalog.current_database() \
         FROM pg_catalog.pg_replication_slots WHERE slot_name = '{name}'"
    );
    let doing = "replacing the replication slot";
    let found = session.rows(&look, doing, Some(Deadline::after(options.connect_timeout)))?;
    if let Some(row) = found.first() {
        if row.first() != Some(&Some("t".to_owned())) {
            return Err(LinkError::protocol(format!("its replication slot \"{name}\" was not made by meld")));
        }
        let drop = format!("DROP_REPLICATION_SLOT \"{name}\"");
        session.rows(&drop, doing, Some(Deadline::after(options.connect_timeout)))?;
    }
    let create = format!("CREATE_REPLICATION_SLOT \"{name}\" LOGICAL \"meld\" (SNAPSHOT 'nothing')");
    let rows = session.rows(&create, "creating the replication slot", None)?;
    rows.first()
        .and_then(|row| row.get(1)?.as_ref()?.parse().ok())
        .ok_or_else(|| LinkError::protocol("the new replication slot has no position"))
}

/// Sets the session to the provider's own encoding, in which the texts of the stream come as they stand in its WAL, and
/// gives the start options, which have to be told in that encoding.
fn start_clause(session: &mut Session<'_>, options: &LinkOptions) -> Result<String, LinkError> {
    let clause = options.start.to_clause();
    let encoding = server_encoding(&session.connection)
        .filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
        .ok_or_else(|| LinkError::protocol("the encoding of the database is not known"))?;
    if encoding != "UTF8" && !clause.is_ascii() {
        return Err(LinkError::System {
            doing: "start the replication stream",
            reason: format!("names beyond ASCII can't be told to a provider whose encoding is {encoding}"),
        });
    }
    let deadline = Some(Deadline::after(options.connect_timeout));
    session.rows(&format!("SET client_encoding TO '{encoding}'"), "preparing the replication session", deadline)?;
    Ok(clause)
}

/// Turns the session into the stream.
fn start_replication(
    session: &mut Session<'_>,
    options: &LinkOptions,
    from: Lsn,
    clause: &str,
) -> Result<(), LinkError> {
    let start = format!("START_REPLICATION SLOT \"{}\" LOGICAL {from} {clause}", options.slot_name);
    // the server may have to read back a part of its WAL first
    let deadline = Deadline::after(options.connect_timeout.max(Duration::from_secs(60)));
    match session.run(&start, None, "starting the replication stream", Some(deadline))? {
        Outcome::CopyBoth => Ok(()),
        Outcome::Rows(_) => Err(LinkError::protocol("no replication stream began")),
    }
}

/// The thread's way to wait: until the socket is ready, or the owner wants it to stop.
struct Stoppable<'a> {
    control: &'a Control,
}

impl Wait for Stoppable<'_> {
    fn wait(&mut self, socket: RawFd, want: Want, until: Option<Instant>) -> Result<(), LinkError> {
        loop {
            let limit = until.map(|until| until.saturating_duration_since(Instant::now()));
            let [ready, woken] = poll([(socket, want), (self.control.wake.fd(), Want::Read)], limit);
            if woken {
                self.control.wake.clear();
            }
            if self.control.should_stop() {
                return Err(LinkError::Stopped);
            }
            if ready || until.is_some_and(|until| until <= Instant::now()) {
                return Ok(());
            }
        }
    }
}
