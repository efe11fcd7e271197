//! Replication slots of this database, from PostgreSQL's own view.

use meld_core::lsn::Lsn;

use super::query;
use crate::log::Result;
use crate::pg::types::PgLsn;

/// How far each subscriber has confirmed: of the logical slot of that name, or of all slots of meld. A slot that has
/// confirmed nothing counts as zero.
pub fn confirmed(name: Option<&str>) -> Result<Vec<Lsn>> {
    let sql = "SELECT coalesce(confirmed_flush_lsn, '0/0') FROM pg_catalog.pg_replication_slots \
               WHERE database = pg_catalog.current_database() AND slot_type = 'logical' AND NOT temporary \
               AND CASE WHEN $1 IS NULL THEN plugin = 'meld' ELSE slot_name = $1::name END";
    query::rows(sql, &[name.into()], |row| row.get::<PgLsn>(1).map(|PgLsn(lsn)| lsn))
}

/// Whether anybody subscribes to this database.
pub fn any() -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_replication_slots \
               WHERE plugin = 'meld' AND database = pg_catalog.current_database())";
    Ok(query::first(sql, &[], |row| row.get(1))?.unwrap_or(false))
}
