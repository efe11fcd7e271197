//! Small questions to the server, and word to it, from a backend that runs one of meld's functions.

use std::ffi::CStr;
use std::ptr::null_mut;

use meld_core::ids::Xid;
use pgrx::pg_sys;

use super::Oid;
use super::types::Call;

/// A setting as SHOW without units would give it, `None` if this server has no such setting.
pub fn setting(name: &CStr) -> Option<String> {
    // SAFETY: an unknown setting gives null (missing_ok), else a string that lives until the next call
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
    }
}

/// A numeric setting, `None` if this server has no such setting.
pub fn number_setting(name: &CStr) -> Option<i64> {
    setting(name)?.parse().ok()
}

/// Lets every session (and the output plugin) forget what it knows about a table, once the transaction is committed.
pub fn invalidate_relation(relation: Oid) {
    // SAFETY: inside a transaction; a table that is gone raises nothing
    unsafe {
        if pg_sys::SearchSysCacheExists(
            pg_sys::SysCacheIdentifier::RELOID as i32,
            relation.into(),
            0usize.into(),
            0usize.into(),
            0usize.into(),
        ) {
            pg_sys::CacheInvalidateRelcacheByRelid(relation);
        }
    }
}

/// Waits until nobody writes to a table, and keeps writers away until the transaction ends.
pub fn lock_out_writers(relation: Oid) {
    // SAFETY: inside a transaction; an oid that names nothing can be locked, too
    unsafe { pg_sys::LockRelationOid(relation, pg_sys::ShareRowExclusiveLock as i32) }
}

/// Waits until a transaction is no longer among those that run, so that a snapshot taken afterwards sees what it did. A
/// walsender may have sent its commit long before.
pub fn wait_until_ended(xid: Xid) {
    let xid = pg_sys::TransactionId::from_inner(xid.0);
    // SAFETY: inside a transaction; a transaction does not wait for itself, and permanent ids are no transaction's
    unsafe {
        let is_ordinary = pg_sys::TransactionIdIsNormal(xid);
        if is_ordinary && !pg_sys::TransactionIdIsCurrentTransactionId(xid) {
            pg_sys::XactLockTableWait(xid, null_mut(), null_mut(), pg_sys::XLTW_Oper::XLTW_None);
        }
    }
}

/// Whether this transaction keeps writers away from a table.
pub fn locks_out_writers(relation: Oid) -> bool {
    // SAFETY: reads this process's locks; an oid that names nothing is not locked
    unsafe { pg_sys::CheckRelationOidLockedByMe(relation, pg_sys::ShareRowExclusiveLock as i32, true) }
}

/// Whether the statement runs in a transaction block or a subtransaction, so that it may be undone later.
pub fn in_transaction_block() -> bool {
    // SAFETY: reads this process's transaction state
    unsafe { pg_sys::IsTransactionBlock() || pg_sys::IsSubTransaction() }
}

/// Whether this server is a standby.
pub fn in_recovery() -> bool {
    // SAFETY: reads shared memory
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Runs `work` with a snapshot of now, whatever the snapshot of the statement sees.
pub fn with_latest_snapshot<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: inside a transaction; popped below, or by the abort that follows an error
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
    let result = work();
    // SAFETY: the snapshot pushed above is on top, since `work` returned normally
    unsafe { pg_sys::PopActiveSnapshot() };
    result
}

/// Commit timestamps' clock: microseconds since 2000-01-01 00:00 UTC.
pub fn now_microseconds() -> i64 {
    // SAFETY: reads the clock
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Whether `shared_preload_libraries` names the library.
pub fn preloads(library: &str) -> bool {
    let listed = setting(c"shared_preload_libraries").unwrap_or_default();
    listed.split(',').any(|entry| {
        let entry = entry.trim().trim_matches('"');
        let file = entry.rsplit('/').next().unwrap_or(entry);
        file.trim_end_matches(".so") == library
    })
}

/// Whether the current user is a superuser.
pub fn is_superuser() -> bool {
    // SAFETY: inside a transaction of a session with a user
    unsafe { pg_sys::superuser() }
}

/// Whether the current user may read everything by way of a replication slot.
pub fn may_replicate() -> bool {
    // SAFETY: inside a transaction of a session with a user
    unsafe { pg_sys::superuser() || pg_sys::has_rolreplication(pg_sys::GetUserId()) }
}

/// The same of the user who connected, whoever the current function runs as.
pub fn may_replicate_as_session_user() -> bool {
    // SAFETY: inside a transaction of a session with a user
    unsafe {
        let user = pg_sys::GetSessionUserId();
        pg_sys::superuser_arg(user) || pg_sys::has_rolreplication(user)
    }
}

/// Texts as the literal of an array.
pub fn quoted_array(texts: &[String]) -> String {
    let quoted = |text: &String| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    format!("{{{}}}", texts.iter().map(quoted).collect::<Vec<_>>().join(","))
}

/// Gives up the snapshots that a CALL holds, as COMMIT in a procedure does, so that waiting keeps no dead rows alive.
/// Does nothing where the caller's statement needs its snapshot afterwards.
pub fn give_up_snapshots(call: Call) {
    if call.is_non_atomic {
        // SAFETY: main thread, in a procedure that was called where it might commit: nobody counts on the snapshots
        unsafe {
            pg_sys::ForgetPortalSnapshots();
            pg_sys::InvalidateCatalogSnapshot();
        }
    }
}
