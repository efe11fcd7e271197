//! The server's memory of commit timestamps: by transaction, from an oldest one that is kept to the last one.
//!
//! VACUUM moves the oldest one forward once no table needs older ids; a crash may move it back to where it was at the
//! last checkpoint, and switching `track_commit_timestamp` on makes it begin anew.

use meld_core::ids::Xid;
use meld_core::time::Timestamp;
use pgrx::pg_sys;

use super::origin::CommitMark;
use super::xact::Xact;

/// Whether timestamps are kept at all (`track_commit_timestamp`).
pub fn are_kept() -> bool {
    // SAFETY: reads a setting
    unsafe { pg_sys::track_commit_timestamp }
}

/// The timestamps of earlier transactions are forgotten. What was not found before this was asked is before it.
pub fn oldest_kept() -> Xid {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    // SAFETY: shared memory that the server set up; one aligned word, read as it is at this moment
    let xid = unsafe { (&raw const (*pg_sys::ShmemVariableCache).oldestCommitTsXid).read_volatile() };
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    // SAFETY: as above
    let xid = unsafe { (&raw const (*pg_sys::TransamVariables).oldestCommitTsXid).read_volatile() };
    Xid(xid.into_inner())
}

/// When a transaction was committed; `None` if it was not, or that is forgotten. Only while timestamps are kept.
pub fn of(xid: Xid) -> Option<CommitMark> {
    let (mut commit_ts, mut roident) = (0, 0);
    // SAFETY: main thread; the out-pointers live on this frame. Raises if the disk fails
    let found = unsafe { pg_sys::TransactionIdGetCommitTsData(xid.0.into(), &mut commit_ts, &mut roident) };
    found.then_some(CommitMark { commit_ts: Timestamp(commit_ts), roident })
}

/// The number of the next transaction: its id in the lower half, and in the upper how often all ids were used before.
pub fn next() -> u64 {
    // SAFETY: reads shared memory under its lock
    unsafe { pg_sys::ReadNextFullTransactionId() }.value
}

/// The transactions that have not ended: all from the first of these on, and the earlier ones in the list. VACUUM's own
/// are left out; they write no rows.
pub fn not_ended(_xact: &Xact) -> (Xid, Vec<Xid>) {
    // SAFETY: inside a transaction; the snapshot stays as it is until the next one is taken, and holds `xcnt` ids
    unsafe {
        let snapshot = pg_sys::GetLatestSnapshot();
        let count = (*snapshot).xcnt as usize;
        let ids = if count == 0 { &[] } else { std::slice::from_raw_parts((*snapshot).xip, count) };
        (Xid((*snapshot).xmax.into_inner()), ids.iter().map(|xid| Xid(xid.into_inner())).collect())
    }
}
