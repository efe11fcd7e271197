//! Finding a row by its key, so that none is missed.
//!
//! PostgreSQL's own look-up for replication scans with a dirty snapshot, which can step over a row that a concurrent
//! update moves about. This one scans with an MVCC snapshot, which sees exactly one version of each committed row, and
//! locks the last version of it, following the update chain. It looks again with a fresh snapshot when the row was
//! deleted, or its key changed, while it was being locked.

use pgrx::pg_sys;
use pgrx::prelude::PgSqlErrorCode;

use super::columns::ColumnMap;
use super::origin::{Writer, writer_of, writer_of_row};
use super::row_key::primary_key_index;
use crate::log::{Failure, Result};

/// Rounds of look and lock before the row counts as contended; the transaction is then tried again.
pub(super) const MAX_ROUNDS: usize = 100;

/// An equality operator of one index column.
struct KeyPart {
    /// Index in the local row.
    column: usize,
    equals: pg_sys::RegProcedure,
    collation: pg_sys::Oid,
}

/// The unique index by which rows of an open table are found.
pub(super) struct KeyIndex {
    index: pg_sys::Relation,
    parts: Vec<KeyPart>,
}

/// How the row that is found gets locked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RowLock {
    /// Against everything but key share: for a change that keeps the key.
    Update,
    Delete,
}

/// Which snapshot the first look takes; the next ones take fresh ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Snapshots {
    FromActive,
    Fresh,
}

impl KeyIndex {
    /// Opens the replica identity index, or else the primary key, if the stream sends all of its columns as key.
    ///
    /// # Safety
    /// `relation` is open and locked and stays so until [`KeyIndex::close`]; inside a transaction.
    pub(super) unsafe fn open(relation: pg_sys::Relation, columns: &ColumnMap) -> Option<KeyIndex> {
        // SAFETY: the relation is open; both functions fill its index list on demand
        let candidates = unsafe { [pg_sys::RelationGetReplicaIndex(relation), primary_key_index(relation)] };
        for oid in candidates.into_iter().filter(|&oid| oid != pg_sys::InvalidOid) {
            // SAFETY: an index of a relation that is locked does not go away
            let index = unsafe { pg_sys::index_open(oid, pg_sys::RowExclusiveLock as i32) };
            // SAFETY: just opened
            let parts = unsafe { key_parts(index) };
            if parts.iter().all(|part| columns.is_remote_key(part.column)) {
                return Some(KeyIndex { index, parts });
            }
            // SAFETY: opened above and not used any more
            unsafe { pg_sys::index_close(index, pg_sys::NoLock as i32) };
        }
        None
    }

    pub(super) fn close(self) {
        // SAFETY: opened by `open`; the lock stays until the transaction ends
        unsafe { pg_sys::index_close(self.index, pg_sys::NoLock as i32) }
    }

    /// The index, if the server can look into it for a clash before an insert: it checks at once.
    pub(super) fn arbiter(&self) -> Option<pg_sys::Oid> {
        // SAFETY: an open index has its form
        unsafe { (*(*self.index).rd_index).indimmediate.then_some((*self.index).rd_id) }
    }

    pub(super) fn index_oid(&self) -> pg_sys::Oid {
        // SAFETY: the index is open
        unsafe { (*self.index).rd_id }
    }

    /// Local columns of the key.
    pub(super) fn columns(&self) -> impl Iterator<Item = usize> {
        self.parts.iter().map(|part| part.column)
    }

    /// Finds the row whose key is in `key`'s values and locks its last version, which is in `found` afterwards.
    ///
    /// # Safety
    /// `relation` is the one that this was opened for; `key` and `found` are slots of it; a snapshot is active.
    pub(super) unsafe fn find(
        &self,
        relation: pg_sys::Relation,
        key: *mut pg_sys::TupleTableSlot,
        found: *mut pg_sys::TupleTableSlot,
        lock: RowLock,
        snapshots: Snapshots,
    ) -> Result<bool> {
        let mut scan_keys = self.scan_keys(key);
        let first = if snapshots == Snapshots::FromActive { 0 } else { 1 };
        for round in first..MAX_ROUNDS {
            // SAFETY: a snapshot is active (the caller); later rounds take a newer one, registered until it was used
            let snapshot = unsafe {
                match round {
                    0 => pg_sys::GetActiveSnapshot(),
                    _ => pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot()),
                }
            };
            // SAFETY: relation, index and slot belong together, the keys match the index
            let outcome = unsafe { self.look(relation, &mut scan_keys, snapshot, found, lock) };
            if round > 0 {
                // SAFETY: registered above
                unsafe { pg_sys::UnregisterSnapshot(snapshot) };
            }
            match outcome {
                Look::Missing => return Ok(false),
                Look::Locked { followed: false } => return Ok(true),
                // SAFETY: both slots hold rows of this relation
                Look::Locked { followed: true } if unsafe { self.same_key(key, found) } => return Ok(true),
                Look::Locked { followed: true } | Look::Gone => {}
            }
        }
        Err(Failure::new(
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            "row changed too often while it was looked for",
        ))
    }

    /// One round: scan for the version that the snapshot sees, then lock the last one.
    ///
    /// # Safety
    /// As for [`KeyIndex::find`].
    unsafe fn look(
        &self,
        relation: pg_sys::Relation,
        keys: &mut [pg_sys::ScanKeyData],
        snapshot: pg_sys::Snapshot,
        slot: *mut pg_sys::TupleTableSlot,
        lock: RowLock,
    ) -> Look {
        // SAFETY: see above
        if !unsafe { self.scan(relation, keys, snapshot, slot) } {
            return Look::Missing;
        }
        let mode = match lock {
            RowLock::Update => pg_sys::LockTupleMode::LockTupleNoKeyExclusive,
            RowLock::Delete => pg_sys::LockTupleMode::LockTupleExclusive,
        };
        let mut failure = pg_sys::TM_FailureData::default();
        // SAFETY: the slot holds a tuple of this relation, whose tid is copied since the call writes both
        let result = unsafe {
            let mut tid = (*slot).tts_tid;
            pg_sys::table_tuple_lock(
                relation,
                &mut tid,
                snapshot,
                slot,
                pg_sys::GetCurrentCommandId(false),
                mode,
                pg_sys::LockWaitPolicy::LockWaitBlock,
                pg_sys::TUPLE_LOCK_FLAG_FIND_LAST_VERSION as u8,
                &mut failure,
            )
        };
        match result {
            pg_sys::TM_Result::TM_Ok => Look::Locked { followed: failure.traversed },
            _ => Look::Gone,
        }
    }

    /// The row whose key is in `key`'s values as the snapshot sees it, put into `found`.
    ///
    /// # Safety
    /// As for [`KeyIndex::find`]; the snapshot is an MVCC one and is registered or active.
    pub(super) unsafe fn read(
        &self,
        relation: pg_sys::Relation,
        key: *mut pg_sys::TupleTableSlot,
        found: *mut pg_sys::TupleTableSlot,
        snapshot: pg_sys::Snapshot,
    ) -> bool {
        // SAFETY: as the caller promises
        unsafe { self.scan(relation, &mut self.scan_keys(key), snapshot, found) }
    }

    /// # Safety
    /// As for [`KeyIndex::read`].
    unsafe fn scan(
        &self,
        relation: pg_sys::Relation,
        keys: &mut [pg_sys::ScanKeyData],
        snapshot: pg_sys::Snapshot,
        slot: *mut pg_sys::TupleTableSlot,
    ) -> bool {
        // SAFETY: as the caller promises; the scan ends before the keys go away
        unsafe {
            let scan = begin_scan(relation, self.index, snapshot, keys.len() as i32);
            pg_sys::index_rescan(scan, keys.as_mut_ptr(), keys.len() as i32, std::ptr::null_mut(), 0);
            let there = pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot);
            pg_sys::index_endscan(scan);
            there
        }
    }

    fn scan_keys(&self, key: *mut pg_sys::TupleTableSlot) -> Vec<pg_sys::ScanKeyData> {
        let mut keys = vec![pg_sys::ScanKeyData::default(); self.parts.len()];
        for (position, part) in self.parts.iter().enumerate() {
            // SAFETY: the slot's arrays are as wide as the relation that the columns are of; the key data is zeroed
            unsafe {
                pg_sys::ScanKeyEntryInitialize(
                    &mut keys[position],
                    0,
                    position as i16 + 1,
                    pg_sys::BTEqualStrategyNumber as u16,
                    pg_sys::InvalidOid,
                    part.collation,
                    part.equals,
                    *(*key).tts_values.add(part.column),
                );
            }
        }
        keys
    }

    /// # Safety
    /// Both slots hold rows of the relation.
    pub(super) unsafe fn same_key(&self, one: *mut pg_sys::TupleTableSlot, other: *mut pg_sys::TupleTableSlot) -> bool {
        // SAFETY: after the first call all values stand in the slot's arrays; `equals` compares values of that column
        unsafe {
            pg_sys::slot_getsomeattrs_int(other, (*(*other).tts_tupleDescriptor).natts);
            self.parts.iter().all(|part| {
                let (left, right) = (*(*one).tts_values.add(part.column), *(*other).tts_values.add(part.column));
                pg_sys::OidFunctionCall2Coll(part.equals, part.collation, left, right).value() as u8 != 0
            })
        }
    }
}

/// The xmin of a row as it is stored: a frozen one keeps it.
///
/// # Safety
/// The slot holds a row of a table.
pub(super) unsafe fn raw_xmin(slot: *mut pg_sys::TupleTableSlot) -> pg_sys::TransactionId {
    let mut is_null = false;
    // SAFETY: such a slot's operations can give a system column
    unsafe {
        let get = (*(*slot).tts_ops).getsysattr;
        let number = pg_sys::MinTransactionIdAttributeNumber;
        get.map_or(pg_sys::InvalidTransactionId, |get| {
            pg_sys::TransactionId::from(get(slot, number, &mut is_null).value() as u32)
        })
    }
}

/// Who wrote the row in a slot.
///
/// # Safety
/// The slot holds a row of a table. Main thread, inside a transaction.
pub(super) unsafe fn writer_in(slot: *mut pg_sys::TupleTableSlot) -> Writer {
    // SAFETY: see above; a slot with these operations is of this type, and keeps the row's page
    unsafe {
        if (*slot).tts_ops == &raw const pg_sys::TTSOpsBufferHeapTuple {
            let tuple = (*slot.cast::<pg_sys::HeapTupleTableSlot>()).tuple;
            if !tuple.is_null() {
                return writer_of_row((*tuple).t_data);
            }
        }
        writer_of(raw_xmin(slot))
    }
}

/// What one round found.
enum Look {
    Missing,
    /// `followed`: not the version that the snapshot saw, but a later one.
    Locked {
        followed: bool,
    },
    /// Deleted or moved while we waited for it.
    Gone,
}

/// # Safety
/// The index is open.
unsafe fn key_parts(index: pg_sys::Relation) -> Vec<KeyPart> {
    // SAFETY: an open index has its form, opfamily, input type and collation arrays, each as long as it has key columns
    unsafe {
        let form = (*index).rd_index;
        let width = (*form).indnkeyatts as usize;
        let numbers = (*form).indkey.values.as_slice(width);
        (0..width)
            .map(|i| {
                let input_type = *(*index).rd_opcintype.add(i);
                let equals = pg_sys::get_opfamily_member(
                    *(*index).rd_opfamily.add(i),
                    input_type,
                    input_type,
                    pg_sys::BTEqualStrategyNumber as i16,
                );
                KeyPart {
                    column: numbers[i] as usize - 1,
                    equals: pg_sys::get_opcode(equals),
                    collation: *(*index).rd_indcollation.add(i),
                }
            })
            .collect()
    }
}

/// # Safety
/// Relation and index are open, the snapshot stays valid until the scan ends.
pub(super) unsafe fn begin_scan(
    relation: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    keys: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: as the caller promises
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return pg_sys::index_beginscan(relation, index, snapshot, keys, 0);
        #[cfg(feature = "pg18")]
        return pg_sys::index_beginscan(relation, index, snapshot, std::ptr::null_mut(), keys, 0);
    }
}
