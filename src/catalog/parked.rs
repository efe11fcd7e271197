//! Remote transactions that were set aside (`meld.parked_transaction`, `meld.parked_chunk`), the log of what failed
//! (`meld.exception_log`), and the transaction at which a subscription stands (`meld.apply_failure`).
//!
//! The apply worker runs with triggers off, so a cascade does not fire there: chunks are deleted by name.

use meld_core::ids::NodeId;
use meld_core::lsn::Lsn;
use meld_core::time::{Stamp, Timestamp};
use meld_core::wire::Begin;
use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};
use pgrx::prelude::PgSqlErrorCode;

use super::query;
use crate::log::{Failure, Result};

/// What becomes of a parked transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParkedState {
    /// To be applied by a replay.
    Parked,
    /// An operator had it passed over.
    Skipped,
}

impl ParkedState {
    fn name(self) -> &'static str {
        match self {
            ParkedState::Parked => "parked",
            ParkedState::Skipped => "skipped",
        }
    }
}

/// A remote transaction, as the tables name it.
#[derive(Clone, Debug)]
pub struct RemoteName {
    pub subscription: String,
    pub provider: NodeId,
    pub begin: Begin,
}

/// An SQLSTATE and its message.
pub type Cause<'c> = (&'c str, &'c str);

fn time(time: Timestamp) -> Option<TimestampWithTimeZone> {
    TimestampWithTimeZone::try_from(time.0).ok()
}

/// Makes the row of a transaction whose chunks follow, and gives its id.
pub fn insert(remote: &RemoteName, state: ParkedState, cause: Option<Cause<'_>>) -> Result<i64> {
    let RemoteName { subscription, provider, begin } = remote;
    let args: [DatumWithOid<'_>; 9] = [
        subscription.as_str().into(),
        i32::from(provider.0).into(),
        i32::from(begin.origin.0).into(),
        time(begin.commit_ts).into(),
        begin.end_lsn.to_string().into(),
        begin.xid.0.to_string().into(),
        state.name().into(),
        cause.map(|(sqlstate, _)| sqlstate).into(),
        cause.map(|(_, message)| message).into(),
    ];
    let ids = query::change(
        "INSERT INTO meld.parked_transaction (subscription_name, provider_node, remote_origin, remote_commit_ts, \
         remote_commit_lsn, remote_xid, state, sqlstate, error_message, changes, size_bytes) \
         VALUES ($1::text::name, $2, $3, $4, $5::pg_lsn, $6::xid, $7, $8, $9, 0, 0) RETURNING id",
        &args,
        |row| row.get(1),
    )?;
    Ok(ids.into_iter().next().unwrap_or_default())
}

pub fn add_chunk(id: i64, chunk: i32, body: &[u8]) -> Result<()> {
    let args = [id.into(), chunk.into(), body.into()];
    query::execute("INSERT INTO meld.parked_chunk (parked_id, chunk, body) VALUES ($1, $2, $3)", &args)
}

/// All chunks are there.
pub fn complete(id: i64, changes: u64, size_bytes: u64) -> Result<()> {
    let args = [id.into(), changes.cast_signed().into(), size_bytes.cast_signed().into()];
    query::execute("UPDATE meld.parked_transaction SET changes = $2, size_bytes = $3 WHERE id = $1", &args)
}

/// Size of all bodies.
pub fn total_size_bytes() -> Result<u64> {
    let sql = "SELECT coalesce(sum(size_bytes), 0)::int8 FROM meld.parked_transaction WHERE state <> 'discarded'";
    Ok(query::first(sql, &[], |row| row.get::<i64>(1))?.unwrap_or(0).cast_unsigned())
}

/// Stamps of all remote transactions that were not applied here: parked now, skipped, or discarded.
pub fn set_aside() -> Result<Vec<Stamp>> {
    let sql = "SELECT remote_origin, pg_catalog.timestamptz_send(remote_commit_ts) FROM meld.parked_transaction";
    query::rows(sql, &[], |row| {
        Ok(Stamp { node: super::node::checked_id(row.get(1)?)?, commit_ts: query::time(row, 2)? })
    })
}

/// Adds operations to the log: a JSON array of objects with the names of its columns.
pub fn log_operations(remote: &RemoteName, behaviour: &str, parked: Option<i64>, operations: &str) -> Result<()> {
    let RemoteName { subscription, begin, .. } = remote;
    let args: [DatumWithOid<'_>; 8] = [
        subscription.as_str().into(),
        i32::from(begin.origin.0).into(),
        time(begin.commit_ts).into(),
        begin.end_lsn.to_string().into(),
        begin.xid.0.to_string().into(),
        behaviour.into(),
        parked.into(),
        operations.into(),
    ];
    query::execute(
        "INSERT INTO meld.exception_log (subscription_name, remote_origin, remote_commit_ts, remote_commit_lsn, \
         remote_xid, command_counter, nspname, relname, operation, old_row, new_row, sqlstate, error_message, \
         exception_behaviour, parked_id) \
         SELECT $1::text::name, $2, $3, $4::pg_lsn, $5::xid, o.command_counter, o.nspname, o.relname, o.operation, \
                o.old_row, o.new_row, o.sqlstate, o.error_message, $6, $7 \
           FROM pg_catalog.jsonb_to_recordset($8::jsonb) o(command_counter int8, nspname name, relname name, \
                operation text, old_row jsonb, new_row jsonb, sqlstate text, error_message text) \
          ORDER BY o.command_counter",
        &args,
    )
}

/// The transaction at which a subscription stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// End of its commit record.
    pub end_lsn: Lsn,
    pub tries: i32,
    /// Which of its changes failed, from 1; `None`: the commit.
    pub failed: Option<i64>,
    pub sqlstate: String,
    pub message: String,
}

pub fn standing(subscription_id: i32) -> Result<Option<Standing>> {
    let sql = "SELECT (f.remote_commit_lsn - '0/0'::pg_lsn)::int8, f.tries, f.command_counter, f.sqlstate, \
                      f.error_message FROM meld.apply_failure f WHERE f.sub_id = $1";
    query::first(sql, &[subscription_id.into()], |row| {
        Ok(Standing {
            end_lsn: Lsn(row.get::<i64>(1)?.cast_unsigned()),
            tries: row.get(2)?,
            failed: row.optional(3)?,
            sqlstate: row.get(4)?,
            message: row.get(5)?,
        })
    })
}

/// End of the transaction that an operator wants skipped.
pub fn skip_lsn(subscription_id: i32) -> Result<Option<Lsn>> {
    let sql = "SELECT (f.skip_lsn - '0/0'::pg_lsn)::int8 FROM meld.apply_failure f WHERE f.sub_id = $1";
    let found = query::first(sql, &[subscription_id.into()], |row| row.optional::<i64>(1))?;
    Ok(found.flatten().map(|lsn| Lsn(lsn.cast_unsigned())))
}

/// Where a subscription stands from now on.
pub fn set_standing(subscription_id: i32, remote: &RemoteName, standing: &Standing) -> Result<()> {
    let args: [DatumWithOid<'_>; 7] = [
        subscription_id.into(),
        standing.end_lsn.to_string().into(),
        remote.begin.xid.0.to_string().into(),
        standing.tries.into(),
        standing.failed.into(),
        standing.sqlstate.as_str().into(),
        standing.message.as_str().into(),
    ];
    query::execute(
        "INSERT INTO meld.apply_failure (sub_id, remote_commit_lsn, remote_xid, tries, command_counter, sqlstate, \
         error_message) VALUES ($1, $2::pg_lsn, $3::xid, $4, $5, $6, $7) \
         ON CONFLICT (sub_id) DO UPDATE SET failed_at = pg_catalog.clock_timestamp(), \
         remote_commit_lsn = excluded.remote_commit_lsn, remote_xid = excluded.remote_xid, tries = excluded.tries, \
         command_counter = excluded.command_counter, sqlstate = excluded.sqlstate, \
         error_message = excluded.error_message",
        &args,
    )
}

/// It is past that.
pub fn clear_standing(subscription_id: i32) -> Result<()> {
    query::execute("DELETE FROM meld.apply_failure WHERE sub_id = $1", &[subscription_id.into()])
}

/// A transaction to be applied again.
#[derive(Clone, Debug)]
pub struct ToReplay {
    pub id: i64,
    pub provider: NodeId,
    pub origin: NodeId,
    pub stamp: Stamp,
}

/// What is parked, of one origin or of all, in the order of commits; of one provider in the order of its stream.
pub fn to_replay(origin: Option<NodeId>) -> Result<Vec<ToReplay>> {
    let sql = "SELECT p.id, p.provider_node, p.remote_origin, pg_catalog.timestamptz_send(p.remote_commit_ts) \
               FROM meld.parked_transaction p WHERE p.state = 'parked' AND ($1 IS NULL OR p.remote_origin = $1) \
               ORDER BY p.remote_commit_ts, p.remote_commit_lsn, p.id";
    query::rows(sql, &[origin.map(|node| i32::from(node.0)).into()], |row| {
        let origin = super::node::checked_id(row.get(3)?)?;
        Ok(ToReplay {
            id: row.get(1)?,
            provider: super::node::checked_id(row.get(2)?)?,
            origin,
            stamp: Stamp { commit_ts: query::time(row, 4)?, node: origin },
        })
    })
}

/// Commit timestamp of the oldest transaction that waits to be applied.
pub fn oldest() -> Result<Option<Timestamp>> {
    let sql = "SELECT pg_catalog.timestamptz_send(p.remote_commit_ts) FROM meld.parked_transaction p \
               WHERE p.state = 'parked' ORDER BY p.remote_commit_ts LIMIT 1";
    query::first(sql, &[], |row| query::time(row, 1))
}

/// A chunk of a body, from 0.
pub fn chunk(id: i64, chunk: i32) -> Result<Option<Vec<u8>>> {
    let sql = "SELECT c.body FROM meld.parked_chunk c WHERE c.parked_id = $1 AND c.chunk = $2";
    query::first(sql, &[id.into(), chunk.into()], |row| row.get(1))
}

/// It was applied. Fails if it is not parked any more: another replay, or a discard, has been faster.
pub fn remove(id: i64) -> Result<()> {
    let sql = "DELETE FROM meld.parked_transaction WHERE id = $1 AND state = 'parked' RETURNING id";
    let gone = query::change(sql, &[id.into()], |row| row.get::<i64>(1))?;
    if gone.is_empty() {
        return Err(no_longer_parked(id));
    }
    query::execute("DELETE FROM meld.parked_chunk WHERE parked_id = $1", &[id.into()])
}

pub fn no_longer_parked(id: i64) -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("no transaction is parked as {id}"))
}

/// It was tried again, and failed.
pub fn note_replay(id: i64, sqlstate: &str, message: &str) -> Result<()> {
    query::execute(
        "UPDATE meld.parked_transaction SET replays = replays + 1, replayed_at = pg_catalog.clock_timestamp(), \
         sqlstate = $2, error_message = $3 WHERE id = $1",
        &[id.into(), sqlstate.into(), message.into()],
    )
}

/// What is parked, of one origin or of all, each with its last error.
pub fn still_parked(origin: Option<NodeId>) -> Result<Vec<(i64, Option<String>)>> {
    let sql = "SELECT p.id, p.error_message FROM meld.parked_transaction p \
               WHERE p.state = 'parked' AND ($1 IS NULL OR p.remote_origin = $1) \
               ORDER BY p.remote_commit_ts, p.remote_commit_lsn, p.id";
    let args = [origin.map(|node| i32::from(node.0)).into()];
    query::change(sql, &args, |row| Ok((row.get(1)?, row.optional(2)?)))
}

/// Keeps others from replaying until the transaction ends; false if somebody does.
pub fn try_lock_replay() -> Result<bool> {
    let sql = "SELECT pg_catalog.pg_try_advisory_xact_lock('meld.parked_transaction'::regclass::oid::int8)";
    Ok(query::first(sql, &[], |row| row.get(1))?.unwrap_or(false))
}

/// Its changes are given up; that it was not applied is remembered. False if there is none of that number.
pub fn discard(id: i64) -> Result<bool> {
    let sql = "UPDATE meld.parked_transaction SET state = 'discarded', size_bytes = 0 \
               WHERE id = $1 AND state <> 'discarded' RETURNING id";
    let found = !query::change(sql, &[id.into()], |row| row.get::<i64>(1))?.is_empty();
    query::execute("DELETE FROM meld.parked_chunk WHERE parked_id = $1", &[id.into()])?;
    Ok(found)
}

/// The transaction that ends there is to be skipped when it comes. False if the subscription does not stand at it.
pub fn set_skip_lsn(subscription_id: i32, end_lsn: Lsn) -> Result<bool> {
    let sql = "UPDATE meld.apply_failure SET skip_lsn = $2::pg_lsn WHERE sub_id = $1 AND remote_commit_lsn = $2::pg_lsn \
               RETURNING sub_id";
    let args = [subscription_id.into(), end_lsn.to_string().into()];
    Ok(!query::change(sql, &args, |row| row.get::<i32>(1))?.is_empty())
}
