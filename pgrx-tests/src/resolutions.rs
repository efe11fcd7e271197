//! The history of conflicts, `meld.resolutions`, read into values that a scenario can compare.

use postgres::Row;
use serde_json::Value;

use crate::node::{Node, literal};

/// One row of the history.
#[derive(Clone, PartialEq, Debug)]
pub struct Resolution {
    pub table: String,
    pub index: Option<String>,
    pub conflict: String,
    pub resolution: String,
    pub key: Option<Value>,
    pub local: Option<Side>,
    pub remote: Side,
    pub remote_commit_lsn: String,
    pub remote_xid: String,
}

/// One of the two rows that met: where and when it was written, and what it holds.
#[derive(Clone, PartialEq, Debug)]
pub struct Side {
    pub stamp: Stamp,
    /// Missing for a delete.
    pub row: Option<Value>,
}

/// Commit timestamp, as text in UTC with microseconds, and node id: comparable like meld's own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stamp {
    pub commit_ts: String,
    pub node_id: i32,
}

/// A text of fixed length, so that texts are in order like the times.
pub const TIME_FORMAT: &str = "YYYY-MM-DD HH24:MI:SS.US";

/// What a node has decided about a table, in order.
#[track_caller]
pub fn of(node: &Node, table: &str) -> Vec<Resolution> {
    let sql = format!(
        "SELECT relname::text, index_name::text, conflict_type, conflict_resolution, key,
                local_origin, to_char(local_commit_ts AT TIME ZONE 'UTC', '{TIME_FORMAT}'), local_row,
                remote_origin, to_char(remote_commit_ts AT TIME ZONE 'UTC', '{TIME_FORMAT}'), remote_row,
                remote_commit_lsn::text, remote_xid::text
         FROM meld.resolutions WHERE relname = {} ORDER BY id",
        literal(table)
    );
    node.rows(&sql, &[]).iter().map(resolution).collect()
}

fn resolution(row: &Row) -> Resolution {
    let side = |at: usize| -> Option<Side> {
        let node_id: Option<i32> = row.get(at);
        let commit_ts: Option<String> = row.get(at + 1);
        Some(Side { stamp: Stamp { commit_ts: commit_ts?, node_id: node_id? }, row: row.get(at + 2) })
    };
    let Some(remote) = side(8) else { panic!("a resolution without a remote stamp") };
    Resolution {
        table: row.get(0),
        index: row.get(1),
        conflict: row.get(2),
        resolution: row.get(3),
        key: row.get(4),
        local: side(5),
        remote,
        remote_commit_lsn: row.get(11),
        remote_xid: row.get(12),
    }
}

/// Stamp of the one row that a condition names.
#[track_caller]
pub fn stamp_of(node: &Node, table: &str, condition: &str) -> Stamp {
    let sql = format!(
        "SELECT to_char(s.timestamp AT TIME ZONE 'UTC', '{TIME_FORMAT}'), CASE s.roident WHEN 0
                THEN (SELECT node_id FROM meld.local_node)
                ELSE (SELECT node_id FROM meld.origin o WHERE o.roident = s.roident) END
         FROM {table} t CROSS JOIN LATERAL pg_xact_commit_timestamp_origin(t.xmin) s WHERE {condition}"
    );
    let rows = node.rows(&sql, &[]);
    assert_eq!(rows.len(), 1, "{}: rows of {table} with {condition}", node.name);
    Stamp { commit_ts: rows[0].get(0), node_id: rows[0].get(1) }
}
