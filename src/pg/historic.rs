//! Reading meld's own tables without SPI, which an output plugin must not use.
//!
//! The scan takes the catalog snapshot of the moment: while WAL is decoded that is the historic one, so the rows are
//! those of the time of the change. It works for tables that are marked `user_catalog_table`, by their primary key or
//! whole. Needs a transaction, as every callback of an output plugin has one that may look into the catalog.

use std::ffi::{CStr, c_int};
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::ptr;

use pgrx::pg_sys;
use pgrx::prelude::PgSqlErrorCode;

use super::decoding_session::to_utf8;
use crate::log::{Failure, Result};

const SCHEMA: &CStr = c"meld";

/// What the first column of the primary key has to be.
#[derive(Clone, Copy)]
pub enum Key {
    Oid(u32),
    Int4(i32),
}

/// A row that a scan stands on; its columns are those that were asked for, by their place in that list.
pub struct CatalogRow<'a> {
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
    attributes: &'a [NonZeroUsize],
    types: &'a [pg_sys::Oid],
    scan: PhantomData<&'a ()>,
}

/// Reads the rows of `meld.<table>` whose primary key begins with `key`, or all of them. None if there is no such table
/// at that time, which means that the extension wasn't installed.
pub fn read<T>(
    table: &CStr,
    key: Option<(&CStr, Key)>,
    columns: &[&CStr],
    mut row: impl FnMut(&CatalogRow<'_>) -> Result<T>,
) -> Result<Option<Vec<T>>> {
    let Some(relation) = self::table(table) else { return Ok(None) };
    let attributes = columns.iter().map(|column| attribute(table, relation, column)).collect::<Result<Vec<_>>>()?;
    let key = match key {
        Some((column, key)) => Some((attribute(table, relation, column)?, key)),
        None => None,
    };
    let scan = Scan::begin(relation, key);
    let types: Vec<_> = attributes.iter().map(|&attribute| scan.column_type(attribute)).collect();
    let descriptor = scan.descriptor();
    let mut next = || {
        let tuple = scan.next()?;
        let at = CatalogRow { tuple, descriptor, attributes: &attributes, types: &types, scan: PhantomData };
        Some(row(&at))
    };
    let rows = std::iter::from_fn(&mut next).collect::<Result<Vec<T>>>();
    scan.end();
    rows.map(Some)
}

impl CatalogRow<'_> {
    fn datum(&self, column: usize, expected: pg_sys::Oid) -> Result<pg_sys::Datum> {
        if self.types[column] != expected {
            return Err(wrong());
        }
        // SAFETY: the row that the scan stands on, with its own descriptor
        unsafe { pgrx::htup::heap_getattr_raw(self.tuple, self.attributes[column], self.descriptor) }.ok_or_else(wrong)
    }

    pub fn int2(&self, column: usize) -> Result<i16> {
        Ok(self.datum(column, pg_sys::INT2OID)?.value() as i16)
    }

    pub fn int4(&self, column: usize) -> Result<i32> {
        Ok(self.datum(column, pg_sys::INT4OID)?.value() as i32)
    }

    pub fn int8(&self, column: usize) -> Result<i64> {
        Ok(self.datum(column, pg_sys::INT8OID)?.value() as i64)
    }

    pub fn oid(&self, column: usize) -> Result<u32> {
        Ok(self.datum(column, pg_sys::OIDOID)?.value() as u32)
    }

    /// Microseconds since 2000-01-01 00:00 UTC.
    pub fn timestamp(&self, column: usize) -> Result<i64> {
        Ok(self.datum(column, pg_sys::TIMESTAMPTZOID)?.value() as i64)
    }

    pub fn boolean(&self, column: usize) -> Result<bool> {
        Ok(self.datum(column, pg_sys::BOOLOID)?.value() as u8 != 0)
    }

    /// Bytes that are stored in the row itself.
    pub fn bytes(&self, column: usize) -> Result<&[u8]> {
        let stored = self.datum(column, pg_sys::BYTEAOID)?.cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: the type was checked; a value that is read where it lies, in the row that the scan stands on
        unsafe {
            let is_plain = pgrx::varlena::varatt_is_4b_u(stored)
                || (pgrx::varlena::varatt_is_1b(stored) && !pgrx::varlena::varatt_is_1b_e(stored));
            if !is_plain {
                return Err(wrong());
            }
            let bytes = pgrx::varlena::vardata_any(stored).cast();
            Ok(std::slice::from_raw_parts(bytes, pgrx::varlena::varsize_any_exhdr(stored)))
        }
    }

    pub fn name(&self, column: usize) -> Result<String> {
        let name = self.datum(column, pg_sys::NAMEOID)?.cast_mut_ptr::<pg_sys::NameData>();
        // SAFETY: the type was checked, and values of it are always terminated
        Ok(to_utf8(unsafe { CStr::from_ptr((*name).data.as_ptr()) }.to_bytes()))
    }
}

fn wrong() -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, "unexpected null or type in a table of meld's catalog")
}

/// The oid of `meld.<table>`, if it is there.
pub fn table(table: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: in a transaction; C strings; gives InvalidOid for what is not there
    let oid = unsafe {
        let schema = pg_sys::get_namespace_oid(SCHEMA.as_ptr(), true);
        if schema == pg_sys::InvalidOid { schema } else { pg_sys::get_relname_relid(table.as_ptr(), schema) }
    };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

fn attribute(table: &CStr, relation: pg_sys::Oid, column: &CStr) -> Result<NonZeroUsize> {
    // SAFETY: in a transaction; a C string; gives 0 for what is not there
    let number = unsafe { pg_sys::get_attnum(relation, column.as_ptr()) };
    usize::try_from(number).ok().and_then(NonZeroUsize::new).ok_or_else(|| {
        Failure::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            format!(
                "column \"{}\" of table \"meld.{}\" does not exist",
                column.to_string_lossy(),
                table.to_string_lossy()
            ),
        )
        .hint("Update the extension with ALTER EXTENSION meld UPDATE.")
    })
}

/// An open table and the scan over it. If an error rises in between, the end of the transaction closes both.
struct Scan {
    relation: pg_sys::Relation,
    scan: pg_sys::SysScanDesc,
}

impl Scan {
    fn begin(table: pg_sys::Oid, key: Option<(NonZeroUsize, Key)>) -> Scan {
        // SAFETY: in a transaction; the table is there. The keys are copied by the scan
        unsafe {
            let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            let mut keys = [pg_sys::ScanKeyData::default()];
            let (count, index) = match key {
                Some((attribute, key)) => {
                    let (function, value) = match key {
                        Key::Oid(value) => (pg_sys::F_OIDEQ, pg_sys::Datum::from(value)),
                        Key::Int4(value) => (pg_sys::F_INT4EQ, pg_sys::Datum::from(value)),
                    };
                    pg_sys::ScanKeyInit(
                        keys.as_mut_ptr(),
                        attribute.get() as pg_sys::AttrNumber,
                        pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
                        function.into(),
                        value,
                    );
                    (1, super::row_key::primary_key_index(relation))
                }
                None => (0, pg_sys::InvalidOid),
            };
            let scan = pg_sys::systable_beginscan(
                relation,
                index,
                index != pg_sys::InvalidOid,
                ptr::null_mut(),
                count as c_int,
                keys.as_mut_ptr(),
            );
            Scan { relation, scan }
        }
    }

    fn descriptor(&self) -> pg_sys::TupleDesc {
        // SAFETY: the relation is open
        unsafe { (*self.relation).rd_att }
    }

    fn column_type(&self, attribute: NonZeroUsize) -> pg_sys::Oid {
        // SAFETY: the relation is open, and its descriptor does not go away before it is closed
        let descriptor = unsafe { pgrx::PgTupleDesc::from_pg_unchecked(self.descriptor()) };
        descriptor.get(attribute.get() - 1).map_or(pg_sys::InvalidOid, |column| column.atttypid)
    }

    fn next(&self) -> Option<pg_sys::HeapTuple> {
        // SAFETY: the scan is open; the row stays until the next call
        let tuple = unsafe { pg_sys::systable_getnext(self.scan) };
        (!tuple.is_null()).then_some(tuple)
    }

    fn end(self) {
        // SAFETY: both are open
        unsafe {
            pg_sys::systable_endscan(self.scan);
            pg_sys::table_close(self.relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        }
    }
}
