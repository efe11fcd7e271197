//! Emptying tables for a remote TRUNCATE: all at once, or row by row where newer rows stay.

use std::ffi::CStr;
use std::ptr::null_mut;

use meld_core::ids::Xid;
use meld_core::wire::RelationDescription;
use pgrx::pg_sys;

use super::Oid;
use super::key_bytes::{KeyColumns, RowKey};
use super::names::table_oid;
use super::origin::writer_of_row;
use super::parents::refers_or_is_referred_to;
use super::row_json::json_of;
use super::row_key;
use super::target::Found;
use super::xact::Xact;
use crate::log::Result;

/// A table that nobody else can use until the transaction ends.
pub struct DoomedTable {
    relation: pg_sys::Relation,
    key: Option<KeyColumns>,
    pub oid: Oid,
}

/// Where a row is stored.
#[derive(Clone, Copy)]
pub struct Place(pg_sys::ItemPointerData);

/// A row of such a table, while it is looked at.
pub struct DoomedRow<'t> {
    table: &'t DoomedTable,
    tuple: pg_sys::HeapTuple,
}

impl DoomedTable {
    /// Waits until nobody uses the table.
    pub fn open(_xact: &Xact, description: &RelationDescription) -> Result<DoomedTable> {
        let oid = table_oid(&description.schema, &description.name)?;
        // SAFETY: inside a transaction; a relation that was dropped in between raises
        unsafe {
            let relation = pg_sys::table_open(oid, pg_sys::AccessExclusiveLock as i32);
            let key = KeyColumns::of(relation).and_then(std::result::Result::ok);
            Ok(DoomedTable { relation, key, oid })
        }
    }

    /// Whether others refer to its rows.
    pub fn is_referred_to(&self) -> bool {
        // SAFETY: the relation is open
        unsafe { refers_or_is_referred_to(self.relation) }
    }

    /// Shows each row, until one of them makes `look` fail.
    pub fn each_row(&self, mut look: impl FnMut(DoomedRow<'_>) -> Result<()>) -> Result<()> {
        // SAFETY: the table is open; no index is used; the snapshot is registered until the scan has ended. After an error
        // the transaction's end frees both
        unsafe {
            let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
            let scan = pg_sys::systable_beginscan(self.relation, pg_sys::InvalidOid, false, snapshot, 0, null_mut());
            loop {
                let tuple = pg_sys::systable_getnext(scan);
                if tuple.is_null() {
                    break;
                }
                pg_sys::check_for_interrupts!();
                look(DoomedRow { table: self, tuple })?;
            }
            pg_sys::systable_endscan(scan);
            pg_sys::UnregisterSnapshot(snapshot);
        }
        Ok(())
    }

    /// Deletes a row, without triggers: a TRUNCATE has none for rows.
    pub fn erase(&self, place: Place) {
        let mut place = place.0;
        // SAFETY: the table is open and the row was seen in this transaction; raises if it is gone
        unsafe { pg_sys::simple_heap_delete(self.relation, &mut place) }
    }

    /// Gives back everything but the lock.
    pub fn close(self) {
        // SAFETY: opened by `open`, closed once
        unsafe {
            pg_sys::table_close(self.relation, pg_sys::NoLock as i32);
            pg_sys::CommandCounterIncrement();
        }
    }

    /// Names of the columns of its key.
    pub fn key_columns(&self) -> Vec<String> {
        // SAFETY: an open table; the names are copies in the current memory context
        unsafe {
            let name = |&attribute: &pg_sys::AttrNumber| {
                let name = pg_sys::get_attname(self.oid, attribute, false);
                CStr::from_ptr(name).to_string_lossy().into_owned()
            };
            row_key::key_attributes(self.relation).iter().map(name).collect()
        }
    }
}

impl DoomedRow<'_> {
    pub fn place(&self) -> Place {
        // SAFETY: the scan's current tuple
        Place(unsafe { (*self.tuple).t_self })
    }

    pub fn found(&self) -> Found {
        // SAFETY: as above
        let (xmin, writer) = unsafe {
            let head = (*self.tuple).t_data;
            (pg_sys::htup::HeapTupleHeaderGetRawXmin(head), writer_of_row(head))
        };
        Found { writer, xmin: Xid(xmin.into_inner()) }
    }

    pub fn key(&self) -> Option<RowKey> {
        // SAFETY: the scan's current tuple, of the open table
        unsafe { self.table.key.as_ref()?.of_tuple(self.tuple, (*self.table.relation).rd_att) }
    }

    /// The row as JSON text.
    pub fn json(&self) -> String {
        // SAFETY: as above; row_to_json takes a composite Datum and needs no more of its caller
        unsafe {
            let row = pg_sys::heap_copy_tuple_as_datum(self.tuple, (*self.table.relation).rd_att);
            json_of(row)
        }
    }
}

/// Truncates the tables together, without their sequences; tables with foreign keys to them must be among them, since
/// a cascade was decided, and its tables named, at the origin.
pub fn truncate_tables(_xact: &Xact, tables: &[Oid]) {
    // SAFETY: inside a transaction; lists and relations live until the end of the call; none of them is open elsewhere
    unsafe {
        let (mut relations, mut relation_oids) = (null_mut(), null_mut());
        for &oid in tables {
            let relation = pg_sys::table_open(oid, pg_sys::AccessExclusiveLock as i32);
            relations = pg_sys::lappend(relations, relation.cast());
            relation_oids = pg_sys::lappend_oid(relation_oids, oid);
        }
        let behavior = pg_sys::DropBehavior::DROP_RESTRICT;
        #[cfg(feature = "pg15")]
        pg_sys::ExecuteTruncateGuts(relations, relation_oids, null_mut(), behavior, false);
        #[cfg(not(feature = "pg15"))]
        pg_sys::ExecuteTruncateGuts(relations, relation_oids, null_mut(), behavior, false, false);
        let count = if relations.is_null() { 0 } else { (*relations).length };
        for i in 0..count {
            pg_sys::table_close((*(*relations).elements.add(i as usize)).ptr_value.cast(), pg_sys::NoLock as i32);
        }
        pg_sys::CommandCounterIncrement();
    }
}
