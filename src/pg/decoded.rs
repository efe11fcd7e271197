//! What logical decoding hands to an output plugin: relations as they were, and the rows of a change.
//!
//! All of it is borrowed from the server for the length of one callback. Relations are opened by the server with the
//! historic catalog snapshot and without a lock, so nothing here may use more of them than their cache entry.

use std::ffi::CStr;
use std::marker::PhantomData;

use meld_core::ids::RelId;
use meld_core::wire::{Column, RelationDescription};
use pgrx::{PgTupleDesc, pg_sys};

use super::decoding_session::to_utf8;
use super::row_key;

/// A table, as it was when the change was made.
#[derive(Clone, Copy)]
pub struct DecodedRelation<'a> {
    relation: pg_sys::Relation,
    callback: PhantomData<&'a ()>,
}

/// One version of a row.
#[derive(Clone, Copy)]
pub struct HeapRow<'a> {
    pub(super) tuple: pg_sys::HeapTuple,
    pub(super) descriptor: pg_sys::TupleDesc,
    callback: PhantomData<&'a ()>,
}

/// What was done to a row. Old versions are there only as far as the table's replica identity puts them into WAL.
pub enum RowEvent<'a> {
    Insert { new: HeapRow<'a> },
    Update { old: Option<HeapRow<'a>>, new: HeapRow<'a> },
    Delete { old: Option<HeapRow<'a>> },
}

pub struct RowChange<'a> {
    pub relation: DecodedRelation<'a>,
    pub event: RowEvent<'a>,
}

/// A column whose values travel.
#[derive(Clone, Copy)]
pub struct PublishedColumn {
    /// Its place in the row, from 0, dropped and generated columns counted.
    pub attribute: usize,
    pub type_oid: pg_sys::Oid,
    pub is_varlena: bool,
    pub is_by_value: bool,
    pub is_key: bool,
}

/// A table that a callback has opened itself.
pub struct OpenRelation(pg_sys::Relation);

/// The table of that oid, as it was at the message that is being decoded. None if there was none. For a callback with
/// catalog access.
pub fn open(id: RelId) -> Option<OpenRelation> {
    // SAFETY: with catalog access under the historic snapshot, as the server itself opens the tables of changes; a cache
    // entry with its count raised, or null
    let relation = unsafe { pg_sys::RelationIdGetRelation(pg_sys::Oid::from_u32(id.0)) };
    (!relation.is_null()).then_some(OpenRelation(relation))
}

impl OpenRelation {
    pub fn relation(&self) -> DecodedRelation<'_> {
        DecodedRelation { relation: self.0, callback: PhantomData }
    }
}

impl Drop for OpenRelation {
    fn drop(&mut self) {
        // SAFETY: opened by `open`; takes the count down again
        unsafe { pg_sys::RelationClose(self.0) }
    }
}

impl<'a> DecodedRelation<'a> {
    /// # Safety
    /// A relation that the server keeps open for the callback.
    pub(super) unsafe fn new(relation: pg_sys::Relation) -> DecodedRelation<'a> {
        DecodedRelation { relation, callback: PhantomData }
    }

    pub fn id(self) -> RelId {
        // SAFETY: open, see `new`
        RelId(unsafe { (*self.relation).rd_id }.to_u32())
    }

    /// How many attributes a row has, dropped and generated ones counted.
    pub fn width(self) -> usize {
        self.descriptor().len()
    }

    /// What a peer has to know of the table, and where its columns are in a row, in the same order.
    pub fn describe(self) -> (RelationDescription, Vec<PublishedColumn>) {
        // SAFETY: open, see `new`
        let key = unsafe { row_key::key_attributes(self.relation) };
        let descriptor = self.descriptor();
        let mut columns = Vec::new();
        let mut published = Vec::new();
        for (attribute, column) in descriptor.iter().enumerate() {
            if column.attisdropped || column.attgenerated != 0 {
                continue;
            }
            let is_key = key.contains(&column.attnum);
            columns.push(Column {
                name: name_text(&column.attname),
                type_oid: column.atttypid.to_u32(),
                type_modifier: column.atttypmod,
                is_key,
                is_delta: false,
            });
            published.push(PublishedColumn {
                attribute,
                type_oid: column.atttypid,
                is_varlena: column.attlen == -1,
                is_by_value: column.attbyval,
                is_key,
            });
        }
        let (schema, name) = self.names();
        (RelationDescription { id: self.id(), schema, name, columns }, published)
    }

    fn names(self) -> (String, String) {
        // SAFETY: open, see `new`; the schema's name is a copy in the current memory context, or null if it is gone
        unsafe {
            let form = &*(*self.relation).rd_rel;
            let schema = pg_sys::get_namespace_name(form.relnamespace);
            let schema = if schema.is_null() { String::new() } else { to_utf8(CStr::from_ptr(schema).to_bytes()) };
            (schema, name_text(&form.relname))
        }
    }

    fn descriptor(self) -> PgTupleDesc<'a> {
        // SAFETY: open, see `new`; not reference-counted here, since the relation holds it for the callback
        unsafe { PgTupleDesc::from_pg_unchecked((*self.relation).rd_att) }
    }
}

impl<'a> RowChange<'a> {
    /// None for a change that comes without its row.
    ///
    /// # Safety
    /// Both are the server's, of one callback that outlives the result.
    pub(super) unsafe fn new(
        relation: pg_sys::Relation,
        change: &'a pg_sys::ReorderBufferChange,
    ) -> Option<RowChange<'a>> {
        use pg_sys::ReorderBufferChangeType as Kind;
        // SAFETY: see above
        let (old, new) = unsafe {
            let descriptor = (*relation).rd_att;
            let (old, new) = tuples(change);
            let row = |tuple: pg_sys::HeapTuple| {
                (!tuple.is_null()).then_some(HeapRow { tuple, descriptor, callback: PhantomData })
            };
            (row(old), row(new))
        };
        let event = match change.action {
            Kind::REORDER_BUFFER_CHANGE_INSERT => RowEvent::Insert { new: new? },
            Kind::REORDER_BUFFER_CHANGE_UPDATE => RowEvent::Update { old, new: new? },
            Kind::REORDER_BUFFER_CHANGE_DELETE => RowEvent::Delete { old },
            _ => return None,
        };
        // SAFETY: see above
        Some(RowChange { relation: unsafe { DecodedRelation::new(relation) }, event })
    }

    /// Fingerprint of the key of the row that was replaced or deleted, if WAL tells.
    pub fn old_key(&self) -> Option<u64> {
        let row = match &self.event {
            RowEvent::Insert { .. } | RowEvent::Delete { old: None } => return None,
            // without an old row the key is still the same
            RowEvent::Update { old: None, new: row }
            | RowEvent::Update { old: Some(row), .. }
            | RowEvent::Delete { old: Some(row) } => row,
        };
        // SAFETY: the relation is open for the callback, and the row is one of its
        unsafe { row_key::fingerprint(self.relation.relation, row.tuple, true) }
    }

    /// Fingerprint of the key of an inserted row.
    pub fn inserted_key(&self) -> Option<u64> {
        let RowEvent::Insert { new } = &self.event else { return None };
        // SAFETY: as above
        unsafe { row_key::fingerprint(self.relation.relation, new.tuple, true) }
    }
}

/// The old and the new version in a change, each null if it isn't there.
///
/// # Safety
/// A change of a row.
#[cfg(any(feature = "pg15", feature = "pg16"))]
unsafe fn tuples(change: &pg_sys::ReorderBufferChange) -> (pg_sys::HeapTuple, pg_sys::HeapTuple) {
    let within = |buffer: *mut pg_sys::ReorderBufferTupleBuf| {
        if buffer.is_null() {
            std::ptr::null_mut()
        } else {
            // SAFETY: not null, so the server's buffer with a tuple in it
            unsafe { &raw mut (*buffer).tuple }
        }
    };
    // SAFETY: this member of the union is the one of changes of rows
    let rows = unsafe { change.data.tp };
    (within(rows.oldtuple), within(rows.newtuple))
}

/// The old and the new version in a change, each null if it isn't there.
///
/// # Safety
/// A change of a row.
#[cfg(any(feature = "pg17", feature = "pg18"))]
unsafe fn tuples(change: &pg_sys::ReorderBufferChange) -> (pg_sys::HeapTuple, pg_sys::HeapTuple) {
    // SAFETY: this member of the union is the one of changes of rows
    let rows = unsafe { change.data.tp };
    (rows.oldtuple, rows.newtuple)
}

fn name_text(name: &pg_sys::NameData) -> String {
    // SAFETY: names are terminated within their 64 bytes
    to_utf8(unsafe { CStr::from_ptr(name.data.as_ptr()) }.to_bytes())
}
