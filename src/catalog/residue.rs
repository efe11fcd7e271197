//! Counters of deleted rows that may be given up, found in `meld.tombstone`.

use meld_core::time::Timestamp;
use pgrx::datum::TimestampWithTimeZone;

use super::query;
use crate::log::Result;
use crate::pg::Oid;
use crate::pg::key_bytes::RowKey;

/// Keys of tables whose tombstones in these blocks of the table have a residue, and were made up to that time. `to` is not
/// among the blocks. Whose tombstones they are has to be looked at.
pub fn up_to(from: u32, to: u32, time: Timestamp, at_most: i64) -> Result<Vec<(Oid, RowKey)>> {
    let sql = "SELECT DISTINCT t.relid, t.key FROM meld.tombstone t WHERE t.ctid >= $1::tid AND t.ctid < $2::tid \
                  AND t.residue IS NOT NULL AND (t.stamp_ts IS NULL OR t.stamp_ts <> '-infinity') \
                  AND coalesce(t.since_ts, pg_catalog.pg_xact_commit_timestamp(t.xmin)) <= $3 \
               ORDER BY t.relid, t.key LIMIT $4";
    let time = TimestampWithTimeZone::try_from(time.0).ok();
    let args = [format!("({from},0)").into(), format!("({to},0)").into(), time.into(), at_most.into()];
    query::rows(sql, &args, |row| Ok((row.get(1)?, RowKey(row.get(2)?))))
}
