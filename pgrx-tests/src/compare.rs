//! Comparing: all nodes hold the same rows with the same stamps.
//!
//! A stamp is the commit timestamp and the node where the row was last written: the server's own record of the row's
//! xmin, with the replication origin mapped to a node id; in tables that have rows with an explicit stamp,
//! `meld.row_stamp` is asked. First a checksum of each table is compared, which the servers compute; only when it differs
//! are the rows fetched and the differences shown.

use std::collections::BTreeMap;

use crate::cluster::Cluster;
use crate::node::{Node, literal};
use crate::stamps;

/// Differences shown of one table.
const SHOWN: usize = 20;

/// What belongs to a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aspect {
    Rows,
    RowsAndStamps,
}

/// All tables of the users' schemas are equal on all nodes.
#[track_caller]
pub fn equal(cluster: &Cluster) {
    let nodes: Vec<&Node> = cluster.nodes().iter().collect();
    if let Err(differences) = compare(&nodes, None, Aspect::RowsAndStamps) {
        panic!("the nodes of \"{}\" differ\n{differences}", cluster.name);
    }
}

/// These tables, written as SQL names, are equal on these nodes.
#[track_caller]
pub fn tables_equal(nodes: &[&Node], tables: &[&str]) {
    if let Err(differences) = compare(nodes, Some(tables), Aspect::RowsAndStamps) {
        panic!("the nodes differ\n{differences}");
    }
}

/// The differences, ready to print, if there are any.
pub fn compare(nodes: &[&Node], tables: Option<&[&str]>, aspect: Aspect) -> Result<(), String> {
    let of_node = |node: &Node| tables.map_or_else(|| user_tables(node), |t| t.iter().map(|t| (*t).into()).collect());
    let first = nodes[0];
    let tables = of_node(first);
    let mut report = String::new();
    for node in &nodes[1..] {
        let here = of_node(node);
        if here != tables {
            report.push_str(&format!("tables of {}: {tables:?}\ntables of {}: {here:?}\n", first.name, node.name));
        }
    }
    for table in &tables {
        let sums: Vec<_> = nodes.iter().map(|node| checksum(node, table, aspect)).collect();
        for (node, sum) in nodes.iter().zip(&sums).skip(1) {
            if *sum != sums[0] {
                report.push_str(&difference(first, node, table, aspect));
            }
        }
    }
    if report.is_empty() { Ok(()) } else { Err(report) }
}

/// Names of all ordinary tables that belong to users, as SQL writes them.
#[track_caller]
pub fn user_tables(node: &Node) -> Vec<String> {
    node.values(
        "SELECT format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
         WHERE relkind = 'r' AND relpersistence = 'p'
           AND nspname NOT IN ('pg_catalog', 'information_schema', 'meld', 'snowflake', 'harness')
         ORDER BY 1",
    )
}

#[track_caller]
fn checksum(node: &Node, table: &str, aspect: Aspect) -> (i64, String) {
    let lines = lines_query(node, table, aspect);
    let sql = format!(
        "SELECT count(*), concat(sum(hashtextextended(line, 0)), ' ', sum(hashtextextended(line, 1))) FROM ({lines}) q"
    );
    let row = &node.rows(&sql, &[])[0];
    (row.get(0), row.get(1))
}

/// A row of a dump: the columns in order of their names, then the stamp.
#[track_caller]
fn lines_query(node: &Node, table: &str, aspect: Aspect) -> String {
    let columns: String = node.value(&format!(
        "SELECT coalesce(string_agg(format('%L, t.%I', attname, attname), ', ' ORDER BY attname), '')
         FROM pg_attribute WHERE attrelid = {}::regclass AND attnum > 0 AND NOT attisdropped",
        literal(table)
    ));
    match aspect {
        Aspect::RowsAndStamps if stamps::are_explicit(node, table) => format!(
            "SELECT concat(row({columns})::text, ' @ ', s.commit_ts, ' ', s.node_id) AS line
             FROM {table} t CROSS JOIN LATERAL meld.row_stamp({}, {}) s",
            literal(table),
            stamps::key_of(node, table, "t")
        ),
        Aspect::Rows => format!("SELECT row({columns})::text AS line FROM {table} t"),
        Aspect::RowsAndStamps => format!(
            "SELECT concat(row({columns})::text, ' @ ', s.timestamp, ' ', CASE s.roident WHEN 0
                THEN (SELECT node_id FROM meld.local_node)::text
                ELSE coalesce(o.node_id::text, format('unknown origin %s', s.roident)) END) AS line
             FROM {table} t CROSS JOIN LATERAL pg_xact_commit_timestamp_origin(t.xmin) s
             LEFT JOIN meld.origin o ON o.roident = s.roident"
        ),
    }
}

#[track_caller]
fn dump(node: &Node, table: &str, aspect: Aspect) -> BTreeMap<String, i64> {
    let sql = format!("SELECT line, count(*) FROM ({}) q GROUP BY line", lines_query(node, table, aspect));
    node.rows(&sql, &[]).iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// A line with a large value, to be read by people.
fn cut(line: &str) -> String {
    let (head, tail) = (line.chars().take(160).collect::<String>(), line.chars().rev().take(160).collect::<Vec<_>>());
    if line.len() < 400 {
        line.to_owned()
    } else {
        format!("{head} ... {}", tail.into_iter().rev().collect::<String>())
    }
}

/// The rows that only one of two nodes has.
fn difference(a: &Node, b: &Node, table: &str, aspect: Aspect) -> String {
    let (rows_a, rows_b) = (dump(a, table, aspect), dump(b, table, aspect));
    let mut shown: Vec<(String, &str)> = Vec::new();
    for (here, there, name) in [(&rows_a, &rows_b, &a.name), (&rows_b, &rows_a, &b.name)] {
        let only_here = here.iter().filter(|(line, count)| there.get(*line) != Some(*count));
        shown.extend(only_here.map(|(line, count)| (format!("{line} ({count} x)"), name.as_str())));
    }
    shown.sort();
    let total = shown.len();
    shown.truncate(SHOWN);
    let lines: String = shown.iter().map(|(line, name)| format!("  {name}: {}\n", cut(line))).collect();
    format!("{table}: {total} rows are not the same on {} and {}\n{lines}", a.name, b.name)
}
