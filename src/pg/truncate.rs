//! Emptying tables for a remote TRUNCATE.

use std::ptr::null_mut;

use meld_core::wire::RelationDescription;
use pgrx::pg_sys;

use super::names::table_oid;
use super::xact::Xact;
use crate::log::Result;

/// Truncates the tables together, without their sequences; tables with foreign keys to them must be among them, since
/// a cascade was decided, and its tables named, at the origin.
pub fn truncate_tables(_xact: &Xact, tables: &[&RelationDescription]) -> Result<()> {
    let oids = tables.iter().map(|table| table_oid(&table.schema, &table.name)).collect::<Result<Vec<_>>>()?;
    // SAFETY: inside a transaction; lists and relations live until the end of the call; none of them is open elsewhere
    unsafe {
        let (mut relations, mut relation_oids) = (null_mut(), null_mut());
        for oid in oids {
            let relation = pg_sys::table_open(oid, pg_sys::AccessExclusiveLock as i32);
            relations = pg_sys::lappend(relations, relation.cast());
            relation_oids = pg_sys::lappend_oid(relation_oids, oid);
        }
        let behavior = pg_sys::DropBehavior::DROP_RESTRICT;
        #[cfg(feature = "pg15")]
        pg_sys::ExecuteTruncateGuts(relations, relation_oids, null_mut(), behavior, false);
        #[cfg(not(feature = "pg15"))]
        pg_sys::ExecuteTruncateGuts(relations, relation_oids, null_mut(), behavior, false, false);
        let count = if relations.is_null() { 0 } else { (*relations).length };
        for i in 0..count {
            pg_sys::table_close((*(*relations).elements.add(i as usize)).ptr_value.cast(), pg_sys::NoLock as i32);
        }
        pg_sys::CommandCounterIncrement();
    }
    Ok(())
}
