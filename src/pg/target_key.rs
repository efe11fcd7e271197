//! What a target's rows are called: their keys as text, for other nodes and for later transactions.

use std::ffi::CStr;

use meld_core::value::{Tuple, Value};
use meld_core::wire::RelationDescription;
use pgrx::pg_sys;
use pgrx::prelude::PgSqlErrorCode;

use super::Oid;
use super::decoded::DecodedRelation;
use super::delta::mark;
use super::key_bytes::{KeyColumns, RowKey};
use super::locate::KeyIndex;
use super::names::table_oid;
use super::row_key;
use super::target::{RowSide, Target};
use super::xact::Xact;
use crate::log::{Failure, Result};

impl Target {
    /// The local table.
    pub fn oid(&self) -> Oid {
        // SAFETY: the relation is open
        unsafe { (*self.relation).rd_id }
    }

    /// The bytes of a row's key. Raises if the key can't become bytes: such a table is kept out of the sets, but may have
    /// been altered since.
    pub fn row_key(&self, side: RowSide) -> RowKey {
        let slot = if side == RowSide::Remote { self.remote } else { self.local };
        // SAFETY: the slot holds a row of the open relation; afterwards all values that the key needs are in its arrays
        let key = unsafe {
            self.key_columns_as_bytes().and_then(|columns| {
                if side == RowSide::Local {
                    pg_sys::slot_getsomeattrs_int(slot, columns.width() as i32);
                }
                columns.encode((*slot).tts_values, (*slot).tts_isnull)
            })
        };
        key.unwrap_or_else(|| self.no_bytes().raise())
    }

    /// The bytes of a key that is given as a tuple of the stream.
    pub fn key_of_tuple(&mut self, key: &Tuple) -> Result<RowKey> {
        // SAFETY: the arrays are as wide as a row of the relation
        unsafe {
            let width = (*(*self.relation).rd_att).natts as usize;
            let mut values = vec![pg_sys::Datum::from(0_usize); width];
            let mut nulls = vec![true; width];
            self.known.columns.read(key.values(), values.as_mut_ptr(), nulls.as_mut_ptr())?;
            let columns = self.key_columns_as_bytes();
            columns.and_then(|columns| columns.encode(values.as_ptr(), nulls.as_ptr())).ok_or_else(|| self.no_bytes())
        }
    }

    fn no_bytes(&self) -> Failure {
        Failure::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("rows of \"{}.{}\" can't be told apart by the bytes of their keys", self.schema(), self.name()),
        )
        .hint("Use key columns of types for which equal values are stored alike, such as integers, text or uuid.")
    }

    fn key_columns_as_bytes(&self) -> Option<&KeyColumns> {
        // SAFETY: the relation is open
        self.key_bytes
            .get_or_init(|| unsafe { KeyColumns::of(self.relation) }.and_then(std::result::Result::ok))
            .as_ref()
    }

    /// By which the output plugin knows the row that was found.
    pub fn fingerprint(&self) -> Option<u64> {
        // SAFETY: the local slot holds a row of the open relation; a copy of it is the current memory context's
        unsafe {
            let mut is_copy = false;
            let tuple = pg_sys::ExecFetchSlotHeapTuple(self.local, false, &mut is_copy);
            row_key::fingerprint(self.relation, tuple, false)
        }
    }

    /// By which the output plugin knows the remote row, once it is put.
    pub fn remote_fingerprint(&self) -> Option<u64> {
        // SAFETY: the remote slot has all of its values; the tuple is the current memory context's
        unsafe { row_key::fingerprint(self.relation, pg_sys::ExecCopySlotHeapTuple(self.remote), false) }
    }

    /// Name and value, as the type prints it, of each key column of a row. Null values are left out: no key has any.
    pub fn key_values(&self, side: RowSide) -> Vec<(String, String)> {
        let slot = if side == RowSide::Remote { self.remote } else { self.local };
        let columns: Vec<usize> = self.key.iter().flat_map(KeyIndex::columns).collect();
        let mut values = Vec::with_capacity(columns.len());
        for column in columns {
            // SAFETY: the slot holds a row of the relation, of which `column` is one; the printed value is copied
            unsafe {
                // a row that came with the stream has all of its values at hand
                if ((*slot).tts_nvalid as usize) <= column {
                    pg_sys::slot_getsomeattrs_int(slot, column as i32 + 1);
                }
                if *(*slot).tts_isnull.add(column) {
                    continue;
                }
                let attribute = &(*(*slot).tts_tupleDescriptor).attrs.as_slice(column + 1)[column];
                let (mut function, mut is_varlena) = (pg_sys::InvalidOid, false);
                pg_sys::getTypeOutputInfo(attribute.atttypid, &mut function, &mut is_varlena);
                let text = pg_sys::OidOutputFunctionCall(function, *(*slot).tts_values.add(column));
                values.push((self.column_name(column), CStr::from_ptr(text).to_string_lossy().into_owned()));
            }
        }
        values
    }
}

/// A tuple of the relation with the key's values and nulls elsewhere.
pub fn key_tuple<'v>(relation: &RelationDescription, key: impl Fn(&str) -> Option<&'v str>) -> Tuple {
    let value = |name: &str| key(name).map_or(Value::Null, |text| Value::Text(text.as_bytes()));
    relation.columns.iter().map(|column| value(&column.name)).collect()
}

/// The description of a local table, as this node's own stream gives it.
pub fn describe_local(_xact: &Xact, schema: &str, name: &str) -> Result<RelationDescription> {
    let oid = table_oid(schema, name)?;
    // SAFETY: inside a transaction; a relation that was dropped in between raises; open while it is described
    unsafe {
        let relation = pg_sys::table_open(oid, pg_sys::RowExclusiveLock as i32);
        let (mut description, columns) = DecodedRelation::new(relation).describe();
        mark(&mut description, &columns)?;
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        Ok(description)
    }
}
