//! Replication origins and stamps of rows: who wrote a version, and when.
//!
//! PostgreSQL keeps the commit timestamp and the replication origin of each transaction (`track_commit_timestamp`).
//! The apply worker works under its subscription's origin and sets timestamp and position of every transaction that it
//! commits; forgetting one would commit the next transaction with the last one's.

use std::cell::Cell;

use meld_core::lsn::Lsn;
use meld_core::time::Timestamp;
use pgrx::pg_sys;
use pgrx::pg_sys::AsPgCStr;

use super::xact::Xact;

/// When a transaction was committed, and under which origin of this server (0: committed here by a user).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommitMark {
    pub commit_ts: Timestamp,
    pub roident: u16,
}

/// What the server knows of the writer of a row version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writer {
    ThisTransaction,
    Committed(CommitMark),
    /// This one, or one that is older by as many transactions as there are ids: a frozen row's id may have been used
    /// again since.
    ThisOrOlder(CommitMark),
    /// So long ago, or before `track_commit_timestamp` was on, that there is no timestamp.
    Forgotten,
}

/// The writer of a version of a row.
///
/// # Safety
/// The head of a row that stays where it is for the call. Main thread, inside a transaction.
pub(super) unsafe fn writer_of_row(head: pg_sys::HeapTupleHeader) -> Writer {
    // SAFETY: see above; a counter in shared memory
    let (writer, is_doubtful) = unsafe {
        let is_frozen = u32::from((*head).t_infomask) & pg_sys::HEAP_XMIN_FROZEN == pg_sys::HEAP_XMIN_FROZEN;
        let writer = writer_of(pg_sys::htup::HeapTupleHeaderGetRawXmin(head));
        (writer, is_frozen && pg_sys::ReadNextFullTransactionId().value >> u32::BITS != 0)
    };
    match writer {
        Writer::Committed(mark) if is_doubtful => Writer::ThisOrOlder(mark),
        writer => writer,
    }
}

thread_local! {
    /// The committed writer that was found last, and in which transaction of this process: a large statement meets few
    /// writers, and who has committed has committed.
    static LAST_COMMITTED: Cell<Option<(u32, pg_sys::TransactionId, CommitMark)>> = const { Cell::new(None) };
}

/// The writer of a version with this raw xmin.
pub(super) fn writer_of(xmin: pg_sys::TransactionId) -> Writer {
    let transaction = super::xact::local_number();
    if let Some((of, last, mark)) = LAST_COMMITTED.get()
        && (of, last) == (transaction, xmin)
    {
        return Writer::Committed(mark);
    }
    let writer = look_up_writer(xmin);
    if let Writer::Committed(mark) = writer {
        LAST_COMMITTED.set(Some((transaction, xmin, mark)));
    }
    writer
}

/// (A frozen row keeps its raw xmin, so the timestamp may still be there.)
fn look_up_writer(xmin: pg_sys::TransactionId) -> Writer {
    let (mut commit_ts, mut roident) = (0, 0);
    // SAFETY: main thread, inside a transaction; the out-pointers live on this frame. Our own transaction has to be
    // asked for first: it has no commit timestamp yet
    unsafe {
        if pg_sys::TransactionIdIsCurrentTransactionId(xmin) {
            Writer::ThisTransaction
        } else if pg_sys::track_commit_timestamp
            && pg_sys::TransactionIdGetCommitTsData(xmin, &mut commit_ts, &mut roident)
        {
            Writer::Committed(CommitMark { commit_ts: Timestamp(commit_ts), roident })
        } else {
            Writer::Forgotten
        }
    }
}

/// Number of the origin of that name, made if it does not exist.
pub fn ensure(_xact: &Xact, name: &str) -> u16 {
    // SAFETY: inside a transaction; the name is a palloc'd copy that lives as long as the transaction's context
    unsafe {
        let name = name.as_pg_cstr();
        match pg_sys::replorigin_by_name(name, true) {
            0 => pg_sys::replorigin_create(name),
            found => found,
        }
    }
}

/// Makes this process work under the origin from now on. Raises if another process does so already.
pub fn setup_session(_xact: &Xact, roident: u16) {
    // SAFETY: inside a transaction, as the function asks; the session keeps the origin until the process ends
    unsafe {
        #[cfg(feature = "pg15")]
        pg_sys::replorigin_session_setup(roident);
        #[cfg(not(feature = "pg15"))]
        pg_sys::replorigin_session_setup(roident, 0);
        pg_sys::replorigin_session_origin = roident;
    }
}

/// The session works under no origin any more, and another process, or this one, may take it.
pub fn leave_session() {
    // SAFETY: an origin was set up in this session
    unsafe {
        pg_sys::replorigin_session_reset();
        pg_sys::replorigin_session_origin = pg_sys::InvalidRepOriginId as pg_sys::RepOriginId;
    }
}

/// How far the session's origin has come: the end of the last remote transaction that was committed here. It is durable
/// when this returns, so that the position may be reported: the process that committed it may not have waited for that.
pub fn durable_session_progress() -> Lsn {
    // SAFETY: an origin was set up in this session; `true`: the local WAL of that commit is flushed first
    Lsn(unsafe { pg_sys::replorigin_session_get_progress(true) })
}

/// Sets where the stream of an origin goes on, durably at the commit of this transaction.
pub fn set_position(_xact: &Xact, roident: u16, position: Lsn) {
    // SAFETY: inside a transaction that holds no lock on the origin's state; not the session's own origin, since that
    // is set up only afterwards. `true, true`: also backwards, and written to WAL
    unsafe {
        pg_sys::LockRelationOid(pg_sys::ReplicationOriginRelationId, pg_sys::RowExclusiveLock as i32);
        pg_sys::replorigin_advance(roident, position.0, pg_sys::InvalidXLogRecPtr as u64, true, true);
        pg_sys::UnlockRelationOid(pg_sys::ReplicationOriginRelationId, pg_sys::RowExclusiveLock as i32);
    }
}

/// Gives the transaction that is open the remote's commit timestamp and end position. To be called for each one.
pub fn stamp_transaction(_xact: &Xact, end_lsn: Lsn, commit_ts: Timestamp) {
    // SAFETY: plain assignments to this process's globals, read by the commit that follows
    unsafe {
        pg_sys::replorigin_session_origin_lsn = end_lsn.0;
        pg_sys::replorigin_session_origin_timestamp = commit_ts.0;
    }
}

/// End of the commit record of the last transaction that this process committed, zero if it wrote none.
pub fn last_commit_end() -> Lsn {
    // SAFETY: reads a global of this process
    Lsn(unsafe { pg_sys::XactLastCommitEnd })
}

/// Waits until the last transaction that this process committed is on disk.
pub fn flush_last_commit() {
    // SAFETY: the end of a record that this process wrote; raises PANIC if the disk fails
    unsafe { pg_sys::XLogFlush(pg_sys::XactLastCommitEnd) }
}

/// Up to where this server's WAL is on disk.
pub fn local_flush_position() -> Lsn {
    // SAFETY: reads shared memory under a spinlock; never in recovery, where workers don't run
    Lsn(unsafe { pg_sys::GetFlushRecPtr(std::ptr::null_mut()) })
}

/// While it lives, this process writes WAL as a local session does, not under its replication origin. Dropped when an
/// error passes through, too.
pub struct WithoutOrigin {
    before: pg_sys::RepOriginId,
}

impl WithoutOrigin {
    pub fn begin() -> WithoutOrigin {
        // SAFETY: main thread; a global of this process that is read when a record or a commit is written
        unsafe {
            let before = pg_sys::replorigin_session_origin;
            pg_sys::replorigin_session_origin = pg_sys::InvalidRepOriginId as pg_sys::RepOriginId;
            WithoutOrigin { before }
        }
    }
}

impl Drop for WithoutOrigin {
    fn drop(&mut self) {
        // SAFETY: as above
        unsafe { pg_sys::replorigin_session_origin = self.before }
    }
}
