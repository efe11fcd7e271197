//! What an index says about two rows: whether they can stand in the table together.
//!
//! A [`Rule`] is made of an index that a [`super::target::Target`] has open, for one look for clashes, in the apply
//! worker. It knows no rows, only their [`Entry`]s in that index, which [`super::clash`] makes and compares with it.

use std::ffi::{CStr, c_int};

use pgrx::pg_sys;

// Not among pgrx's bindings: utils/datum.h
#[allow(improper_ctypes)]
unsafe extern "C-unwind" {
    pub(super) fn datum_image_eq(one: pg_sys::Datum, other: pg_sys::Datum, by_value: bool, length: c_int) -> bool;
}

pub(super) const MAX_COLUMNS: usize = pg_sys::INDEX_MAX_KEYS as usize;

/// What an index holds, or would hold, of a row.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) values: [pg_sys::Datum; MAX_COLUMNS],
    pub(super) nulls: [bool; MAX_COLUMNS],
}

/// An open index in which two rows can be in each other's way.
#[derive(Clone, Copy)]
pub(super) struct Rule {
    pub(super) index: pg_sys::Relation,
    pub(super) info: *mut pg_sys::IndexInfo,
    /// Number of columns that decide.
    pub(super) width: usize,
    /// Functions of the operators that must all hold for two rows to clash, and their strategy numbers.
    procedures: *const pg_sys::Oid,
    strategies: *const u16,
}

/// The indexes of an open table in which rows can clash, but for the one by which they are found. One that is still
/// being built and takes no rows yet refuses none either.
///
/// # Safety
/// The result relation's indexes are open for speculative inserts.
pub(super) unsafe fn rules(result: *mut pg_sys::ResultRelInfo, key: pg_sys::Oid) -> Vec<Rule> {
    let mut rules = Vec::new();
    // SAFETY: both arrays have so many elements; an index that is left out is null. Opened so, an index has the
    // operators of its exclusion constraint, or those of equality if it is unique
    unsafe {
        for i in 0..(*result).ri_NumIndices as usize {
            let (index, info) = (*(*result).ri_IndexRelationDescs.add(i), *(*result).ri_IndexRelationInfo.add(i));
            if index.is_null() || (*index).rd_id == key || !(*info).ii_ReadyForInserts {
                continue;
            }
            let (procedures, strategies) = match ((*info).ii_ExclusionOps.is_null(), (*info).ii_Unique) {
                (false, _) => ((*info).ii_ExclusionProcs, (*info).ii_ExclusionStrats),
                (true, true) => ((*info).ii_UniqueProcs, (*info).ii_UniqueStrats),
                (true, false) => continue,
            };
            rules.push(Rule { index, info, width: (*info).ii_NumIndexKeyAttrs as usize, procedures, strategies });
        }
    }
    rules
}

impl Rule {
    /// The index's name.
    pub(super) fn name(&self) -> String {
        // SAFETY: an open index has its form, whose name ends with a zero
        let name = unsafe { CStr::from_ptr((*(*self.index).rd_rel).relname.data.as_ptr()) };
        name.to_string_lossy().into_owned()
    }

    /// Whether a row with this entry can be in any other's way: not with a null, unless nulls count as equal.
    pub(super) fn can_clash(&self, entry: &Entry) -> bool {
        // SAFETY: the index is open, and so its description is there
        unsafe { (*self.info).ii_NullsNotDistinct || !entry.nulls[..self.width].contains(&true) }
    }

    fn collation(&self, column: usize) -> pg_sys::Oid {
        // SAFETY: an open index has a collation for each of its columns
        unsafe { *(*self.index).rd_indcollation.add(column) }
    }

    fn procedure(&self, column: usize) -> pg_sys::Oid {
        // SAFETY: as long as the index has columns that decide
        unsafe { *self.procedures.add(column) }
    }

    pub(super) fn scan_keys(&self, entry: &Entry) -> Vec<pg_sys::ScanKeyData> {
        let mut keys = vec![pg_sys::ScanKeyData::default(); self.width];
        for (column, key) in keys.iter_mut().enumerate() {
            let flags = if entry.nulls[column] { pg_sys::SK_ISNULL | pg_sys::SK_SEARCHNULL } else { 0 };
            // SAFETY: the key's memory is zeroed, and the strategies are as many as the columns
            unsafe {
                pg_sys::ScanKeyEntryInitialize(
                    key,
                    flags as c_int,
                    column as i16 + 1,
                    *self.strategies.add(column),
                    pg_sys::InvalidOid,
                    self.collation(column),
                    self.procedure(column),
                    entry.values[column],
                );
            }
        }
        keys
    }

    /// Whether two entries clash.
    ///
    /// # Safety
    /// Both are of this index.
    pub(super) unsafe fn holds(&self, present: &Entry, wanted: &Entry) -> bool {
        (0..self.width).all(|i| match (present.nulls[i], wanted.nulls[i]) {
            // a null in a row that can clash counts as equal to a null
            (true, true) => true,
            (true, false) | (false, true) => false,
            // SAFETY: values of the operator's own types
            (false, false) => unsafe {
                let (left, right) = (present.values[i], wanted.values[i]);
                pg_sys::OidFunctionCall2Coll(self.procedure(i), self.collation(i), left, right).value() as u8 != 0
            },
        })
    }

    /// Whether two entries are the same to the byte.
    ///
    /// # Safety
    /// Both are of this index.
    pub(super) unsafe fn same_image(&self, one: &Entry, other: &Entry) -> bool {
        (0..self.width).all(|i| {
            if one.nulls[i] || other.nulls[i] {
                return one.nulls[i] && other.nulls[i];
            }
            let (mut length, mut by_value) = (0, false);
            let (left, right) = (one.values[i], other.values[i]);
            // SAFETY: values of the type that the index's operator class takes; one C call in the guarded closure
            unsafe {
                pg_sys::get_typlenbyval(*(*self.index).rd_opcintype.add(i), &mut length, &mut by_value);
                pg_sys::ffi::pg_guard_ffi_boundary(|| datum_image_eq(left, right, by_value, c_int::from(length)))
            }
        })
    }
}
