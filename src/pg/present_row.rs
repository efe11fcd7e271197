//! The row of a table as it is now, by key: what a subscriber fetches from its provider.
//!
//! Runs in the backend that a subscriber is connected to. Row and writer are read with one snapshot, straight from the
//! heap: neither rights on the table nor row-level security stand between, as they do not for the stream. Functions of
//! the columns' types run as the table's owner in a restricted security context. Values leave as the stream would bring
//! them in text form: the same settings, the encoding of the database, without generated columns.

use std::ptr::null_mut;

use meld_core::ids::{RelId, Xid};
use meld_core::value::{Tuple, Value};
use meld_core::wire::{Column, RelationDescription};
use pgrx::pg_sys;
use pgrx::prelude::PgSqlErrorCode;

use super::columns::{ColumnMap, name_of};
use super::decoding_session::TextFormats;
use super::locate::{KeyIndex, raw_xmin};
use super::names::table_oid;
use super::origin::{Writer, writer_of};
use crate::log::{Failure, Result};

/// A row that is there.
#[derive(Debug)]
pub struct PresentRow {
    /// Names of all columns that travel.
    pub columns: Vec<String>,
    /// Their values, as text.
    pub values: Tuple,
    pub writer: Writer,
    /// Raw.
    pub xmin: Xid,
}

/// A column of a key and its value as text, in the encoding of the database.
pub type KeyColumn = (String, Vec<u8>);

/// Reads the row with the active snapshot; `None` if there is none with that key.
pub fn present_row(schema: &str, name: &str, key: &[KeyColumn]) -> Result<Option<PresentRow>> {
    let relation = open(schema, name)?;
    let mut formats = TextFormats::set();
    let owner = Owner::become_of(relation);
    // SAFETY: the relation is open and locked; a snapshot is active in every function call
    let row = unsafe { look(relation, schema, name, key) };
    owner.leave();
    formats.restore();
    // SAFETY: opened above; nothing of it is used any more, and the lock stays until the transaction ends
    unsafe { pg_sys::table_close(relation, pg_sys::NoLock as i32) };
    row
}

fn open(schema: &str, name: &str) -> Result<pg_sys::Relation> {
    let missing =
        || Failure::new(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, format!("table \"{schema}.{name}\" does not exist"));
    let oid = table_oid(schema, name).map_err(|_| missing())?;
    let refused = |what: &str| {
        Err(Failure::new(PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE, format!("\"{schema}.{name}\" {what}")))
    };
    if oid.to_u32() < pg_sys::FirstNormalObjectId || schema == "meld" {
        return refused("belongs to the server or to meld");
    }
    // SAFETY: inside a transaction; a relation that was dropped in between raises "could not open relation"
    unsafe {
        let relation = pg_sys::table_open(oid, pg_sys::AccessShareLock as i32);
        if (*(*relation).rd_rel).relkind == pg_sys::RELKIND_RELATION as i8 {
            return Ok(relation);
        }
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
    }
    refused("is not an ordinary table")
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

/// # Safety
/// An open relation; a snapshot is active.
unsafe fn look(relation: pg_sys::Relation, schema: &str, name: &str, key: &[KeyColumn]) -> Result<Option<PresentRow>> {
    // SAFETY: the relation is open
    let description = unsafe { describe(relation, schema, name, key) };
    // SAFETY: as above
    let columns = unsafe { ColumnMap::new(&description, (*relation).rd_att) };
    let by_key = |column: &Column| key.iter().find(|(name, _)| *name == column.name);
    let wanted: Tuple = description
        .columns
        .iter()
        .map(|column| by_key(column).map_or(Value::Null, |(_, value)| Value::Text(value)))
        .collect();
    let known = description.columns.iter().filter(|column| column.is_key).count();
    let opened = columns.ok().filter(|_| known == key.len()).and_then(|columns| {
        // SAFETY: as above
        let index = unsafe { KeyIndex::open(relation, &columns) }?;
        Some((columns, index))
    });
    let Some((mut columns, index)) = opened else { return Err(no_such_key(schema, name, key)) };
    // SAFETY: slots of this relation, dropped when nothing points to them any more; the arrays are as wide as its rows;
    // after `slot_getsomeattrs_int` all values stand in the slot's
    unsafe {
        let asked = pg_sys::MakeSingleTupleTableSlot((*relation).rd_att, &pg_sys::TTSOpsVirtual);
        let width = (*(*relation).rd_att).natts;
        std::slice::from_raw_parts_mut((*asked).tts_isnull, width as usize).fill(true);
        columns.read(wanted.values(), (*asked).tts_values, (*asked).tts_isnull)?;
        pg_sys::ExecStoreVirtualTuple(asked);
        let found = pg_sys::table_slot_create(relation, null_mut());
        let row = index.read(relation, asked, found, pg_sys::GetActiveSnapshot()).then(|| {
            pg_sys::slot_getsomeattrs_int(found, width);
            let all: Vec<usize> = (0..width as usize).collect();
            let xmin = raw_xmin(found);
            PresentRow {
                columns: description.columns.iter().map(|column| column.name.clone()).collect(),
                values: columns.print(&all, (*found).tts_values, (*found).tts_isnull),
                writer: writer_of(xmin),
                xmin: Xid(xmin.into_inner()),
            }
        });
        pg_sys::ExecDropSingleTupleTableSlot(found);
        pg_sys::ExecDropSingleTupleTableSlot(asked);
        index.close();
        Ok(row)
    }
}

/// The table as a stream would describe it, with the key that was asked for.
///
/// # Safety
/// An open relation.
unsafe fn describe(relation: pg_sys::Relation, schema: &str, name: &str, key: &[KeyColumn]) -> RelationDescription {
    // SAFETY: `natts` attributes follow the descriptor
    let attributes = unsafe { (*(*relation).rd_att).attrs.as_slice((*(*relation).rd_att).natts as usize) };
    let columns = attributes.iter().filter(|attribute| !attribute.attisdropped && attribute.attgenerated == 0);
    RelationDescription {
        id: RelId(0),
        schema: schema.to_owned(),
        name: name.to_owned(),
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

fn no_such_key(schema: &str, name: &str, key: &[KeyColumn]) -> Failure {
    let columns: Vec<&str> = key.iter().map(|(column, _)| column.as_str()).collect();
    Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("rows of \"{schema}.{name}\" can't be found by \"{}\"", columns.join("\", \"")),
    )
    .detail("These are not the columns of its primary key, nor of its replica identity index.")
}
