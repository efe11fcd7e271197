//! Stamps of keys, as `meld.row_stamp` tells them: of live rows, and of deleted ones by their tombstones.
//!
//! A tombstone goes once no node can need it, and each node finds that out for itself. So two nodes agree about a deleted
//! key if their tombstones are equal, or if one of them has none any more.

use serde_json::Value;

use crate::node::{Node, literal};
use crate::resolutions::{Stamp, TIME_FORMAT};

/// What a node knows of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Known {
    Live(Stamp),
    Dead(Stamp),
    /// Never heard of, or its tombstone was dropped.
    Nothing,
}

/// What a node knows of some keys of a table, each written as JSON (`{"id": 1}`), in their order.
#[track_caller]
pub fn of(node: &Node, table: &str, keys: &[Value]) -> Vec<Known> {
    let keys: Vec<String> = keys.iter().map(Value::to_string).collect();
    let sql = format!(
        "SELECT to_char(s.commit_ts AT TIME ZONE 'UTC', '{TIME_FORMAT}'), s.node_id, s.is_tombstone
         FROM unnest($1::text[]) WITH ORDINALITY k(key, place) LEFT JOIN LATERAL meld.row_stamp({}, k.key::jsonb) s ON true
         ORDER BY k.place",
        literal(table)
    );
    let known = |row: &postgres::Row| {
        let (commit_ts, node_id): (Option<String>, Option<i32>) = (row.get(0), row.get(1));
        match (commit_ts.zip(node_id), row.get::<_, Option<bool>>(2)) {
            (Some((commit_ts, node_id)), Some(true)) => Known::Dead(Stamp { commit_ts, node_id }),
            (Some((commit_ts, node_id)), _) => Known::Live(Stamp { commit_ts, node_id }),
            (None, _) => Known::Nothing,
        }
    };
    node.rows(&sql, &[&keys]).iter().map(known).collect()
}

/// The nodes agree about every one of these keys. Tombstones that some of them have dropped already are none's fault.
#[track_caller]
pub fn agree(nodes: &[&Node], table: &str, keys: &[Value]) {
    let all: Vec<Vec<Known>> = nodes.iter().map(|node| of(node, table, keys)).collect();
    let mut differences = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        let known: Vec<&Known> = all.iter().map(|of_node| &of_node[at]).collect();
        let said: Vec<&&Known> = known.iter().filter(|known| ***known != Known::Nothing).collect();
        let is_live = said.iter().any(|known| matches!(known, Known::Live(_)));
        if said.windows(2).any(|two| two[0] != two[1]) || is_live && said.len() < known.len() {
            differences.push(format!("{key}: {known:?}"));
        }
    }
    assert!(differences.is_empty(), "the nodes know different stamps in {table}:\n{}", differences.join("\n"));
}

/// How many tombstones a node keeps, of one table or of all, those in bundles counted one by one.
#[track_caller]
pub fn tombstones(node: &Node, table: Option<&str>) -> i64 {
    let of_table = table.map_or_else(String::new, |table| format!("WHERE relid = {}::regclass", literal(table)));
    node.value(&format!(
        "SELECT (SELECT count(*) FROM meld.tombstone {of_table})
              + (SELECT coalesce(sum(key_count), 0)::bigint FROM meld.tombstone_bundle {of_table})"
    ))
}

/// Whether some row of a table has a stamp that is not its transaction's.
#[track_caller]
pub fn are_explicit(node: &Node, table: &str) -> bool {
    let is_known: bool = node.value(
        "SELECT to_regclass('meld.row_stamp_override') IS NOT NULL
            AND to_regprocedure('meld.row_stamp(regclass, jsonb)') IS NOT NULL",
    );
    is_known
        && node.value(&format!(
            "SELECT EXISTS (SELECT FROM meld.row_stamp_override WHERE relid = {}::regclass)",
            literal(table)
        ))
}

/// SQL for the key of a row as `meld.row_stamp` takes it.
#[track_caller]
pub fn key_of(node: &Node, table: &str, alias: &str) -> String {
    let columns: String = node.value(&format!(
        "SELECT string_agg(format('%L, {alias}.%I', a.attname, a.attname), ', ')
         FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
         WHERE i.indrelid = {}::regclass AND i.indisprimary",
        literal(table)
    ));
    format!("jsonb_build_object({columns})")
}
