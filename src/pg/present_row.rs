//! The row of a table as it is now, by key: what a subscriber fetches from its provider, and
//! what its stamp is asked of.
//!
//! Runs in the backend that a subscriber is connected to, or that somebody asks for a stamp in. Rows are read straight
//! from the heap: neither rights on the table nor row-level security stand between, as they do not for the stream, so
//! whoever asks was checked before. Functions of the columns' types run as the table's owner in a restricted security
//! context. Values leave as the stream would bring them in text form: the same settings, the encoding of the database,
//! without generated columns.
//!
//! A table is opened for one key, looked into, perhaps more than once, and closed before the function returns; after an
//! error the end of the transaction lets go of it.

use std::ffi::{CStr, c_char};
use std::ptr::null_mut;

use meld_core::ids::{RelId, Xid};
use meld_core::value::{Tuple, Value};
use meld_core::wire::{Column, RelationDescription};
use pgrx::pg_sys;
use pgrx::prelude::PgSqlErrorCode;

use super::Oid;
use super::columns::{ColumnMap, name_of};
use super::decoding_session::TextFormats;
use super::delta;
use super::key_bytes::{KeyColumns, RowKey};
use super::locate::{KeyIndex, raw_xmin, writer_in};
use super::names::table_oid;
use super::origin::Writer;
use super::row_key::key_attributes;
use crate::log::{Failure, Result};

/// A version of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version {
    pub writer: Writer,
    /// Raw.
    pub xmin: Xid,
}

/// A column of a key and its value as text, in the encoding of the database.
pub type KeyColumn = (String, Vec<u8>);

/// A table that is open for one key.
pub struct PresentTable {
    relation: pg_sys::Relation,
    /// All columns that travel.
    description: RelationDescription,
    columns: ColumnMap,
    index: KeyIndex,
    key_bytes: Option<KeyColumns>,
    /// The key that is asked for, with nulls elsewhere.
    asked: *mut pg_sys::TupleTableSlot,
    found: *mut pg_sys::TupleTableSlot,
}

/// The table of that name.
pub fn user_table(schema: &str, name: &str) -> Result<Oid> {
    table_oid(schema, name).map_err(|_| {
        Failure::new(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, format!("table \"{schema}.{name}\" does not exist"))
    })
}

/// Names of the columns by which rows of a table are found; empty if there are none.
pub fn key_names(table: Oid) -> Result<Vec<String>> {
    let relation = open(table)?;
    // SAFETY: the relation is open, and closed again
    unsafe {
        let attributes = (*(*relation).rd_att).attrs.as_slice((*(*relation).rd_att).natts as usize);
        let names = key_attributes(relation).iter().map(|&number| name_of(&attributes[number as usize - 1])).collect();
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        Ok(names)
    }
}

impl PresentTable {
    pub fn open(table: Oid, key: &[KeyColumn]) -> Result<PresentTable> {
        let relation = open(table)?;
        // SAFETY: the relation is open
        let description = unsafe { describe(relation, key) };
        // SAFETY: as above
        let columns = unsafe { ColumnMap::new(&description, (*relation).rd_att) };
        let known = description.columns.iter().filter(|column| column.is_key).count();
        let opened = columns.ok().filter(|_| known == key.len()).and_then(|columns| {
            // SAFETY: as above
            let index = unsafe { KeyIndex::open(relation, &columns) }?;
            Some((columns, index))
        });
        let Some((mut columns, index)) = opened else { return Err(no_such_key(&description, key)) };
        let by_key = |column: &Column| key.iter().find(|(name, _)| *name == column.name);
        let value = |column| by_key(column).map_or(Value::Null, |(_, value)| Value::Text(value));
        let wanted: Tuple = description.columns.iter().map(value).collect();
        // SAFETY: slots of this relation, in the function's memory; the arrays are as wide as its rows
        unsafe {
            let asked = pg_sys::MakeSingleTupleTableSlot((*relation).rd_att, &pg_sys::TTSOpsVirtual);
            let width = (*(*relation).rd_att).natts as usize;
            std::slice::from_raw_parts_mut((*asked).tts_isnull, width).fill(true);
            let (mut formats, owner) = (TextFormats::set(), Owner::become_of(relation));
            columns.read(wanted.values(), (*asked).tts_values, (*asked).tts_isnull)?;
            owner.leave();
            formats.restore();
            pg_sys::ExecStoreVirtualTuple(asked);
            let found = pg_sys::table_slot_create(relation, null_mut());
            let key_bytes = KeyColumns::of(relation).and_then(std::result::Result::ok);
            Ok(PresentTable { relation, description, columns, index, key_bytes, asked, found })
        }
    }

    pub fn oid(&self) -> Oid {
        // SAFETY: the relation is open
        unsafe { (*self.relation).rd_id }
    }

    /// The columns that travel, keys and counters among them.
    pub fn columns(&self) -> Result<Vec<Column>> {
        // SAFETY: the relation is open
        let (counters, attributes) = unsafe {
            let descriptor = (*self.relation).rd_att;
            (delta::of(self.relation)?, (*descriptor).attrs.as_slice((*descriptor).natts as usize))
        };
        let is_delta = |column: &Column| counters.iter().any(|c| name_of(&attributes[c.attribute]) == column.name);
        let of = |column: &Column| Column { is_delta: is_delta(column), ..column.clone() };
        Ok(self.description.columns.iter().map(of).collect())
    }

    /// The row of this moment, if it is there.
    pub fn look(&mut self) -> Option<Version> {
        // SAFETY: the slots are of the relation; the snapshot is registered as long as it is used
        unsafe {
            let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
            pg_sys::ExecClearTuple(self.found);
            let is_there = self.index.read(self.relation, self.asked, self.found, snapshot);
            pg_sys::UnregisterSnapshot(snapshot);
            is_there.then(|| {
                pg_sys::slot_getsomeattrs_int(self.found, (*(*self.found).tts_tupleDescriptor).natts);
                let xmin = raw_xmin(self.found);
                Version { writer: writer_in(self.found), xmin: Xid(xmin.into_inner()) }
            })
        }
    }

    /// Bytes of the key of the row that was found.
    pub fn found_key(&self) -> Option<RowKey> {
        // SAFETY: all values of the row are in the slot's arrays
        unsafe { self.key_bytes.as_ref()?.encode((*self.found).tts_values, (*self.found).tts_isnull) }
    }

    /// Bytes of the key that was asked for, if it is the one of the table.
    pub fn asked_key(&self) -> Option<RowKey> {
        // SAFETY: all values of the row are in the slot's arrays
        unsafe { self.key_bytes.as_ref()?.encode((*self.asked).tts_values, (*self.asked).tts_isnull) }
    }

    /// Name and text of each column of the row that was found.
    pub fn print(&self) -> (Vec<String>, Tuple) {
        let (mut formats, owner) = (TextFormats::set(), Owner::become_of(self.relation));
        // SAFETY: all values of the row are in the slot's arrays
        let values = unsafe {
            let all: Vec<usize> = (0..(*(*self.relation).rd_att).natts as usize).collect();
            self.columns.print(&all, (*self.found).tts_values, (*self.found).tts_isnull)
        };
        owner.leave();
        formats.restore();
        (self.description.columns.iter().map(|column| column.name.clone()).collect(), values)
    }

    /// Gives back everything but the lock.
    pub fn close(self) {
        self.index.close();
        // SAFETY: opened by `open`, and not used any more
        unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.found);
            pg_sys::ExecDropSingleTupleTableSlot(self.asked);
            pg_sys::table_close(self.relation, pg_sys::NoLock as i32);
        }
    }
}

fn open(table: Oid) -> Result<pg_sys::Relation> {
    // SAFETY: inside a transaction; a relation that is gone raises "could not open relation"
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
        let (schema, name) = names(relation);
        let complaint = if table.to_u32() < pg_sys::FirstNormalObjectId || schema == "meld" {
            "belongs to the server or to meld"
        } else if (*(*relation).rd_rel).relkind != pg_sys::RELKIND_RELATION as i8 {
            "is not an ordinary table"
        } else {
            return Ok(relation);
        };
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        Err(Failure::new(PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE, format!("\"{schema}.{name}\" {complaint}")))
    }
}

/// # Safety
/// An open relation.
unsafe fn names(relation: pg_sys::Relation) -> (String, String) {
    // SAFETY: an open relation has its form, whose schema is there as long as it is
    unsafe {
        let schema = pg_sys::get_namespace_name((*(*relation).rd_rel).relnamespace);
        let schema = if schema.is_null() { String::new() } else { text(schema) };
        (schema, text((*(*relation).rd_rel).relname.data.as_ptr()))
    }
}

/// # Safety
/// A C string.
unsafe fn text(name: *const c_char) -> String {
    // SAFETY: see above
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

/// Work in the name of a table's owner, until [`Owner::leave`], or the abort after an error.
struct Owner {
    saved_user: pg_sys::Oid,
    saved_context: i32,
    settings_level: i32,
}

impl Owner {
    fn become_of(relation: pg_sys::Relation) -> Owner {
        let (mut saved_user, mut saved_context) = (pg_sys::InvalidOid, 0);
        // SAFETY: an open relation has its form; undone by `leave`
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut saved_user, &mut saved_context);
            let restricted = saved_context | pg_sys::SECURITY_RESTRICTED_OPERATION as i32;
            pg_sys::SetUserIdAndSecContext((*(*relation).rd_rel).relowner, restricted);
            Owner { saved_user, saved_context, settings_level: pg_sys::NewGUCNestLevel() }
        }
    }

    fn leave(self) {
        // SAFETY: the level and the identity from before
        unsafe {
            pg_sys::AtEOXact_GUC(false, self.settings_level);
            pg_sys::SetUserIdAndSecContext(self.saved_user, self.saved_context);
        }
    }
}

/// The table as a stream would describe it, with the key that was asked for.
///
/// # Safety
/// An open relation.
unsafe fn describe(relation: pg_sys::Relation, key: &[KeyColumn]) -> RelationDescription {
    // SAFETY: the relation is open
    let (schema, name) = unsafe { names(relation) };
    // SAFETY: `natts` attributes follow the descriptor
    let attributes = unsafe { (*(*relation).rd_att).attrs.as_slice((*(*relation).rd_att).natts as usize) };
    let columns = attributes.iter().filter(|attribute| !attribute.attisdropped && attribute.attgenerated == 0);
    RelationDescription {
        id: RelId(0),
        schema,
        name,
        columns: columns
            .map(|attribute| {
                let name = name_of(attribute);
                Column {
                    is_key: key.iter().any(|(column, _)| *column == name),
                    name,
                    type_oid: attribute.atttypid.to_u32(),
                    type_modifier: attribute.atttypmod,
                    is_delta: false,
                }
            })
            .collect(),
    }
}

fn no_such_key(description: &RelationDescription, key: &[KeyColumn]) -> Failure {
    let columns: Vec<&str> = key.iter().map(|(column, _)| column.as_str()).collect();
    let (schema, name) = (&description.schema, &description.name);
    Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("rows of \"{schema}.{name}\" can't be found by \"{}\"", columns.join("\", \"")),
    )
    .detail("These are not the columns of its primary key, nor of its replica identity index.")
}
