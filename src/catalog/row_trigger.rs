//! Which tables have meld's triggers, from PostgreSQL's own catalog, and which should.

use super::query;
use crate::log::Result;
use crate::pg::Oid;
use crate::pg::trigger_catalog::Kind;

/// A trigger of meld's on a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowTrigger {
    pub oid: Oid,
    /// It fires in every session.
    pub fires_always: bool,
}

/// The tables that should have a trigger of the kind, as a query.
fn wanted(kind: Kind) -> &'static str {
    match kind {
        // those in a replication set that have rows of their own
        Kind::Row | Kind::Truncate => {
            "SELECT DISTINCT t.set_reloid::oid AS relid FROM meld.replication_set_table t \
             JOIN pg_catalog.pg_class c ON c.oid = t.set_reloid AND c.relkind = 'r'"
        }
        // and delta columns, too
        Kind::Counter | Kind::Arrival => {
            "SELECT DISTINCT t.set_reloid::oid AS relid FROM meld.replication_set_table t \
             JOIN pg_catalog.pg_class c ON c.oid = t.set_reloid AND c.relkind = 'r' \
             JOIN meld.delta_column d ON d.relid = t.set_reloid"
        }
    }
}

/// The function of a kind of trigger.
pub fn function(kind: Kind) -> Result<Option<Oid>> {
    let name = match kind {
        Kind::Row => "meld.row_trigger()",
        Kind::Counter => "meld.counter_trigger()",
        Kind::Truncate => "meld.truncate_trigger()",
        Kind::Arrival => "meld.arrival_trigger()",
    };
    query::first("SELECT pg_catalog.to_regprocedure($1::text)::oid", &[name.into()], |row| row.optional(1))
        .map(Option::flatten)
}

/// The triggers with this function that a table has; it should have one or none.
pub fn of_table(table: Oid, function: Oid) -> Result<Vec<RowTrigger>> {
    let sql = "SELECT oid, tgenabled = 'A' FROM pg_catalog.pg_trigger \
               WHERE tgrelid = $1 AND tgfoid = $2 AND tgisinternal ORDER BY oid";
    query::rows(sql, &[table.into(), function.into()], |row| {
        Ok(RowTrigger { oid: row.get(1)?, fires_always: row.get(2)? })
    })
}

/// Whether a table should have a trigger of the kind.
pub fn is_wanted(table: Oid, kind: Kind) -> Result<bool> {
    let sql = format!("SELECT true FROM ({}) w WHERE w.relid = $1", wanted(kind));
    Ok(query::first(&sql, &[table.into()], |row| row.get::<bool>(1))?.is_some())
}

/// The tables whose trigger of the kind is missing, does not fire in every session, or should not be there.
pub fn to_repair(kind: Kind, function: Oid) -> Result<Vec<Oid>> {
    let sql = format!(
        "WITH wanted AS ({}), \
             present AS (SELECT tgrelid AS relid, count(*) = 1 AND bool_and(tgenabled = 'A') AS is_right \
                 FROM pg_catalog.pg_trigger WHERE tgfoid = $1 AND tgisinternal GROUP BY tgrelid) \
         SELECT relid FROM wanted FULL JOIN present USING (relid) \
         WHERE wanted.relid IS NULL OR present.is_right IS NOT TRUE ORDER BY relid",
        wanted(kind)
    );
    query::rows(&sql, &[function.into()], |row| row.get(1))
}
