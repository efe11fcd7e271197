//! The indexes of a table of meld's, to be written to: with less ado than the server's functions for its own catalogs, which
//! look at the table anew for each row. Such an index has plain columns only, neither expressions nor a condition.

use pgrx::pg_sys;

use super::Oid;

/// Columns that an index can have.
const KEY_COLUMNS: usize = pg_sys::INDEX_MAX_KEYS as usize;

/// An index, open in one transaction.
#[derive(Clone, Copy)]
pub(super) struct OpenIndex {
    relation: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
}

impl OpenIndex {
    /// Opens the indexes of a table.
    ///
    /// # Safety
    /// An open table, inside a transaction, for which it and they stay as they are.
    pub unsafe fn all_of(table: pg_sys::Relation) -> Vec<OpenIndex> {
        // SAFETY: see above; what tells of an index lives as long as the transaction
        unsafe {
            let context = pg_sys::MemoryContextSwitchTo(pg_sys::TopTransactionContext);
            let oids = pgrx::PgList::<Oid>::from_pg(pg_sys::RelationGetIndexList(table));
            let open = |oid: Oid| {
                let relation = pg_sys::index_open(oid, pg_sys::RowExclusiveLock as i32);
                OpenIndex { relation, info: pg_sys::BuildIndexInfo(relation) }
            };
            let indexes = oids.iter_oid().map(open).collect();
            pg_sys::MemoryContextSwitchTo(context);
            indexes
        }
    }

    /// Adds a row.
    ///
    /// # Safety
    /// The index is open; its table, which is open too, a row of that, and where it was just stored.
    pub unsafe fn insert(
        &self,
        table: pg_sys::Relation,
        values: &[pg_sys::Datum],
        nulls: &[bool],
        place: &mut pg_sys::ItemPointerData,
    ) {
        use pg_sys::IndexUniqueCheck::{UNIQUE_CHECK_NO, UNIQUE_CHECK_YES};
        let nothing = pg_sys::Datum::from(0_usize);
        let (mut of_index, mut are_null) = ([nothing; KEY_COLUMNS], [true; KEY_COLUMNS]);
        // SAFETY: see above; the arrays are as long as an index has columns at most
        unsafe {
            let info = &*self.info;
            if !info.ii_ReadyForInserts {
                return;
            }
            let numbers = &info.ii_IndexAttrNumbers[..info.ii_NumIndexAttrs as usize];
            for (i, &number) in numbers.iter().enumerate() {
                let column = number as usize - 1;
                (of_index[i], are_null[i]) = (values[column], nulls[column]);
            }
            let check = if (*(*self.relation).rd_index).indisunique { UNIQUE_CHECK_YES } else { UNIQUE_CHECK_NO };
            let (of_index, are_null) = (of_index.as_mut_ptr(), are_null.as_mut_ptr());
            pg_sys::index_insert(self.relation, of_index, are_null, place, table, check, false, self.info);
        }
    }

    /// Gives back everything but the lock.
    pub fn close(&self) {
        // SAFETY: opened by `all_of`, closed once
        unsafe { pg_sys::index_close(self.relation, pg_sys::NoLock as i32) }
    }
}
