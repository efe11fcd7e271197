//! The one page of a sequence, read and written under its buffer lock as the server's own `nextval` does it.
//!
//! **No guard, no destructors.** These functions call the server without pgrx's guard around each call, which would cost
//! more than the work: an error jumps over the frames here, so no value in them may have a destructor. Whoever calls
//! them is either called by the server directly or puts one guard around all of it.
//!
//! A change is a record of the sequence's own kind in write-ahead log (recovery and standbys read it without meld), or
//! none, if the last record tells of the value already: that is for the caller to know.

use std::ffi::{CStr, c_void};

use meld_core::time::Timestamp;
use pgrx::pg_sys;

use super::Oid;

/// What is stored of a sequence, `FormData_pg_sequence_data`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stored {
    pub last_value: i64,
    pub log_cnt: i64,
    pub is_called: bool,
}

/// How a sequence is defined, `FormData_pg_sequence`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Definition {
    pub relation: Oid,
    pub type_oid: Oid,
    pub start: i64,
    pub increment: i64,
    pub max: i64,
    pub min: i64,
    pub cache: i64,
    pub cycle: bool,
}

/// Why a sequence can't be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    NotASequence,
    /// Temporary or unlogged: not what it was after a crash.
    NotPermanent,
    NotAllowed,
    NotConverted,
    Corrupt,
    Exhausted,
}

/// Under which number a record is the sequences'. All else of them is core's.
const XLOG_SEQ_LOG: u8 = 0;
/// In the page's special space.
const SEQ_MAGIC: u32 = 0x1717;

/// The page, locked.
#[derive(Clone, Copy)]
pub(super) struct Held {
    buffer: pg_sys::Buffer,
    page: *mut pg_sys::PageHeaderData,
    tuple: *mut c_void,
    tuple_bytes: u32,
    stored: *mut Stored,
}

/// The server's functions as they are, without pgrx's guard.
mod raw {
    use std::ffi::{c_char, c_int, c_void};

    use pgrx::pg_sys;

    unsafe extern "C-unwind" {
        pub fn LockRelationOid(relation: pg_sys::Oid, mode: c_int);
        pub fn relation_open(relation: pg_sys::Oid, mode: c_int) -> pg_sys::Relation;
        pub fn relation_close(relation: pg_sys::Relation, mode: c_int);
        pub fn ReadBuffer(relation: pg_sys::Relation, block: u32) -> pg_sys::Buffer;
        pub fn LockBuffer(buffer: pg_sys::Buffer, mode: c_int);
        pub fn UnlockReleaseBuffer(buffer: pg_sys::Buffer);
        pub fn MarkBufferDirty(buffer: pg_sys::Buffer);
        pub fn XLogBeginInsert();
        pub fn XLogRegisterBuffer(block_id: u8, buffer: pg_sys::Buffer, flags: u8);
        pub fn XLogRegisterData(data: *const c_void, bytes: u32);
        pub fn XLogInsert(manager: u8, info: u8) -> u64;
        pub fn XLogFlush(position: u64);
        pub fn GetRedoRecPtr() -> u64;
        pub fn SearchSysCache1(cache: c_int, key: pg_sys::Datum) -> pg_sys::HeapTuple;
        pub fn ReleaseSysCache(tuple: pg_sys::HeapTuple);
        pub fn PreventCommandIfReadOnly(command: *const c_char);
        pub fn PreventCommandIfParallelMode(command: *const c_char);
        pub fn pg_class_aclcheck(relation: pg_sys::Oid, role: pg_sys::Oid, rights: pg_sys::AclMode) -> u32;
        pub fn GetUserId() -> pg_sys::Oid;
        pub fn GetCurrentTimestamp() -> i64;
    }
}

/// In which transaction a sequence was locked by this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Locked {
    sequence: u32,
    transaction: u32,
}

impl Locked {
    pub const NEVER: Locked = Locked { sequence: 0, transaction: 0 };
}

/// Locks a sequence as the server's own `nextval` does, until the transaction ends.
///
/// # Safety
/// Inside a transaction; see the module's header.
pub(super) unsafe fn lock(sequence: Oid, before: Locked) -> Locked {
    // SAFETY: the caller's promise; the lock belongs to the whole transaction, so that the end of a subtransaction does
    // not take it away, as in core
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let transaction = (*pg_sys::MyProc).lxid;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        let transaction = (*pg_sys::MyProc).vxid.lxid;
        let wanted = Locked { sequence: sequence.to_u32(), transaction };
        if before != wanted {
            let owner = pg_sys::CurrentResourceOwner;
            pg_sys::CurrentResourceOwner = pg_sys::TopTransactionResourceOwner;
            raw::LockRelationOid(sequence, pg_sys::RowExclusiveLock as i32);
            pg_sys::CurrentResourceOwner = owner;
        }
        wanted
    }
}

/// Opens a sequence that is locked.
///
/// # Safety
/// Inside a transaction; see the module's header.
pub(super) unsafe fn open(sequence: Oid) -> Result<pg_sys::Relation, Trouble> {
    // SAFETY: the caller's promise
    unsafe {
        let relation = raw::relation_open(sequence, pg_sys::NoLock as i32);
        let class = (*relation).rd_rel;
        let trouble = if (*class).relkind as u8 != pg_sys::RELKIND_SEQUENCE {
            Trouble::NotASequence
        } else if (*class).relpersistence as u8 != pg_sys::RELPERSISTENCE_PERMANENT {
            Trouble::NotPermanent
        } else {
            return Ok(relation);
        };
        close(relation);
        Err(trouble)
    }
}

/// Refuses a session that may not write, by an error.
///
/// # Safety
/// Inside a transaction; see the module's header.
pub(super) unsafe fn require_writes(command: &'static CStr) {
    // SAFETY: the caller's promise
    unsafe {
        raw::PreventCommandIfReadOnly(command.as_ptr());
        raw::PreventCommandIfParallelMode(command.as_ptr());
    }
}

/// Whether the current user may draw from the sequence.
///
/// # Safety
/// The sequence is locked; see the module's header.
pub(super) unsafe fn may_draw(sequence: Oid) -> bool {
    let rights = (pg_sys::ACL_USAGE | pg_sys::ACL_UPDATE) as pg_sys::AclMode;
    // SAFETY: the caller's promise
    unsafe { raw::pg_class_aclcheck(sequence, raw::GetUserId(), rights) == pg_sys::AclResult::ACLCHECK_OK }
}

/// The server's clock.
pub(super) fn now() -> Timestamp {
    // SAFETY: reads the clock
    Timestamp(unsafe { raw::GetCurrentTimestamp() })
}

/// # Safety
/// A relation of [`open`]; see the module's header.
pub(super) unsafe fn close(relation: pg_sys::Relation) {
    // SAFETY: the caller's promise
    unsafe { raw::relation_close(relation, pg_sys::NoLock as i32) }
}

/// # Safety
/// Inside a transaction, with the sequence locked; see the module's header.
pub(super) unsafe fn definition(sequence: Oid) -> Option<Definition> {
    // SAFETY: the caller's promise; a row of pg_sequence, which is as `Definition` is
    unsafe {
        let tuple = raw::SearchSysCache1(pg_sys::SysCacheIdentifier::SEQRELID as i32, sequence.into());
        if tuple.is_null() {
            return None;
        }
        let definition = *pg_sys::GETSTRUCT(tuple).cast::<Definition>();
        raw::ReleaseSysCache(tuple);
        Some(definition)
    }
}

/// Reads and locks the page.
///
/// # Safety
/// A relation of [`open`]; see the module's header.
pub(super) unsafe fn hold(relation: pg_sys::Relation) -> Result<Held, Trouble> {
    // SAFETY: a sequence has one page with one tuple, whose data are as `Stored` is; the magic number says that it is one
    unsafe {
        let buffer = raw::ReadBuffer(relation, 0);
        raw::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as i32);
        let page = pg_sys::BufferGetPage(buffer).cast::<pg_sys::PageHeaderData>();
        let special = usize::from((*page).pd_special);
        let item = (*page).pd_linp.as_ptr();
        let is_whole = special + size_of::<u32>() <= pg_sys::BLCKSZ as usize
            && *page.cast::<u8>().add(special).cast::<u32>() == SEQ_MAGIC
            && usize::from((*page).pd_lower) >= std::mem::offset_of!(pg_sys::PageHeaderData, pd_linp) + 4
            && (*item).lp_flags() == pg_sys::LP_NORMAL;
        if !is_whole {
            raw::UnlockReleaseBuffer(buffer);
            return Err(Trouble::Corrupt);
        }
        let tuple = page.cast::<u8>().add((*item).lp_off() as usize);
        let header = tuple.cast::<pg_sys::HeapTupleHeaderData>();
        let stored = tuple.add(usize::from((*header).t_hoff)).cast::<Stored>();
        Ok(Held { buffer, page, tuple: tuple.cast(), tuple_bytes: (*item).lp_len(), stored })
    }
}

impl Held {
    /// # Safety
    /// Held still.
    pub unsafe fn stored(self) -> Stored {
        // SAFETY: the caller's promise: locked
        unsafe { *self.stored }
    }

    /// Where the last record of the page ends.
    ///
    /// # Safety
    /// Held still.
    pub unsafe fn lsn(self) -> u64 {
        // SAFETY: the caller's promise: locked
        unsafe { u64::from((*self.page).pd_lsn.xlogid) << 32 | u64::from((*self.page).pd_lsn.xrecoff) }
    }

    /// Whether recovery would begin behind the last record, so that the page as it is on disk has to do.
    ///
    /// # Safety
    /// Held still; see the module's header.
    pub unsafe fn is_log_old(self) -> bool {
        // SAFETY: the caller's promise. A checkpoint sets this position before it writes any page: one that begins later
        // finds what is written here
        unsafe { self.lsn() <= raw::GetRedoRecPtr() }
    }

    /// Changes what is stored. `logged`: the value that the log is to tell.
    ///
    /// # Safety
    /// Held still, of this relation; see the module's header.
    pub unsafe fn store(self, relation: pg_sys::Relation, new: Stored, logged: Option<i64>) {
        // SAFETY: the caller's promise. The critical section turns an error into a restart of the server, as it has to
        // between the change of a page and its record
        unsafe {
            pg_sys::CritSectionCount += 1;
            raw::MarkBufferDirty(self.buffer);
            if let Some(logged) = logged.filter(|_| needs_wal(relation)) {
                *self.stored = Stored { last_value: logged, log_cnt: 0, is_called: true };
                raw::XLogBeginInsert();
                raw::XLogRegisterBuffer(0, self.buffer, pg_sys::REGBUF_WILL_INIT as u8);
                let (file, bytes) = file_of(relation);
                raw::XLogRegisterData(file, bytes);
                raw::XLogRegisterData(self.tuple, self.tuple_bytes);
                let end = raw::XLogInsert(pg_sys::RmgrIds::RM_SEQ_ID as u8, XLOG_SEQ_LOG);
                (*self.page).pd_lsn = pg_sys::PageXLogRecPtr { xlogid: (end >> 32) as u32, xrecoff: end as u32 };
            }
            *self.stored = new;
            pg_sys::CritSectionCount -= 1;
        }
    }

    /// Gives the lock back.
    ///
    /// # Safety
    /// Held still, and not used afterwards; see the module's header.
    pub unsafe fn let_go(self) {
        // SAFETY: the caller's promise
        unsafe { raw::UnlockReleaseBuffer(self.buffer) }
    }
}

/// Waits until the log is on disk up to there. Costs next to nothing if it is.
///
/// # Safety
/// Main thread; see the module's header.
pub(super) unsafe fn flush(position: u64) {
    // SAFETY: the position of a record that was made
    unsafe { raw::XLogFlush(position) }
}

/// # Safety
/// An open relation that is permanent.
unsafe fn needs_wal(relation: pg_sys::Relation) -> bool {
    // SAFETY: the caller's promise. With wal_level = minimal a relation that this transaction made is synced at its end
    unsafe {
        #[cfg(feature = "pg15")]
        let new_file = (*relation).rd_firstRelfilenodeSubid;
        #[cfg(not(feature = "pg15"))]
        let new_file = (*relation).rd_firstRelfilelocatorSubid;
        pg_sys::wal_level >= pg_sys::WalLevel::WAL_LEVEL_REPLICA as i32
            || ((*relation).rd_createSubid == 0 && new_file == 0)
    }
}

/// The number of the file of a sequence. Another after each change of its definition, which makes a new file.
///
/// # Safety
/// An open relation.
pub(super) unsafe fn file_number(relation: pg_sys::Relation) -> u32 {
    // SAFETY: the caller's promise
    unsafe {
        #[cfg(feature = "pg15")]
        let number = (*relation).rd_node.relNode;
        #[cfg(not(feature = "pg15"))]
        let number = (*relation).rd_locator.relNumber;
        u32::from(number)
    }
}

/// The head of the record, `xl_seq_rec`: in which file the page is.
///
/// # Safety
/// An open relation.
unsafe fn file_of(relation: pg_sys::Relation) -> (*const c_void, u32) {
    // SAFETY: the caller's promise
    unsafe {
        #[cfg(feature = "pg15")]
        let file = &raw const (*relation).rd_node;
        #[cfg(not(feature = "pg15"))]
        let file = &raw const (*relation).rd_locator;
        (file.cast(), size_of_val(&*file) as u32)
    }
}
