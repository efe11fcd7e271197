//! Messages of meld in the WAL, and positions in it.
//!
//! Triggers, workers and SQL functions write them; the output plugin in a walsender reads them. One that is part of a
//! transaction is decoded with it, at its place between the transaction's changes, and vanishes with it. All are sealed with
//! the node's secret, since every user may write messages into WAL.

use std::ffi::c_char;
use std::sync::OnceLock;

use meld_core::horizon::Without;
use meld_core::ids::Xid;
use meld_core::lsn::Lsn;
use meld_core::time::Timestamp;
use meld_core::wire::{Contribution, LogicalMessage, RemovalNote, Version, Void};
use pgrx::pg_sys;
use pgrx::prelude::PgSqlErrorCode;

use super::origin::WithoutOrigin;
use super::secret;
use crate::log::{Failure, Result};

/// Prefix of every message that meld writes.
pub const PREFIX: &str = "meld";

const C_PREFIX: &std::ffi::CStr = c"meld";

// Not among pgrx's bindings: replication/message.h
#[allow(improper_ctypes)]
unsafe extern "C-unwind" {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    fn LogLogicalMessage(prefix: *const c_char, message: *const c_char, size: usize, transactional: bool) -> u64;
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    fn LogLogicalMessage(
        prefix: *const c_char,
        message: *const c_char,
        size: usize,
        transactional: bool,
        flush: bool,
    ) -> u64;
}

/// Tells which version the next UPDATE or DELETE of a row replaces.
pub fn emit_version(version: Version) -> Result<()> {
    emit_in_transaction(LogicalMessage::Version(version))
}

/// Tells all nodes that a version of a row is gone. If the row is here, this goes before its DELETE.
pub fn emit_removal(note: RemovalNote) -> Result<()> {
    emit_in_transaction(LogicalMessage::Removal(note))
}

/// Tells all nodes that a residue does not count any more.
pub fn emit_void(void: Void) -> Result<()> {
    emit_in_transaction(LogicalMessage::Void(void))
}

/// Adds to the counters of a key on all nodes, beside what the changes of its row do.
pub fn emit_contribution(contribution: Contribution) -> Result<()> {
    emit_in_transaction(LogicalMessage::Contribution(contribution))
}

/// Marks a position for `meld.wait_for_sync_event`.
pub fn emit_sync_event(lsn: Lsn) -> Result<Lsn> {
    emit_alone(LogicalMessage::SyncEvent { lsn })
}

/// Called with each promise before it is written; if it fails nothing is.
static BEFORE_PROMISE: OnceLock<fn(Timestamp) -> Result<()>> = OnceLock::new();

/// Sets what is called before a promise is announced. Once, while the library is loaded.
pub fn before_promise(prepare: fn(Timestamp) -> Result<()>) {
    let _ = BEFORE_PROMISE.set(prepare);
}

/// Announces a promise and horizons, also from a process that works under a replication origin, whatever becomes of its
/// transaction.
pub fn emit_heartbeat(promise: Timestamp, horizon: Timestamp, beyond: Timestamp, without: Without) -> Result<Lsn> {
    if let Some(prepare) = BEFORE_PROMISE.get() {
        prepare(promise)?;
    }
    let _without_origin = WithoutOrigin::begin();
    emit_alone(LogicalMessage::Heartbeat { promise, horizon, beyond, without: without.word() })
}

/// Writes a message that stands for itself, whether the transaction commits or not, and gives the end of its record.
/// It is on disk when this returns, so that senders send it.
fn emit_alone(message: LogicalMessage) -> Result<Lsn> {
    let end = call_log_logical_message(&seal(None, message)?, false);
    // SAFETY: a position that was just inserted
    unsafe { pg_sys::XLogFlush(end) };
    Ok(Lsn(end))
}

/// Writes a message that is part of the open transaction, at this point of it.
fn emit_in_transaction(message: LogicalMessage) -> Result<()> {
    // SAFETY: inside a transaction; it gets its number here if it has none, as it would when the message is written
    let transaction = Xid(unsafe { pg_sys::GetTopTransactionId() }.into_inner());
    call_log_logical_message(&seal(Some(transaction), message)?, true);
    Ok(())
}

fn seal(transaction: Option<Xid>, message: LogicalMessage) -> Result<Vec<u8>> {
    secret::with(|secret| secret.seal(transaction, message))?
        .map_err(|error| Failure::new(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, error.to_string()))
}

fn call_log_logical_message(body: &[u8], transactional: bool) -> u64 {
    let (prefix, body, size) = (C_PREFIX.as_ptr(), body.as_ptr().cast::<c_char>(), body.len());
    let call = || {
        // SAFETY: the server copies prefix and body into the WAL; it raises when the server is in recovery
        unsafe {
            #[cfg(any(feature = "pg15", feature = "pg16"))]
            let end = LogLogicalMessage(prefix, body, size, transactional);
            #[cfg(any(feature = "pg17", feature = "pg18"))]
            let end = LogLogicalMessage(prefix, body, size, transactional, !transactional);
            end
        }
    };
    // SAFETY: one C call, nothing with a destructor inside; errors become panics that pgrx carries
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(call) }
}

/// Where the next WAL record will go.
pub fn insert_position() -> Lsn {
    // SAFETY: reads shared memory under a spinlock
    Lsn(unsafe { pg_sys::GetXLogInsertRecPtr() })
}

/// Waits until all that was written to the WAL by now is on disk, commits included for which nobody has waited.
pub fn flush_all() {
    // page headers of a segment's first page, and of all others
    const HEADERS: (u64, u64) = (40, 24);
    let Lsn(next) = insert_position();
    // SAFETY: fixed when the server starts
    let segment_bytes = unsafe { pg_sys::wal_segment_size } as u64;
    // behind a page header there is nothing yet that could be flushed
    let header = if next % segment_bytes < u64::from(pg_sys::XLOG_BLCKSZ) { HEADERS.0 } else { HEADERS.1 };
    let end = if next % u64::from(pg_sys::XLOG_BLCKSZ) == header { next - header } else { next };
    // SAFETY: an end of what was inserted; raises PANIC if the disk fails
    unsafe { pg_sys::XLogFlush(end) }
}
