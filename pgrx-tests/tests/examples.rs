//! The worked examples of docs/conflicts.md and the runbook docs/operations/exceptions.md, run as they stand there.
//!
//! In an indented block, `n1> `, `n2> ` and `both> ` stand before a statement; deeper lines below it are the rows that it
//! must give, with ` | ` between the values. Of the comments, those that tell of the link cut it and mend it, the others
//! say what has arrived: there the nodes settle. Each heading begins with an empty history.

use std::path::Path;

use meld_cluster_tests::{Cluster, Plan, mesh, settle};
use postgres::SimpleQueryMessage;

const DOCUMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");

#[derive(Debug)]
enum Line<'a> {
    Heading,
    Cut,
    Mend,
    Settle,
    /// Nodes, the statement and the rows that it gives.
    Statement(Vec<usize>, &'a str, Vec<&'a str>),
}

fn lines(text: &str) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.starts_with('#') {
            lines.push(Line::Heading);
            continue;
        }
        let Some(code) = line.strip_prefix("    ") else { continue };
        let statement = |nodes: &[usize], sql| Line::Statement(nodes.to_vec(), sql, Vec::new());
        if let Some(row) = code.strip_prefix("      ") {
            match lines.last_mut() {
                Some(Line::Statement(_, _, rows)) => rows.push(row.trim()),
                other => panic!("rows of nothing: {line:?} behind {other:?}"),
            }
        } else if let Some(sql) = code.strip_prefix("n1> ") {
            lines.push(statement(&[1], sql));
        } else if let Some(sql) = code.strip_prefix("n2> ") {
            lines.push(statement(&[2], sql));
        } else if let Some(sql) = code.strip_prefix("both> ") {
            lines.push(statement(&[1, 2], sql));
        } else {
            lines.push(match code {
                "-- the link is cut" => Line::Cut,
                "-- the link is back" => Line::Mend,
                _ if code.starts_with("-- n") => Line::Settle,
                _ => panic!("not understood: {line:?}"),
            });
        }
    }
    lines
}

#[track_caller]
fn run(cluster: &Cluster, place: usize, sql: &str, expected: &[&str]) {
    let node = cluster.node(place);
    let answers = node.client().simple_query(sql).unwrap_or_else(|error| panic!("{}: {error}\nin: {sql}", node.name));
    if !sql.starts_with("SELECT") || sql.starts_with("SELECT meld.") {
        assert!(expected.is_empty(), "{sql} gives no rows");
        return;
    }
    let rows: Vec<String> = answers
        .iter()
        .filter_map(|answer| if let SimpleQueryMessage::Row(row) = answer { Some(row) } else { None })
        .map(|row| (0..row.len()).map(|at| row.get(at).unwrap_or("null")).collect::<Vec<_>>().join(" | "))
        .collect();
    assert_eq!(rows, expected, "{}: {sql}", node.name);
}

/// Gives the number of statements.
fn run_document(cluster: &Cluster, name: &str) -> usize {
    let text = std::fs::read_to_string(Path::new(DOCUMENTS).join(name)).expect("the document");
    let mut statements = 0;
    for line in lines(&text) {
        match line {
            Line::Heading => {
                settle::settle_decisions(cluster);
                cluster.batch("DELETE FROM meld.resolutions");
            }
            Line::Cut => mesh::disconnect(cluster),
            Line::Mend => mesh::reconnect(cluster),
            Line::Settle => settle::settle(cluster),
            Line::Statement(nodes, sql, expected) => {
                nodes.into_iter().for_each(|place| run(cluster, place, sql, &expected));
                statements += 1;
            }
        }
    }
    statements
}

#[test]
fn the_examples_of_conflicts_are_true() {
    let cluster = Plan::new("examples", 2).start_mesh();
    let statements = run_document(&cluster, "conflicts.md");
    assert!(statements > 50, "{statements} statements found");
    cluster.finish();
}

#[test]
fn the_runbook_of_exceptions_repairs() {
    let cluster = Plan::new("runbook", 2).setting("meld.exception_retry_delay = 1").start_mesh();
    cluster.expect_log("violates check constraint \"light\"");
    cluster.expect_log("was parked as");
    let statements = run_document(&cluster, "operations/exceptions.md");
    assert!(statements > 15, "{statements} statements found");
    cluster.finish();
}
