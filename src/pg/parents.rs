//! Rows that a row refers to, by the foreign keys of its table, and that are not here.
//!
//! The other side of [`super::foreign_keys`]: asked in the apply worker for a row that is to be written, or was. A parent
//! that is here is locked as the server's own check locks it, so that it stays, and stays what it is, until the end of this
//! transaction; one that another transaction deletes at the moment is waited for. Queries run in the name of the owner of
//! the table that is referred to, past row-level security, as the server's do.

use std::collections::HashSet;
use std::ffi::c_int;

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

use super::Oid;
use super::clash_rule::datum_image_eq;
use super::columns::name_of;
use super::foreign_keys::{as_table_owner, query, quoted};
use super::plan::Plan;
use super::target::{RowSide, Target};
use crate::log::Result;

/// A foreign key of a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParentKey {
    pub name: String,
    /// The table referred to, which may be partitioned.
    pub parent: Oid,
    pub parent_schema: String,
    pub parent_table: String,
    pub parent_owner: Oid,
    pub is_partitioned: bool,
    /// The table refers to itself, or a partition to the whole.
    pub is_own_table: bool,
    /// Numbers of the columns that refer.
    pub child_columns: Vec<i16>,
    /// Names and types of the columns referred to.
    pub parent_names: Vec<String>,
    pub parent_types: Vec<String>,
    /// In SQL, what holds for a row `p` that the values `$1`, `$2`, ... of the columns that refer mean.
    pub condition: String,
    /// Of the query that looks for the row referred to.
    pub plan: Plan,
}

/// A row that is referred to and is not here.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ParentRow {
    /// The table referred to; of a partitioned one, the whole.
    pub table: Oid,
    pub schema: String,
    pub name: String,
    /// Name and value, in the form of the table's types, of each column that is referred to. These are unique, but they
    /// need not be the key by which rows of the table are found.
    pub columns: Vec<(String, String)>,
    pub is_partitioned: bool,
}

/// Values by which rows were referred to that are here and locked by this transaction, for one foreign key: no second look
/// is needed. Only values of a fixed length are kept, whose bytes tell all.
#[derive(Default, Debug)]
pub struct LockedParents(HashSet<Vec<u8>>);

impl LockedParents {
    /// More are not kept: then it begins anew.
    const LIMIT: usize = 10_000;

    /// One of them may have been taken away by the transaction itself.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    fn insert(&mut self, values: Vec<u8>) {
        if self.0.len() >= Self::LIMIT {
            self.0.clear();
        }
        self.0.insert(values);
    }
}

impl ParentKey {
    fn lock_query(&self) -> String {
        let only = if self.is_partitioned { "" } else { "ONLY " };
        let (schema, table) = (quoted(&self.parent_schema), quoted(&self.parent_table));
        format!("SELECT FROM {only}{schema}.{table} p WHERE {} FOR KEY SHARE OF p", self.condition)
    }
}

impl Target {
    /// The rows that a row of the change refers to and that are not here, but for itself. `keys` are all foreign keys of
    /// this table. A remote row has to be complete, as [`Target::clashes`] leaves it.
    pub fn missing_parents(&self, side: RowSide, keys: &[ParentKey]) -> Result<Vec<ParentRow>> {
        let mut missing: Vec<ParentRow> = Vec::new();
        for key in keys {
            // SAFETY: the slot holds a row of the open relation
            if let Some(parent) = unsafe { self.missing_parent(side, key)? }
                && !missing.contains(&parent)
            {
                missing.push(parent);
            }
        }
        Ok(missing)
    }

    /// Whether the remote row, just written, refers to one that is not here, by a foreign key of which it has other values
    /// than the row that it has replaced, if there was one: those that it has kept were looked after before.
    /// `locked` has one for each of the keys.
    pub fn lacks_parent(&self, keys: &[ParentKey], locked: &mut [LockedParents], is_update: bool) -> Result<bool> {
        for (key, locked) in keys.iter().zip(locked) {
            if is_update && !self.differs(&key.child_columns) {
                continue;
            }
            let values = self.fixed_bytes(&key.child_columns);
            if values.as_ref().is_some_and(|values| locked.0.contains(values)) {
                continue;
            }
            // SAFETY: the slot holds a row of the open relation
            if unsafe { self.missing_parent(RowSide::Remote, key)? }.is_some() {
                return Ok(true);
            }
            // a row that refers to itself is as good as locked: it goes with itself
            values.into_iter().for_each(|values| locked.insert(values));
        }
        Ok(false)
    }

    /// The bytes of these columns of the remote row; `None` if one is null or has no fixed length.
    fn fixed_bytes(&self, columns: &[i16]) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(columns.len() * 8);
        for &number in columns {
            let at = number as usize - 1;
            // SAFETY: a column of the relation; the remote slot has all of its values at hand; a value of a fixed length
            // that is not passed by value is a pointer to so many bytes
            unsafe {
                let attribute = &(*(*self.relation).rd_att).attrs.as_slice(at + 1)[at];
                if attribute.attlen <= 0 || *(*self.remote).tts_isnull.add(at) {
                    return None;
                }
                let value = *(*self.remote).tts_values.add(at);
                if attribute.attbyval {
                    bytes.extend(value.value().to_le_bytes());
                } else {
                    bytes.extend(std::slice::from_raw_parts(value.cast_mut_ptr::<u8>(), attribute.attlen as usize));
                }
            }
        }
        Some(bytes)
    }

    /// Whether the remote row has other values in these columns than the row that was found.
    pub fn differs(&self, columns: &[i16]) -> bool {
        columns.iter().any(|&number| {
            let at = number as usize - 1;
            // SAFETY: a column of the relation; the remote slot has all of its values at hand, the local one is asked for
            // them; one C call in the guarded closure
            unsafe {
                for slot in [self.local, self.remote] {
                    if ((*slot).tts_nvalid as usize) <= at {
                        pg_sys::slot_getsomeattrs_int(slot, i32::from(number));
                    }
                }
                let (old_null, new_null) = (*(*self.local).tts_isnull.add(at), *(*self.remote).tts_isnull.add(at));
                if old_null || new_null {
                    return old_null != new_null;
                }
                let (old, new) = (*(*self.local).tts_values.add(at), *(*self.remote).tts_values.add(at));
                let attribute = &(*(*self.relation).rd_att).attrs.as_slice(at + 1)[at];
                let (by_value, length) = (attribute.attbyval, c_int::from(attribute.attlen));
                !pg_sys::ffi::pg_guard_ffi_boundary(|| datum_image_eq(old, new, by_value, length))
            }
        })
    }

    /// Whether the table has foreign keys, or others have some to it.
    pub fn has_foreign_keys(&self) -> bool {
        // SAFETY: the relation is open
        unsafe { refers_or_is_referred_to(self.relation) }
    }

    /// # Safety
    /// The slot holds a row.
    unsafe fn missing_parent(&self, side: RowSide, key: &ParentKey) -> Result<Option<ParentRow>> {
        let slot = if side == RowSide::Remote { self.remote } else { self.local };
        // SAFETY: as the caller promises; the values stay while the queries run
        let Some(values) = (unsafe { self.values(slot, &key.child_columns) }) else {
            return Ok(None); // a null refers to nothing
        };
        // with a snapshot of the moment; a row that is there is locked then
        let lock = || key.plan.run(|| key.lock_query(), &values, Some(1), |rows| Ok(!rows.is_empty()));
        let is_here = as_table_owner(key.parent_owner, lock)?;
        if is_here {
            return Ok(None);
        }
        let casts = |column: &dyn Fn(usize) -> String| {
            let casts: Vec<String> = (0..key.parent_types.len())
                .map(|i| format!("pg_catalog.format('%s', {}::{})", column(i), key.parent_types[i]))
                .collect();
            format!("ARRAY[{}]::text[]", casts.join(", "))
        };
        let sql = format!("SELECT {}", casts(&|i| format!("${}", i + 1)));
        let named = as_table_owner(key.parent_owner, || query(&sql, &values))?.pop().unwrap_or_default();
        // SAFETY: as above
        if unsafe { self.is_itself(slot, key, &named)? } {
            return Ok(None);
        }
        Ok(Some(ParentRow {
            table: key.parent,
            schema: key.parent_schema.clone(),
            name: key.parent_table.clone(),
            columns: key.parent_names.iter().cloned().zip(named).collect(),
            is_partitioned: key.is_partitioned,
        }))
    }

    /// Values of these columns of the row in the slot; `None` if one is null.
    ///
    /// # Safety
    /// The slot holds a row, which stays there as long as the values are used.
    unsafe fn values<'v>(&self, slot: *mut pg_sys::TupleTableSlot, columns: &[i16]) -> Option<Vec<DatumWithOid<'v>>> {
        let mut values = Vec::with_capacity(columns.len());
        for &number in columns {
            // SAFETY: a column of the relation; a virtual slot has all of its values at hand
            unsafe {
                let at = number as usize - 1;
                if ((*slot).tts_nvalid as usize) <= at {
                    pg_sys::slot_getsomeattrs_int(slot, i32::from(number));
                }
                if *(*slot).tts_isnull.add(at) {
                    return None;
                }
                let attribute = &(*(*self.relation).rd_att).attrs.as_slice(at + 1)[at];
                values.push(DatumWithOid::new(*(*slot).tts_values.add(at), attribute.atttypid));
            }
        }
        Some(values)
    }

    /// Whether the row refers to itself, which need not be here yet.
    ///
    /// # Safety
    /// The slot holds a row.
    unsafe fn is_itself(&self, slot: *mut pg_sys::TupleTableSlot, key: &ParentKey, named: &[String]) -> Result<bool> {
        // SAFETY: the relation is open, its attributes follow the descriptor; as the caller promises
        let own = unsafe {
            if !key.is_own_table {
                return Ok(false);
            }
            let attributes = (*(*self.relation).rd_att).attrs.as_slice((*(*self.relation).rd_att).natts as usize);
            let number = |name: &String| {
                let of = attributes.iter().find(|attribute| !attribute.attisdropped && name_of(attribute) == *name);
                of.map(|attribute| attribute.attnum)
            };
            let numbers = key.parent_names.iter().map(number).collect::<Option<Vec<i16>>>();
            numbers.and_then(|numbers| self.values(slot, &numbers))
        };
        let Some(own) = own else { return Ok(false) };
        let printed: Vec<String> = (1..=own.len()).map(|place| format!("pg_catalog.format('%s', ${place})")).collect();
        let sql = format!("SELECT ARRAY[{}]::text[]", printed.join(", "));
        let own = as_table_owner(key.parent_owner, || query(&sql, &own))?.pop();
        Ok(own.as_deref() == Some(named))
    }
}

/// Whether rows of a table refer to others, or others may refer to them: the server's own triggers for that tell.
///
/// # Safety
/// An open relation.
pub(super) unsafe fn refers_or_is_referred_to(relation: pg_sys::Relation) -> bool {
    // SAFETY: the relation's description of triggers is an array of so many, or null
    unsafe {
        let triggers = (*relation).trigdesc;
        let all: &[pg_sys::Trigger] = if triggers.is_null() {
            &[]
        } else {
            std::slice::from_raw_parts((*triggers).triggers, (*triggers).numtriggers as usize)
        };
        let none = pg_sys::RI_TRIGGER_NONE as c_int;
        all.iter().any(|trigger| pg_sys::RI_FKey_trigger_type(trigger.tgfoid) != none)
    }
}
