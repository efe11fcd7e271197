//! What no node needs any more of `meld.tombstone`, `meld.tombstone_bundle`, `meld.void` and `meld.row_stamp_override`,
//! found and removed.
//!
//! Everything goes in pieces of bounded size, each in a transaction of its caller's. Rows that somebody has locked are
//! left for the next time, so nobody is waited for. The rules are those of `core::tombstone`, written as SQL.

use meld_core::time::Timestamp;
use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};

use super::query;
use crate::log::Result;
use crate::pg::Oid;

/// Where tombstones are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heap {
    Singles,
    Bundles,
}

impl Heap {
    pub const ALL: [Heap; 2] = [Heap::Singles, Heap::Bundles];

    fn name(self) -> &'static str {
        match self {
            Heap::Singles => "meld.tombstone",
            Heap::Bundles => "meld.tombstone_bundle",
        }
    }

    /// A tombstone of which the stamp and the transaction that made it are not later than $3. One whose commit timestamp is
    /// forgotten stays; so does every one of a key that has a counter which is not void.
    fn due(self) -> String {
        let kept = match self {
            Heap::Singles => format!(" AND NOT EXISTS ({COUNTED})"),
            // of tables that had no counters; one that was given some since has them beside a tombstone of its own
            Heap::Bundles => String::new(),
        };
        format!("{DUE}{kept}")
    }
}

/// A range of blocks of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocks {
    pub of: Heap,
    pub from: u32,
    pub to: u32,
}

const DUE: &str = "t.ctid >= $1::tid AND t.ctid < $2::tid \
    AND coalesce(t.stamp_ts, pg_catalog.pg_xact_commit_timestamp(t.xmin)) <= $3 \
    AND coalesce(t.since_ts, pg_catalog.pg_xact_commit_timestamp(t.xmin)) <= $3";

const COUNTED: &str = "SELECT FROM meld.tombstone o WHERE o.relid = t.relid AND o.key = t.key AND o.residue IS NOT NULL \
    AND EXISTS (SELECT FROM pg_catalog.unnest(o.residue) r WHERE r IS NULL OR r !~ '^-?0+(\\.0*)?$')";

/// One made by a transaction before $3 whose stamp is not written out.
const IMPLICIT: &str = "t.ctid >= $1::tid AND t.ctid < $2::tid AND (t.stamp_ts IS NULL OR t.since_ts IS NULL) \
    AND pg_catalog.pg_xact_commit_timestamp(t.xmin) < $3";

fn time(time: Timestamp) -> Option<TimestampWithTimeZone> {
    TimestampWithTimeZone::try_from(time.0).ok()
}

fn range_and(blocks: Blocks, bound: Timestamp) -> [DatumWithOid<'static>; 3] {
    [format!("({},0)", blocks.from).into(), format!("({},0)", blocks.to).into(), time(bound).into()]
}

/// How many blocks the tombstones take.
pub fn blocks(of: Heap) -> Result<u32> {
    let sql = "SELECT (pg_catalog.pg_relation_size($1::regclass) \
               / pg_catalog.current_setting('block_size')::int8)::int8";
    let blocks: i64 = query::first(sql, &[of.name().into()], |row| row.get(1))?.unwrap_or(0);
    Ok(u32::try_from(blocks).unwrap_or(u32::MAX))
}

/// How many tombstones, bundles and voids were ever written, as far as the statistics know.
pub fn written() -> Result<i64> {
    let sql = "SELECT pg_catalog.pg_stat_get_tuples_inserted('meld.tombstone'::regclass) \
               + pg_catalog.pg_stat_get_tuples_inserted('meld.tombstone_bundle'::regclass) \
               + pg_catalog.pg_stat_get_tuples_inserted('meld.void'::regclass)";
    Ok(query::first(sql, &[], |row| row.get(1))?.unwrap_or(0))
}

/// Whether any tombstone in these blocks is due.
pub fn any_due(blocks: Blocks, up_to: Timestamp) -> Result<bool> {
    let sql = format!("SELECT EXISTS (SELECT FROM {} t WHERE {})", blocks.of.name(), blocks.of.due());
    Ok(query::first(&sql, &range_and(blocks, up_to), |row| row.get(1))?.unwrap_or(false))
}

/// How many rows there are in these blocks.
pub fn count(blocks: Blocks) -> Result<i64> {
    let sql =
        format!("SELECT pg_catalog.count(*) FROM {} t WHERE t.ctid >= $1::tid AND t.ctid < $2::tid", blocks.of.name());
    let [from, to, _] = range_and(blocks, Timestamp::MIN);
    Ok(query::first(&sql, &[from, to], |row| row.get(1))?.unwrap_or(0))
}

/// Removes the tombstones in these blocks that are due, floors among them; how many went.
pub fn remove_tombstones(blocks: Blocks, up_to: Timestamp) -> Result<i64> {
    let sql = format!(
        "WITH gone AS (DELETE FROM {name} d WHERE d.ctid = ANY (ARRAY( \
         SELECT t.ctid FROM {name} t WHERE {due} FOR UPDATE OF t SKIP LOCKED)) RETURNING 1) \
         SELECT pg_catalog.count(*) FROM gone",
        name = blocks.of.name(),
        due = blocks.of.due()
    );
    let gone = query::change(&sql, &range_and(blocks, up_to), |row| row.get(1))?;
    Ok(gone.into_iter().next().unwrap_or(0))
}

/// Tables with tombstones in these blocks whose stamp is that of a transaction before `before`, not written out.
pub fn implicit(blocks: Blocks, before: Timestamp) -> Result<Vec<Oid>> {
    let sql = format!("SELECT DISTINCT t.relid FROM {} t WHERE {IMPLICIT}", blocks.of.name());
    query::rows(&sql, &range_and(blocks, before), |row| row.get(1))
}

/// Writes out the stamps of such tombstones of one table. The caller holds the table's key lock.
pub fn make_explicit(table: Oid, blocks: Blocks, before: Timestamp) -> Result<()> {
    let sql = format!(
        "UPDATE {name} u SET stamp_ts = coalesce(u.stamp_ts, w.at), stamp_node = coalesce(u.stamp_node, w.node), \
             since_ts = coalesce(u.since_ts, w.at), since_node = coalesce(u.since_node, w.node) \
         FROM (SELECT t.ctid, x.timestamp AS at, coalesce(o.node_id, l.node_id) AS node \
                 FROM {name} t CROSS JOIN meld.local_node l \
                CROSS JOIN LATERAL pg_catalog.pg_xact_commit_timestamp_origin(t.xmin) x \
                 LEFT JOIN meld.origin o ON o.roident = x.roident \
                WHERE t.relid = $4 AND {IMPLICIT} FOR UPDATE OF t SKIP LOCKED) w \
         WHERE u.ctid = w.ctid",
        name = blocks.of.name()
    );
    let [from, to, before] = range_and(blocks, before);
    query::execute(&sql, &[from, to, before, table.into()])
}

/// Removes registers of voids that are due: the void and the tombstone are old, and no counter of the key is kept.
pub fn remove_voids(up_to: Timestamp, at_most: i64) -> Result<()> {
    let sql = "DELETE FROM meld.void d WHERE d.ctid = ANY (ARRAY( \
        SELECT v.ctid FROM meld.void v WHERE v.tombstone_ts <= $1 \
           AND coalesce(v.by_ts, pg_catalog.pg_xact_commit_timestamp(v.xmin)) <= $1 \
           AND NOT EXISTS (SELECT FROM meld.tombstone o WHERE o.relid = v.relid AND o.key = v.key AND o.residue IS NOT NULL) \
        LIMIT $2 FOR UPDATE OF v SKIP LOCKED))";
    query::execute(sql, &[time(up_to).into(), at_most.into()])
}

/// Tables that have explicit stamps, with the number of blocks of each that has to be looked at to find the stale ones.
pub fn overridden_tables() -> Result<Vec<(Oid, i64)>> {
    let sql = "SELECT c.oid, pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::int8 \
               FROM pg_catalog.pg_class c WHERE c.oid IN (SELECT o.relid FROM meld.row_stamp_override o)";
    query::rows(sql, &[], |row| Ok((row.get(1)?, row.get(2)?)))
}

/// Removes explicit stamps of a table that mean nothing any more: no row of the table is of their transaction.
pub fn remove_stale_overrides(table: Oid, at_most: i64) -> Result<()> {
    let Some(name) = query::first("SELECT $1::regclass::text", &[table.into()], |row| row.get::<String>(1))? else {
        return Ok(());
    };
    let sql = format!(
        "DELETE FROM meld.row_stamp_override d USING ( \
         SELECT o.ctid, o.xmin FROM meld.row_stamp_override o \
          WHERE o.relid = $1 AND NOT EXISTS (SELECT FROM {name} r WHERE r.xmin = o.xmin) \
          LIMIT $2 FOR UPDATE OF o SKIP LOCKED) s WHERE d.ctid = s.ctid AND d.xmin = s.xmin"
    );
    query::execute(&sql, &[table.into(), at_most.into()])
}
