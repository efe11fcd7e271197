//! The delta columns of a table, and its rows as the messages about them have them.
//!
//! Which columns are counters is asked for at each row that is changed, so each process keeps what it knows, as long as no
//! invalidation names the table: the functions that change delta columns send one. Tuples here are as wide as this node's
//! own description of the table (`decoded`): one value for each column that is neither dropped nor generated.

use std::cell::RefCell;
use std::ffi::CStr;
use std::num::NonZeroUsize;
use std::rc::Rc;

use meld_core::ids::RelId;
use meld_core::value::{Tuple, Value};
use meld_core::wire::RelationDescription;
use pgrx::pg_sys;
use pgrx::prelude::PgSqlErrorCode;

use super::Oid;
use super::counter::{Amount, CounterType};
use super::decoded::PublishedColumn;
use super::decoding_session::TextFormats;
use super::historic::{self, Key};
use super::invalidation::TableCache;
use super::row_key;
use crate::log::{Failure, Result};

/// A counter of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeltaColumn {
    /// Its place in the row, from 0, dropped and generated columns counted.
    pub attribute: usize,
    pub kind: CounterType,
    pub(super) type_modifier: i32,
}

/// The delta columns of a table, in the order of its columns; usually none.
pub type DeltaColumns = Rc<[DeltaColumn]>;

thread_local! {
    static KNOWN: RefCell<TableCache<DeltaColumns>> = RefCell::default();
}

/// Numbers of the columns that are marked as counters, from 1, in the catalog as it is at the moment: while WAL is
/// decoded, that of the time of the change.
fn marked(table: RelId) -> Result<Vec<i16>> {
    let found = historic::read(c"delta_column", Some((c"relid", Key::Oid(table.0))), &[c"attnum"], |row| row.int2(0))?;
    let mut numbers = found.unwrap_or_default();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Marks the counters in a table's description, in the catalog as it is at the moment.
pub fn mark(description: &mut RelationDescription, columns: &[PublishedColumn]) -> Result<()> {
    let marked = marked(description.id)?;
    for (column, place) in description.columns.iter_mut().zip(columns) {
        let is_marked = marked.iter().any(|&number| usize::try_from(number) == Ok(place.attribute + 1));
        column.is_delta = is_marked && CounterType::of(place.type_oid).is_some();
    }
    Ok(())
}

/// The delta columns of an open table, in a session that does not decode.
///
/// # Safety
/// An open relation, in a transaction.
pub(super) unsafe fn of(relation: pg_sys::Relation) -> Result<DeltaColumns> {
    // SAFETY: see above
    let table = RelId(unsafe { (*relation).rd_id }.to_u32());
    if let Some(columns) = KNOWN.with_borrow_mut(|known| known.get(table)) {
        return Ok(columns);
    }
    let marked = marked(table)?;
    // SAFETY: the relation stays open
    let descriptor = unsafe { pgrx::PgTupleDesc::from_pg_unchecked((*relation).rd_att) };
    let column = |number: &i16| {
        let attribute = usize::try_from(number - 1).ok()?;
        let column = descriptor.get(attribute).filter(|column| !column.attisdropped)?;
        Some(DeltaColumn { attribute, kind: CounterType::of(column.atttypid)?, type_modifier: column.atttypmod })
    };
    let columns: DeltaColumns = marked.iter().filter_map(column).collect();
    KNOWN.with_borrow_mut(|known| known.insert(table, columns.clone()));
    Ok(columns)
}

/// The counters of a row, in the order of the delta columns.
///
/// # Safety
/// An open relation with these columns, in a transaction, and a row of it.
pub(super) unsafe fn amounts(
    relation: pg_sys::Relation,
    row: pg_sys::HeapTuple,
    columns: &[DeltaColumn],
) -> Result<Vec<Amount>> {
    // SAFETY: see above
    unsafe {
        let descriptor = (*relation).rd_att;
        columns
            .iter()
            .map(|column| {
                let number = NonZeroUsize::MIN.saturating_add(column.attribute);
                match pgrx::htup::heap_getattr_raw(row, number, descriptor) {
                    Some(value) => column.kind.read(value),
                    None => Err(null_counter(relation, column)),
                }
            })
            .collect()
    }
}

/// # Safety
/// An open relation with this column.
unsafe fn null_counter(relation: pg_sys::Relation, column: &DeltaColumn) -> Failure {
    // SAFETY: see above; names are terminated within their 64 bytes
    let name = unsafe {
        let descriptor = pgrx::PgTupleDesc::from_pg_unchecked((*relation).rd_att);
        let column = descriptor.get(column.attribute).map(|column| column.attname.data);
        column.map(|name| CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned())
    };
    Failure::new(
        PgSqlErrorCode::ERRCODE_NOT_NULL_VIOLATION,
        format!("delta column \"{}\" must not be null", name.unwrap_or_default()),
    )
}

/// A tuple of the table with the text that `text` has for a column, by its place in the row, and null elsewhere.
///
/// # Safety
/// An open relation.
pub(super) unsafe fn tuple(relation: pg_sys::Relation, text: impl Fn(usize) -> Option<String>) -> Tuple {
    // SAFETY: see above
    let descriptor = unsafe { pgrx::PgTupleDesc::from_pg_unchecked((*relation).rd_att) };
    let travels = |column: &pg_sys::FormData_pg_attribute| !column.attisdropped && column.attgenerated == 0;
    let mut tuple = Tuple::with_capacity(descriptor.len(), 16);
    for (attribute, _) in descriptor.iter().enumerate().filter(|(_, column)| travels(column)) {
        match text(attribute) {
            Some(text) => tuple.push(Value::Text(text.as_bytes())),
            None => tuple.push(Value::Null),
        }
    }
    tuple
}

/// The amounts as a tuple of the table.
///
/// # Safety
/// An open relation with these columns; as many amounts as columns.
pub(super) unsafe fn amounts_tuple(relation: pg_sys::Relation, columns: &[DeltaColumn], amounts: &[Amount]) -> Tuple {
    let text = |attribute: usize| {
        let place = columns.iter().position(|column| column.attribute == attribute)?;
        amounts.get(place).map(Amount::text)
    };
    // SAFETY: see above
    unsafe { tuple(relation, text) }
}

/// One counter of a residue, as it is kept with a tombstone: the number of its column and its amount, unless that is zero.
pub(super) fn kept(column: &DeltaColumn, amount: &Amount) -> Option<String> {
    (!amount.is_zero()).then(|| format!("{}={}", column.attribute + 1, amount.text()))
}

/// The amount of a counter in a residue.
pub(super) fn amount_kept(column: &DeltaColumn, residue: &[String]) -> Result<Amount> {
    let prefix = format!("{}=", column.attribute + 1);
    match residue.iter().find_map(|entry| entry.strip_prefix(&prefix)) {
        Some(text) => column.kind.parse(text.as_bytes()),
        None => Ok(column.kind.zero()),
    }
}

/// The key of a row as text that depends on no setting, in the order of the key's columns, with the place of each column.
/// None if the table has no key.
///
/// # Safety
/// An open relation, in a transaction, and a row of it.
pub(super) unsafe fn key_texts(relation: pg_sys::Relation, row: pg_sys::HeapTuple) -> Option<Vec<(usize, String)>> {
    // SAFETY: see above; printed values are copied
    let text = |number: pg_sys::AttrNumber| unsafe {
        let place = usize::try_from(number - 1).ok()?;
        let descriptor = (*relation).rd_att;
        let value = pgrx::htup::heap_getattr_raw(row, NonZeroUsize::MIN.saturating_add(place), descriptor)?;
        let column = pgrx::PgTupleDesc::from_pg_unchecked(descriptor).get(place)?.atttypid;
        let (mut function, mut is_varlena) = (pg_sys::InvalidOid, false);
        pg_sys::getTypeOutputInfo(column, &mut function, &mut is_varlena);
        let text = CStr::from_ptr(pg_sys::OidOutputFunctionCall(function, value));
        Some((place, text.to_string_lossy().into_owned()))
    };
    // SAFETY: see above
    let attributes = unsafe { row_key::key_attributes(relation) };
    let mut formats = TextFormats::set();
    let texts: Option<Vec<_>> = attributes.into_iter().map(text).collect();
    formats.restore();
    texts.filter(|texts| !texts.is_empty())
}

/// A table of this node whose rows are gone, to tell other nodes about its keys.
pub struct OwnTable {
    relation: pg_sys::Relation,
    columns: DeltaColumns,
}

impl OwnTable {
    /// None if it is not there.
    pub fn open(table: Oid) -> Result<Option<OwnTable>> {
        // SAFETY: inside a transaction; null if there is no such table. The lock and, after an error, the relation are let
        // go of at the transaction's end
        unsafe {
            let relation = pg_sys::try_table_open(table, pg_sys::AccessShareLock as i32);
            if relation.is_null() {
                return Ok(None);
            }
            let columns = of(relation)?;
            Ok(Some(OwnTable { relation, columns }))
        }
    }

    pub fn relation(&self) -> RelId {
        // SAFETY: the relation is open
        RelId(unsafe { (*self.relation).rd_id }.to_u32())
    }

    /// The amounts of a residue, in the order of the delta columns.
    pub fn amounts(&self, residue: &[String]) -> Result<Vec<Amount>> {
        self.columns.iter().map(|column| amount_kept(column, residue)).collect()
    }

    pub fn amounts_tuple(&self, amounts: &[Amount]) -> Tuple {
        // SAFETY: the relation is open
        unsafe { amounts_tuple(self.relation, &self.columns, amounts) }
    }

    /// A key that is given as text, in the order of its columns. None if the table has another key now.
    pub fn key_tuple(&self, values: &[String]) -> Option<Tuple> {
        // SAFETY: the relation is open
        unsafe {
            let key = row_key::key_attributes(self.relation);
            let place = |attribute: usize| key.iter().position(|&number| usize::try_from(number) == Ok(attribute + 1));
            let text = |attribute| values.get(place(attribute)?).cloned();
            (key.len() == values.len()).then(|| tuple(self.relation, text))
        }
    }

    pub fn close(self) {
        // SAFETY: opened by `open`; the lock stays until the transaction ends
        unsafe { pg_sys::table_close(self.relation, pg_sys::NoLock as i32) }
    }
}
