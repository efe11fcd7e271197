//! Which tables have meld's row trigger, from PostgreSQL's own catalog, and which should: those in a replication set.

use super::query;
use crate::log::Result;
use crate::pg::Oid;

/// A trigger of meld's on a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowTrigger {
    pub oid: Oid,
    /// It fires in every session.
    pub fires_always: bool,
}

/// The trigger's function.
pub fn function() -> Result<Option<Oid>> {
    query::first("SELECT pg_catalog.to_regprocedure('meld.row_trigger()')::oid", &[], |row| row.optional(1))
        .map(Option::flatten)
}

/// The triggers that a table has; it should have one or none.
pub fn of_table(table: Oid, function: Oid) -> Result<Vec<RowTrigger>> {
    let sql = "SELECT oid, tgenabled = 'A' FROM pg_catalog.pg_trigger \
               WHERE tgrelid = $1 AND tgfoid = $2 AND tgisinternal ORDER BY oid";
    query::rows(sql, &[table.into(), function.into()], |row| {
        Ok(RowTrigger { oid: row.get(1)?, fires_always: row.get(2)? })
    })
}

/// Whether a table has rows of its own and is in a replication set.
pub fn is_wanted(table: Oid) -> Result<bool> {
    let sql = "SELECT true FROM meld.replication_set_table t JOIN pg_catalog.pg_class c ON c.oid = t.set_reloid \
               WHERE t.set_reloid = $1 AND c.relkind = 'r' LIMIT 1";
    Ok(query::first(sql, &[table.into()], |row| row.get::<bool>(1))?.is_some())
}

/// The tables whose trigger is missing, does not fire in every session, or should not be there.
pub fn to_repair(function: Oid) -> Result<Vec<Oid>> {
    let sql = "WITH wanted AS (SELECT DISTINCT t.set_reloid::oid AS relid FROM meld.replication_set_table t \
                   JOIN pg_catalog.pg_class c ON c.oid = t.set_reloid AND c.relkind = 'r'), \
               present AS (SELECT tgrelid AS relid, count(*) = 1 AND bool_and(tgenabled = 'A') AS is_right \
                   FROM pg_catalog.pg_trigger WHERE tgfoid = $1 AND tgisinternal GROUP BY tgrelid) \
               SELECT relid FROM wanted FULL JOIN present USING (relid) \
               WHERE wanted.relid IS NULL OR present.is_right IS NOT TRUE ORDER BY relid";
    query::rows(sql, &[function.into()], |row| row.get(1))
}
