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

use std::collections::HashSet;

use pgrx::datum::DatumWithOid;
use pgrx::prelude::PgSqlErrorCode;
use pgrx::spi::SpiTupleTable;
use pgrx::{Spi, pg_sys};

use super::Oid;
use super::plan::Plan;
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
    /// Of the query that looks for the rows that refer.
    pub plan: Plan,
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
        self.children_of(keys.iter())
    }

    /// The rows that refer to the row that the remote one has just replaced, by values that it has not any more.
    pub fn stranded_children(&self, keys: &[ForeignKey]) -> Result<Vec<ChildRow>> {
        self.children_of(keys.iter().filter(|key| self.differs(&key.parent_columns)))
    }

    fn children_of<'k>(&self, keys: impl Iterator<Item = &'k ForeignKey>) -> Result<Vec<ChildRow>> {
        let mut children: Vec<ChildRow> = Vec::new();
        let mut known: HashSet<ChildRow> = HashSet::new();
        for key in keys {
            // SAFETY: the local slot holds a row of the open relation
            let rows = unsafe { self.children_by(key)? };
            known.extend(children.iter().cloned());
            children.extend(rows.into_iter().filter(|row| !known.contains(row)));
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
        let is_own_table = self.oid() == key.child;
        if is_own_table {
            // SAFETY: the slot holds a stored row; the place that it points to stays
            let place = unsafe { pg_sys::Datum::from(&raw const (*self.local).tts_tid) };
            // SAFETY: the place is of this type
            values.push(unsafe { DatumWithOid::new(place, pg_sys::TIDOID) });
        }
        let look = || key.plan.run(|| key.query(is_own_table), &values, None, texts);
        let keys = as_table_owner(key.child_owner, look)?;
        if key.child_key.is_empty() && !keys.is_empty() {
            return Err(keyless(key));
        }
        Ok(keys.into_iter().map(|values| key.named(values)).collect())
    }
}

impl ForeignKey {
    /// All rows of the table that refers, whatever they refer to.
    pub fn all_rows(&self) -> Result<Vec<ChildRow>> {
        if self.child_key.is_empty() {
            return Ok(Vec::new());
        }
        let (columns, schema, table) = (self.key_texts(), quoted(&self.child_schema), quoted(&self.child_table));
        let sql = format!("SELECT ARRAY[{columns}]::text[] FROM ONLY {schema}.{table} c");
        let keys = as_table_owner(self.child_owner, || with_latest_snapshot(|| query(&sql, &[])))?;
        Ok(keys.into_iter().map(|values| self.named(values)).collect())
    }

    fn named(&self, values: Vec<String>) -> ChildRow {
        ChildRow {
            schema: self.child_schema.clone(),
            table: self.child_table.clone(),
            key: self.child_key.iter().cloned().zip(values).collect(),
        }
    }

    fn key_texts(&self) -> String {
        let column = |column: &String| format!("pg_catalog.format('%s', c.{})", quoted(column));
        self.child_key.iter().map(column).collect::<Vec<String>>().join(", ")
    }

    /// A row that refers to itself goes with itself.
    fn query(&self, is_own_table: bool) -> String {
        let itself = match is_own_table {
            true => format!(" AND c.ctid OPERATOR(pg_catalog.<>) ${}", self.parent_columns.len() + 1),
            false => String::new(),
        };
        format!(
            "SELECT ARRAY[{}]::text[] FROM ONLY {}.{} c WHERE {}{itself}",
            self.key_texts(),
            quoted(&self.child_schema),
            quoted(&self.child_table),
            self.condition,
        )
    }
}

/// The rows of a query that gives one array of texts.
pub(super) fn query(sql: &str, values: &[DatumWithOid]) -> Result<Vec<Vec<String>>> {
    Spi::connect(|client| texts(client.select(sql, None, values)?))
}

fn texts(rows: SpiTupleTable<'_>) -> Result<Vec<Vec<String>>> {
    rows.map(|row| Ok(row.get::<Vec<String>>(1)?.unwrap_or_default())).collect()
}

/// Runs a query in the name of a table's owner, past row-level security. An error ends the transaction, and with it the
/// change.
pub fn as_table_owner<T>(owner: Oid, work: impl FnOnce() -> T) -> T {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    let restricted =
        pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION | pg_sys::SECURITY_NOFORCE_RLS;
    // SAFETY: inside a transaction; the identity from before is put back below, or by the abort
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(owner, context | restricted as i32);
        let level = pg_sys::NewGUCNestLevel();
        // a plan that was made while a table was small is kept while one transaction fills it
        pg_sys::set_config_option(
            c"enable_seqscan".as_ptr(),
            c"off".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
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
