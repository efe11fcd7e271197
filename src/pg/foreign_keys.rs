//! Rows that refer to a row, by the foreign keys of their tables.
//!
//! The server's own triggers for foreign keys don't fire in apply, so a row that goes is asked here for the rows that
//! would be left behind. Runs in the apply worker, for the row that a [`Target`] has found. As the server's check does,
//! it compares with the foreign key's own operators, in the name of the owner of the table that is looked into, past
//! row-level security.
//!
//! The answer is complete if the row is locked as for a delete: whoever adds a row that refers to it locks it, too, and
//! has either committed before, and is seen by the snapshot of the moment that is taken here, or waits for the end of
//! this transaction and fails.

use pgrx::datum::DatumWithOid;
use pgrx::prelude::PgSqlErrorCode;
use pgrx::{Spi, pg_sys};

use super::Oid;
use super::server::with_latest_snapshot;
use super::target::Target;
use crate::log::{Failure, Result};

/// A foreign key to a table, as a table with rows of its own has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForeignKey {
    pub name: String,
    /// The table that refers.
    pub child: Oid,
    pub child_schema: String,
    pub child_table: String,
    pub child_owner: Oid,
    /// Names of the columns by which its rows are found; empty if there is no key.
    pub child_key: Vec<String>,
    /// Numbers of the columns that are referred to.
    pub parent_columns: Vec<i16>,
    /// In SQL, what holds for a row `c` that refers to the values `$1`, `$2`, ... of those columns.
    pub condition: String,
}

/// Table and key of a row.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChildRow {
    pub schema: String,
    pub table: String,
    /// Name and value, as the type prints it, of each key column.
    pub key: Vec<(String, String)>,
}

impl Target {
    /// The rows that refer to the row found last, but for itself. `keys` are all foreign keys to this table.
    pub fn children(&self, keys: &[ForeignKey]) -> Result<Vec<ChildRow>> {
        let mut children: Vec<ChildRow> = Vec::new();
        for key in keys {
            // SAFETY: the local slot holds a row of the open relation
            let rows = unsafe { self.children_by(key)? };
            for row in rows {
                if !children.contains(&row) {
                    children.push(row);
                }
            }
        }
        Ok(children)
    }

    /// # Safety
    /// The local slot holds a row.
    unsafe fn children_by(&self, key: &ForeignKey) -> Result<Vec<ChildRow>> {
        let mut values = Vec::with_capacity(key.parent_columns.len());
        for &number in &key.parent_columns {
            // SAFETY: a column of the relation, whose value stays in the slot's tuple while the query runs
            unsafe {
                let attribute = &(*(*self.relation).rd_att).attrs.as_slice(number as usize)[number as usize - 1];
                pg_sys::slot_getsomeattrs_int(self.local, i32::from(number));
                if *(*self.local).tts_isnull.add(number as usize - 1) {
                    return Ok(Vec::new()); // nothing can refer to it
                }
                let value = *(*self.local).tts_values.add(number as usize - 1);
                values.push(DatumWithOid::new(value, attribute.atttypid));
            }
        }
        // SAFETY: as the caller promises
        let itself = unsafe { self.unless_itself(key) };
        let columns: Vec<String> =
            key.child_key.iter().map(|column| format!("pg_catalog.format('%s', c.{})", quoted(column))).collect();
        let sql = format!(
            "SELECT ARRAY[{}]::text[] FROM ONLY {}.{} c WHERE {}{itself}",
            columns.join(", "),
            quoted(&key.child_schema),
            quoted(&key.child_table),
            key.condition,
        );
        let keys = as_table_owner(key.child_owner, || with_latest_snapshot(|| query(&sql, &values)))?;
        if key.child_key.is_empty() && !keys.is_empty() {
            return Err(keyless(key));
        }
        let named = |values: Vec<String>| ChildRow {
            schema: key.child_schema.clone(),
            table: key.child_table.clone(),
            key: key.child_key.iter().cloned().zip(values).collect(),
        };
        Ok(keys.into_iter().map(named).collect())
    }

    /// A row that refers to itself goes with itself.
    ///
    /// # Safety
    /// The local slot holds a row.
    unsafe fn unless_itself(&self, key: &ForeignKey) -> String {
        // SAFETY: as the caller promises; the relation is open
        unsafe {
            if key.child != (*self.relation).rd_id {
                return String::new();
            }
            let (block, offset) = pgrx::itemptr::item_pointer_get_both((*self.local).tts_tid);
            format!(" AND c.ctid OPERATOR(pg_catalog.<>) '({block},{offset})'::pg_catalog.tid")
        }
    }
}

/// The rows of a query that gives one array of texts.
pub(super) fn query(sql: &str, values: &[DatumWithOid]) -> Result<Vec<Vec<String>>> {
    Spi::connect(|client| {
        let rows = client.select(sql, None, values)?;
        rows.map(|row| Ok(row.get::<Vec<String>>(1)?.unwrap_or_default())).collect()
    })
}

/// Runs a query in the name of a table's owner, past row-level security. An error ends the transaction, and with it the
/// change.
pub(super) fn as_table_owner<T>(owner: Oid, work: impl FnOnce() -> T) -> T {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    let restricted =
        pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION | pg_sys::SECURITY_NOFORCE_RLS;
    // SAFETY: inside a transaction; the identity from before is put back below, or by the abort
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(owner, context | restricted as i32);
        let level = pg_sys::NewGUCNestLevel();
        let result = work();
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::SetUserIdAndSecContext(user, context);
        result
    }
}

pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn keyless(key: &ForeignKey) -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_FOREIGN_KEY_VIOLATION,
        format!(
            "rows of \"{}.{}\" refer to a row that has to go, and can't be told by a key",
            key.child_schema, key.child_table
        ),
    )
    .detail(format!("They refer to it by foreign key \"{}\".", key.name))
    .hint("Give the table a primary key, or delete the rows by hand.")
}
