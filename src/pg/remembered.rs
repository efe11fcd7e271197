//! What is known of a relation of the stream and its local table, kept from one transaction to the next.
//!
//! Most transactions change few rows, in the tables that the last ones have changed. Finding the table, matching its
//! columns, and looking up the functions of their types again for each would cost more than writing the row. What is kept
//! counts only as long as nothing in the catalog has changed, and only for the very description that it was made for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use meld_core::wire::RelationDescription;
use pgrx::pg_sys;
use pgrx::prelude::PgSqlErrorCode;

use super::Oid;
use super::columns::ColumnMap;
use super::invalidation;
use super::names::table_oid;
use crate::log::{Failure, Result};

/// Beyond this all is forgotten: descriptions change, and what was made for old ones is never asked for again. A table of
/// fifty columns takes about 60 kB.
const AT_MOST: usize = 256;

pub(super) struct Remembered {
    /// Kept, so that no other one is in its place.
    pub description: Rc<RelationDescription>,
    pub columns: ColumnMap,
    table: Oid,
    /// From before it was looked up.
    generation: u64,
}

thread_local! {
    static ALL: RefCell<HashMap<*const RelationDescription, Remembered>> = RefCell::default();
}

/// Opens and locks the table of that name, and tells what is known of it, to be given back when it is closed. Inside a
/// transaction, which keeps the lock.
pub(super) fn open(remote: &Rc<RelationDescription>) -> Result<(pg_sys::Relation, Remembered)> {
    open_known(remote).map_or_else(|| open_anew(remote), Ok)
}

fn take(description: &Rc<RelationDescription>) -> Option<Remembered> {
    let found = ALL.with_borrow_mut(|all| all.remove(&Rc::as_ptr(description)))?;
    found.is_current().then_some(found)
}

impl Remembered {
    /// Whether nothing has changed since it was looked up.
    fn is_current(&self) -> bool {
        self.generation == invalidation::generation()
    }

    pub fn give_back(self) {
        if !self.is_current() {
            return;
        }
        ALL.with_borrow_mut(|all| {
            if all.len() >= AT_MOST {
                all.clear();
            }
            all.insert(Rc::as_ptr(&self.description), self);
        });
    }
}

/// The table as it was known in an earlier transaction, if nothing has changed since.
fn open_known(remote: &Rc<RelationDescription>) -> Option<(pg_sys::Relation, Remembered)> {
    let known = take(remote)?;
    // SAFETY: inside a transaction; null if the table is gone. What came in with the lock may have changed everything
    unsafe {
        let relation = pg_sys::try_table_open(known.table, pg_sys::RowExclusiveLock as i32);
        if relation.is_null() {
            return None;
        }
        if !known.is_current() {
            pg_sys::table_close(relation, pg_sys::NoLock as i32);
            return None;
        }
        Some((relation, known))
    }
}

fn open_anew(remote: &Rc<RelationDescription>) -> Result<(pg_sys::Relation, Remembered)> {
    let generation = invalidation::generation();
    let relation = open_relation(remote)?;
    // SAFETY: the relation is open and locked until the transaction ends
    let (table, columns) = unsafe { ((*relation).rd_id, ColumnMap::new(remote, (*relation).rd_att)) };
    let columns = columns.map_err(|missing| {
        let (schema, name) = (&remote.schema, &remote.name);
        Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table \"{schema}.{name}\" has no column for \"{}\"", missing.join("\", \"")),
        )
        .hint("Add the column here, or drop it at the provider.")
    })?;
    Ok((relation, Remembered { description: remote.clone(), columns, table, generation }))
}

/// Finds, opens and locks the table.
fn open_relation(remote: &RelationDescription) -> Result<pg_sys::Relation> {
    let oid = table_oid(&remote.schema, &remote.name)?;
    // SAFETY: inside a transaction; a relation that was dropped in between raises "could not open relation"
    unsafe {
        let relation = pg_sys::table_open(oid, pg_sys::RowExclusiveLock as i32);
        if (*(*relation).rd_rel).relkind != pg_sys::RELKIND_RELATION as i8 {
            pg_sys::table_close(relation, pg_sys::NoLock as i32);
            return Err(Failure::new(
                PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
                format!("\"{}.{}\" is not an ordinary table here", remote.schema, remote.name),
            ));
        }
        Ok(relation)
    }
}
