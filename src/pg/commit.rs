//! Commits of this process, as the server tells of them: before one, and after one.
//!
//! The callbacks stay for the life of the process. Before a commit the statement may still be cancelled, and an error
//! aborts the transaction; deferred triggers have fired by then. `statement_timeout` is off already. After a commit
//! nothing may fail.
//!
//! COMMIT PREPARED has no such callback: the server calls it for the transaction around the command, once the prepared
//! one is committed. A hook in front of the command takes its place, and the mark of [`prepared`] stands around it.

use std::ptr::null_mut;
use std::sync::OnceLock;

use meld_core::time::Timestamp;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::row_trigger::is_replaying;
use super::utility::{self, Statement, Watcher};
use super::{clock, prepared};

/// Who wants to know of commits.
#[derive(Clone, Copy)]
pub struct Watch {
    /// Before a transaction that wrote something, of a session that replays nobody's, gets its timestamp.
    pub before: fn(),
    /// After it; and after one that was replayed.
    pub after: fn(Committed),
}

/// A transaction that was committed by this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    /// Its commit timestamp: at most that for a prepared transaction.
    pub commit_ts: Timestamp,
    /// What the clock read when it was committed.
    pub clock: Timestamp,
}

static WATCH: OnceLock<Watch> = OnceLock::new();

/// Installs the callbacks. Once, while the library is loaded.
pub fn watch(watch: Watch) {
    if WATCH.set(watch).is_ok() {
        // SAFETY: the server keeps the function for the life of the process
        unsafe { pg_sys::RegisterXactCallback(Some(on_event), null_mut()) };
        utility::watch(Watcher { before: before_prepared, after: after_prepared });
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_event(event: pg_sys::XactEvent::Type, _argument: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PRE_COMMIT};
    let Some(watch) = WATCH.get() else { return };
    match event {
        XACT_EVENT_PRE_COMMIT if !is_replaying() && wrote() => (watch.before)(),
        XACT_EVENT_COMMIT if wrote() => (watch.after)(committed()),
        XACT_EVENT_ABORT => prepared::end(),
        _ => {}
    }
}

/// Whether the transaction has an id: others leave nothing behind that a timestamp would matter for.
fn wrote() -> bool {
    // SAFETY: reads state of this process
    unsafe { pg_sys::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId }
}

/// The commit that has just been made.
fn committed() -> Committed {
    // SAFETY: state of this process, which the commit has just set
    let clock = Timestamp(unsafe { pg_sys::GetCurrentTransactionStopTimestamp() });
    Committed { commit_ts: replayed_timestamp().unwrap_or(clock), clock }
}

fn replayed_timestamp() -> Option<Timestamp> {
    // SAFETY: reads a global of this process
    is_replaying().then_some(Timestamp(unsafe { pg_sys::replorigin_session_origin_timestamp }))
}

fn before_prepared(statement: Statement<'_>) -> bool {
    if !statement.is_commit_prepared() {
        return false;
    }
    if let Some(watch) = WATCH.get()
        && !is_replaying()
    {
        (watch.before)();
    }
    prepared::begin();
    true
}

fn after_prepared() {
    if let Some(watch) = WATCH.get() {
        let clock = clock::now();
        (watch.after)(Committed { commit_ts: replayed_timestamp().unwrap_or(clock), clock });
    }
    prepared::end();
}
