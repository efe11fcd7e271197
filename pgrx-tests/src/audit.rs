//! Proof that no update was lost without a word: which version each update replaced, written down by the nodes.
//!
//! A trigger on each watched table notes, in the same transaction as the update, the key, the transaction and the
//! version that it replaced. It fires for users' updates only, not in apply. Afterwards the versions of a row form a
//! tree: from the version that all nodes ended with, the parents lead back to the first one. Every version that is not
//! on this path was lost, as last-update-wins has it, and must stand in `meld.resolutions` of some node as the loser.

use std::collections::{HashMap, HashSet};

use crate::cluster::Cluster;
use crate::node::{Node, literal};
use crate::resolutions::{Stamp, TIME_FORMAT};

/// A version of one row.
type Version = (String, i64, Stamp);

/// Figures of one audit.
#[derive(Clone, Copy, Debug)]
pub struct Audit {
    pub updates: usize,
    pub lost: usize,
    pub conflicts: usize,
}

/// Begins to watch updates of tables with an integer key: (table, key column).
#[track_caller]
pub fn watch(cluster: &Cluster, tables: &[(&str, &str)]) {
    cluster.batch(
        "CREATE SCHEMA harness;
         CREATE TABLE harness.update_note (relname name, key bigint, replaced xid, made xid);
         CREATE FUNCTION harness.note() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             INSERT INTO harness.update_note
             VALUES (TG_RELNAME, (to_jsonb(OLD) ->> TG_ARGV[0])::bigint, OLD.xmin, pg_current_xact_id()::xid);
             RETURN NEW;
         END $$",
    );
    for (table, key) in tables {
        cluster.batch(&format!(
            "CREATE TRIGGER note BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION harness.note({})",
            literal(key)
        ));
    }
}

/// Checks that every update that is not in a final row's past is a loser in some node's history.
#[track_caller]
pub fn check(cluster: &Cluster, tables: &[(&str, &str)]) -> Audit {
    let mut parents: HashMap<Version, Stamp> = HashMap::new();
    cluster.nodes().iter().for_each(|node| parents.extend(notes(node)));
    let losers: HashSet<Version> = cluster.nodes().iter().flat_map(|node| losers(node, tables)).collect();
    let survivors = survivors(cluster.node(1), tables, &parents);
    let lost: Vec<&Version> = parents.keys().filter(|version| !survivors.contains(*version)).collect();
    let silent: Vec<&&Version> = lost.iter().filter(|version| !losers.contains(**version)).collect();
    assert!(
        silent.is_empty(),
        "{} of {} lost updates stand in no history, {} updates in all: {:?}",
        silent.len(),
        lost.len(),
        parents.len(),
        &silent[..silent.len().min(5)]
    );
    Audit { updates: parents.len(), lost: lost.len(), conflicts: losers.len() }
}

/// Each update that this node's users made, with the version that it replaced.
fn notes(node: &Node) -> Vec<(Version, Stamp)> {
    let time = |alias: &str| format!("to_char({alias}.timestamp AT TIME ZONE 'UTC', '{TIME_FORMAT}')");
    let sql = format!(
        "SELECT relname::text, key, {}, {}, {}, {} FROM harness.update_note,
             LATERAL pg_xact_commit_timestamp_origin(made) m, LATERAL pg_xact_commit_timestamp_origin(replaced) r",
        time("m"),
        node_id_of("m"),
        time("r"),
        node_id_of("r")
    );
    let notes = node.rows(&sql, &[]).into_iter().map(|row| {
        let made = Stamp { commit_ts: row.get(2), node_id: row.get(3) };
        ((row.get(0), row.get(1), made), Stamp { commit_ts: row.get(4), node_id: row.get(5) })
    });
    notes.collect()
}

/// Versions that a node's history calls beaten.
fn losers(node: &Node, tables: &[(&str, &str)]) -> Vec<Version> {
    let of_table = |(table, key): &(&str, &str)| {
        let sql = format!(
            "SELECT (key ->> {key})::bigint, to_char(ts AT TIME ZONE 'UTC', '{TIME_FORMAT}'), origin
             FROM (SELECT key, remote_commit_ts AS ts, remote_origin AS origin FROM meld.resolutions
                   WHERE relname = {table} AND conflict_resolution = 'keep_local'
                   UNION ALL
                   SELECT key, local_commit_ts, local_origin FROM meld.resolutions
                   WHERE relname = {table} AND conflict_resolution = 'apply_remote') q
             WHERE ts IS NOT NULL AND origin IS NOT NULL",
            key = literal(key),
            table = literal(table)
        );
        let rows = node.rows(&sql, &[]).into_iter();
        let version = |row: postgres::Row| {
            ((*table).to_owned(), row.get(0), Stamp { commit_ts: row.get(1), node_id: row.get(2) })
        };
        rows.map(version).collect::<Vec<_>>()
    };
    tables.iter().flat_map(of_table).collect()
}

/// The final version of each row that was updated, and all before it.
fn survivors(node: &Node, tables: &[(&str, &str)], parents: &HashMap<Version, Stamp>) -> HashSet<Version> {
    let mut survivors = HashSet::new();
    for (table, column) in tables {
        let of_table = parents.keys().filter(|(name, _, _)| name == table);
        let keys: HashSet<i64> = of_table.map(|(_, key, _)| *key).collect();
        for mut version in final_versions(node, table, column, keys.into_iter().collect()) {
            while let Some(parent) = parents.get(&version) {
                let before = (version.0.clone(), version.1, parent.clone());
                survivors.insert(std::mem::replace(&mut version, before));
            }
        }
    }
    survivors
}

/// The versions that a node holds of some rows.
fn final_versions(node: &Node, table: &str, column: &str, keys: Vec<i64>) -> Vec<Version> {
    let sql = format!(
        "SELECT {column}::bigint, to_char(s.timestamp AT TIME ZONE 'UTC', '{TIME_FORMAT}'), {}
         FROM {table} t CROSS JOIN LATERAL pg_xact_commit_timestamp_origin(t.xmin) s WHERE {column} = ANY ($1::bigint[])",
        node_id_of("s")
    );
    let rows = node.rows(&sql, &[&keys]);
    rows.iter()
        .map(|row| (table.to_owned(), row.get(0), Stamp { commit_ts: row.get(1), node_id: row.get(2) }))
        .collect()
}

/// SQL for the node id of a stamp: the origin is this node where it is 0.
fn node_id_of(alias: &str) -> String {
    format!(
        "CASE {alias}.roident WHEN 0 THEN (SELECT node_id FROM meld.local_node)
         ELSE (SELECT node_id FROM meld.origin o WHERE o.roident = {alias}.roident) END"
    )
}
