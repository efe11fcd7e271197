//! The history of conflicts, `meld.resolutions`, as something that grows and is cut at its old end.
//!
//! Written in the room `conflict`, by the transaction that decides; pruned by the manager.

use super::query;
use crate::log::Result;

/// Removes entries that are older than so many seconds, the oldest first and not more than so many; gives how many. What
/// somebody else has locked is left for the next time.
pub fn prune(older_than_s: i32, limit: i64) -> Result<i64> {
    let sql = "WITH gone AS (DELETE FROM meld.resolutions d WHERE d.ctid = ANY (ARRAY( \
               SELECT r.ctid FROM meld.resolutions r \
               WHERE r.log_time < pg_catalog.now() - $1 * interval '1 second' \
               ORDER BY r.log_time LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING 1) \
               SELECT pg_catalog.count(*) FROM gone";
    let counts = query::change(sql, &[f64::from(older_than_s).into(), limit.into()], |row| row.get(1))?;
    Ok(counts.into_iter().next().unwrap_or(0))
}
