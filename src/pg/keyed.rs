//! Rows of meld's own tables that are found by relation and key, read and written without queries.
//!
//! The tables have `relid oid` and `key bytea`, or other bytes, as their first two columns and an index on both. Looking takes a snapshot
//! of the moment, so that what was committed while this transaction waited for a lock is seen.

use std::cell::{Cell as Slot, RefCell};
use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::null_mut;

use meld_core::ids::{NodeId, Xid};
use meld_core::time::{Stamp, Timestamp};
use pgrx::prelude::PgSqlErrorCode;
use pgrx::{FromDatum, IntoDatum, pg_sys};

use super::Oid;
use super::invalidation;
use super::key_bytes::RowKey;
use super::open_index::OpenIndex;
use super::origin::{Writer, writer_of_row};
use crate::log::{Failure, Result};

/// A table of meld's, opened when it is needed, until it is closed or the transaction ends.
pub struct KeyedTable {
    name: &'static CStr,
    index_name: &'static CStr,
    opened: Slot<Option<Opened>>,
    /// Opened for the first row that is stored.
    indexes: Vec<OpenIndex>,
}

/// Where a table and its index are, as long as no table changes.
#[derive(Clone, Copy)]
struct Known {
    name: &'static CStr,
    generation: u64,
    table: Oid,
    index: Oid,
}

thread_local! {
    static KNOWN: RefCell<Vec<Known>> = const { RefCell::new(Vec::new()) };
}

#[derive(Clone, Copy)]
struct Opened {
    relation: pg_sys::Relation,
    index: Oid,
}

/// A row that a scan shows.
pub struct KeyedRow<'t> {
    descriptor: pg_sys::TupleDesc,
    table: PhantomData<&'t KeyedTable>,
    tuple: pg_sys::HeapTuple,
}

/// More than any of these tables has.
const MAX_COLUMNS: usize = 16;

/// Where a row is stored.
#[derive(Clone, Copy)]
pub struct Place(pg_sys::ItemPointerData);

/// A value to be stored.
pub enum Cell<'v> {
    Null,
    Text(&'v str),
    Texts(&'v [String]),
    Bytes(&'v [u8]),
    Time(Timestamp),
    Int4(i32),
}

/// How a look sees rows of transactions that are open.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// What is committed, and what this transaction did.
    Committed,
    /// Rows of open transactions as well.
    Open,
}

impl KeyedTable {
    /// `meld.<name>`, not opened yet.
    pub const fn new(name: &'static CStr, index_name: &'static CStr) -> KeyedTable {
        KeyedTable { name, index_name, opened: Slot::new(None), indexes: Vec::new() }
    }

    fn opened(&self) -> Result<Opened> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let Known { table, index, .. } = self.known()?;
        // SAFETY: inside a transaction; null if the table went meanwhile
        let relation = unsafe { pg_sys::try_table_open(table, pg_sys::RowExclusiveLock as i32) };
        if relation.is_null() {
            return Err(self.missing());
        }
        let opened = Opened { relation, index };
        self.opened.set(Some(opened));
        Ok(opened)
    }

    fn known(&self) -> Result<Known> {
        let generation = invalidation::generation();
        let is_it = |known: &&Known| known.name == self.name && known.generation == generation;
        if let Some(known) = KNOWN.with_borrow(|known| known.iter().find(is_it).copied()) {
            return Ok(known);
        }
        // SAFETY: inside a transaction; names that are not there give InvalidOid
        let (table, index) = unsafe {
            let namespace = pg_sys::get_namespace_oid(c"meld".as_ptr(), true);
            (
                pg_sys::get_relname_relid(self.name.as_ptr(), namespace),
                pg_sys::get_relname_relid(self.index_name.as_ptr(), namespace),
            )
        };
        if table == pg_sys::InvalidOid || index == pg_sys::InvalidOid {
            return Err(self.missing());
        }
        let found = Known { name: self.name, generation, table, index };
        KNOWN.with_borrow_mut(|known| {
            known.retain(|known| known.name != self.name);
            known.push(found);
        });
        Ok(found)
    }

    fn missing(&self) -> Failure {
        let message = format!("table \"meld.{}\" does not exist", self.name.to_string_lossy());
        Failure::new(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, message)
            .hint("Update the extension with ALTER EXTENSION meld UPDATE.")
    }

    /// Gives back everything but the locks.
    pub fn close(self) {
        let Some(Opened { relation, .. }) = self.opened.get() else { return };
        // SAFETY: opened by `opened` and `open_indexes`, closed once
        unsafe {
            self.indexes.iter().for_each(OpenIndex::close);
            pg_sys::table_close(relation, pg_sys::NoLock as i32);
        }
    }

    /// Shows the rows of a relation, or of one key of it, until `look` says that it has seen enough.
    pub fn scan(
        &self,
        relation: Oid,
        key: Option<&[u8]>,
        sight: Sight,
        mut look: impl FnMut(&KeyedRow<'_>) -> Result<bool>,
    ) -> Result<()> {
        let Opened { relation: heap, index } = self.opened()?;
        // SAFETY: the table is open; keys, snapshots and the scan live until the end of the function, or are let go of by
        // the abort that follows an error
        unsafe {
            let mut keys = [of_relation(relation), pg_sys::ScanKeyData::default()];
            if let Some(key) = key {
                keys[1] = by_key(pg_sys::BTEqualStrategyNumber, pg_sys::F_BYTEAEQ, key);
            }
            let count = 1 + i32::from(key.is_some());
            let mut dirty =
                pg_sys::SnapshotData { snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY, ..Default::default() };
            let snapshot = match sight {
                Sight::Committed => pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot()),
                Sight::Open => &raw mut dirty,
            };
            let scan = pg_sys::systable_beginscan(heap, index, true, snapshot, count, keys.as_mut_ptr());
            let mut outcome = Ok(());
            loop {
                let tuple = pg_sys::systable_getnext(scan);
                if tuple.is_null() {
                    break;
                }
                match look(&KeyedRow { descriptor: (*heap).rd_att, table: PhantomData, tuple }) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(failure) => {
                        outcome = Err(failure);
                        break;
                    }
                }
            }
            pg_sys::systable_endscan(scan);
            if sight == Sight::Committed {
                pg_sys::UnregisterSnapshot(snapshot);
            }
            outcome
        }
    }

    /// Of a relation's rows, the first one whose key is not less than this; its key.
    pub fn first_key_from(&self, relation: Oid, from: &[u8]) -> Result<Option<Vec<u8>>> {
        let Opened { relation: heap, index } = self.opened()?;
        // SAFETY: the table is open; keys, snapshot, index and the scan live until the end of the function, or are let go
        // of by the abort that follows an error
        unsafe {
            let at_least = by_key(pg_sys::BTGreaterEqualStrategyNumber, pg_sys::F_BYTEAGE, from);
            let mut keys = [of_relation(relation), at_least];
            let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
            let index = pg_sys::index_open(index, pg_sys::AccessShareLock as i32);
            let scan = pg_sys::systable_beginscan_ordered(heap, index, snapshot, 2, keys.as_mut_ptr());
            let tuple = pg_sys::systable_getnext_ordered(scan, pg_sys::ScanDirection::ForwardScanDirection);
            let first = (!tuple.is_null())
                .then(|| KeyedRow { descriptor: (*heap).rd_att, table: PhantomData, tuple }.bytes(2))
                .flatten();
            pg_sys::systable_endscan_ordered(scan);
            pg_sys::index_close(index, pg_sys::NoLock as i32);
            pg_sys::UnregisterSnapshot(snapshot);
            Ok(first)
        }
    }

    /// Stores a row. It is seen by looks of this transaction after the next [`seen`]. Not for others to decode.
    pub fn insert(&mut self, relation: Oid, key: &[u8], rest: &[Cell<'_>]) -> Result<()> {
        let heap = self.opened()?.relation;
        let mut values = [pg_sys::Datum::from(0_usize); MAX_COLUMNS];
        let mut nulls = [true; MAX_COLUMNS];
        let first = [relation.into_datum(), key.into_datum()];
        for (i, value) in first.into_iter().chain(rest.iter().map(Cell::datum)).enumerate() {
            if let Some(value) = value {
                (values[i], nulls[i]) = (value, false);
            }
        }
        if self.indexes.is_empty() {
            // SAFETY: the table is open
            self.indexes = unsafe { OpenIndex::all_of(heap) };
        }
        // SAFETY: the table is open, and no wider than the arrays; values and tuple are copies in the current memory context
        unsafe {
            let tuple = pg_sys::heap_form_tuple((*heap).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
            let command = pg_sys::GetCurrentCommandId(true);
            pg_sys::heap_insert(heap, tuple, command, pg_sys::HEAP_INSERT_NO_LOGICAL as i32, null_mut());
            for index in &self.indexes {
                index.insert(heap, &values, &nulls, &mut (*tuple).t_self);
            }
            pg_sys::heap_freetuple(tuple);
        }
        Ok(())
    }

    /// Removes all rows of a key; whether there were any.
    pub fn delete_key(&self, relation: Oid, key: &RowKey) -> Result<bool> {
        let mut places = Vec::new();
        self.scan(relation, Some(&key.0), Sight::Committed, |row| {
            places.push(row.place());
            Ok(true)
        })?;
        places.iter().for_each(|&place| self.delete(place));
        Ok(!places.is_empty())
    }

    /// Removes a row that a scan of this transaction has shown. The collector may have done so meanwhile; raises if
    /// anybody has changed it.
    pub fn delete(&self, place: Place) {
        let Some(Opened { relation, .. }) = self.opened.get() else { return };
        let mut place = place.0;
        let mut failure = pg_sys::TM_FailureData::default();
        // SAFETY: the table is open; place and failure live on this frame; `true`: waits for who is at it
        let result = unsafe {
            let command = pg_sys::GetCurrentCommandId(true);
            pg_sys::heap_delete(relation, &mut place, command, null_mut(), true, &mut failure, false)
        };
        if !matches!(result, pg_sys::TM_Result::TM_Ok | pg_sys::TM_Result::TM_Deleted) {
            Failure::new(
                PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
                "could not remove a row of meld's because somebody has changed it",
            )
            .raise();
        }
    }
}

/// Scan key for the rows of a relation.
fn of_relation(relation: Oid) -> pg_sys::ScanKeyData {
    scan_key(1, pg_sys::BTEqualStrategyNumber, pg_sys::F_OIDEQ, relation.into_datum())
}

/// Scan key for keys that compare so with this one, a copy of which is the current memory context's.
fn by_key(strategy: u32, function: u32, key: &[u8]) -> pg_sys::ScanKeyData {
    scan_key(2, strategy, function, key.into_datum())
}

fn scan_key(column: i16, strategy: u32, function: u32, value: Option<pg_sys::Datum>) -> pg_sys::ScanKeyData {
    let mut key = pg_sys::ScanKeyData::default();
    let (function, nothing) = (pg_sys::RegProcedure::from(function), pg_sys::Datum::from(0_usize));
    // SAFETY: inside a transaction; fills in a key, with a built-in function for its column's type
    unsafe { pg_sys::ScanKeyInit(&mut key, column, strategy as u16, function, value.unwrap_or(nothing)) };
    key
}

/// What was stored and removed before is seen from here on.
pub fn seen() {
    // SAFETY: inside a transaction
    unsafe { pg_sys::CommandCounterIncrement() }
}

impl KeyedRow<'_> {
    pub fn place(&self) -> Place {
        // SAFETY: the scan's current tuple
        Place(unsafe { (*self.tuple).t_self })
    }

    pub fn writer(&self) -> Writer {
        // SAFETY: the scan's current tuple
        unsafe { writer_of_row((*self.tuple).t_data) }
    }

    pub fn xmin(&self) -> Xid {
        Xid(self.raw_xmin().into_inner())
    }

    fn raw_xmin(&self) -> pg_sys::TransactionId {
        // SAFETY: the scan's current tuple
        unsafe { pg_sys::htup::HeapTupleHeaderGetRawXmin((*self.tuple).t_data) }
    }

    pub fn bytes(&self, column: i32) -> Option<Vec<u8>> {
        self.value(column)
    }

    pub fn text(&self, column: i32) -> Option<String> {
        self.value(column)
    }

    pub fn texts(&self, column: i32) -> Option<Vec<String>> {
        self.value(column)
    }

    /// A stamp in two columns, the second behind the first.
    pub fn stamp(&self, column: i32) -> Option<Stamp> {
        let commit_ts = Timestamp(self.value::<i64>(column)?);
        let node: i32 = self.value(column + 1)?;
        Some(Stamp { commit_ts, node: NodeId(u16::try_from(node).ok()?) })
    }

    fn value<T: FromDatum>(&self, column: i32) -> Option<T> {
        let mut is_null = true;
        // SAFETY: the table is open and has the column, of a type that `T` is read from; the tuple is the scan's
        unsafe {
            let datum = pg_sys::heap_getattr(self.tuple, column, self.descriptor, &mut is_null);
            T::from_datum(datum, is_null)
        }
    }
}

impl Cell<'_> {
    /// A stamp in two columns, as [`KeyedRow::stamp`] reads it.
    pub fn stamp(stamp: Option<Stamp>) -> [Cell<'static>; 2] {
        match stamp {
            Some(Stamp { commit_ts, node }) => [Cell::Time(commit_ts), Cell::Int4(i32::from(node.0))],
            None => [Cell::Null, Cell::Null],
        }
    }

    fn datum(&self) -> Option<pg_sys::Datum> {
        match self {
            Cell::Null => None,
            Cell::Text(text) => text.into_datum(),
            Cell::Texts(texts) => texts.to_vec().into_datum(),
            Cell::Bytes(bytes) => bytes.into_datum(),
            // a timestamptz is its number
            Cell::Time(time) => time.0.into_datum(),
            Cell::Int4(value) => value.into_datum(),
        }
    }
}
