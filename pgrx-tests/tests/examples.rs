//! The worked examples of docs/conflicts.md, the runbook docs/operations/exceptions.md and the examples of
//! docs/sql-reference.md, run as they stand there.
//!
//! In an indented block, `n1> `, `n2> ` and `both> ` stand before a statement; deeper lines below it are the rows that it
//! must give, with ` | ` between the values, or `...` for any that are not none. What functions of meld give need not
//! stand there. Of the comments, those that tell of the link cut it and mend it, the others say what has arrived: there
//! the nodes settle. In the first two, the nodes are a mesh, and each heading begins with an empty history; the third
//! makes the nodes itself, and calls their servers by names that the test replaces.

use std::path::Path;

use meld_cluster_tests::{Cluster, Plan, fault, mesh, settle, wait};
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
    let real = with_real_servers(cluster, sql);
    let ask = || {
        let answers = node.client().simple_query(&real);
        let answers = answers.unwrap_or_else(|error| panic!("{}: {error:?}\nin: {sql}", node.name));
        let rows = answers.iter().filter_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        rows.map(|row| (0..row.len()).map(|at| row.get(at).unwrap_or("null")).collect::<Vec<_>>().join(" | "))
            .collect::<Vec<_>>()
    };
    if sql.contains("sub_show_status") || sql.contains("meld.progress") {
        // a worker that starts anew is on its way there
        wait::until_value(sql, ask, |rows| rows == expected);
        return;
    }
    let rows = ask();
    if !sql.starts_with("SELECT") || sql.starts_with("SELECT meld.") && expected.is_empty() {
        assert!(expected.is_empty(), "{sql} gives no rows");
    } else if expected == ["..."] {
        assert!(!rows.is_empty(), "{}: no rows of {sql}", node.name);
    } else {
        assert_eq!(rows, expected, "{}: {sql}", node.name);
    }
}

/// Connection strings of the documents, replaced by those of the servers that are there.
fn with_real_servers(cluster: &Cluster, sql: &str) -> String {
    let names = [("host=n1 dbname=app", 1), ("host=10.0.0.1 dbname=app", 1)];
    let names = names.into_iter().chain([("host=n2 dbname=app", 2), ("host=10.0.0.2 dbname=app", 2)]);
    names.fold(sql.to_owned(), |sql, (name, place)| sql.replace(name, &cluster.node(place).dsn()))
}

/// What the nodes are when a document begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nodes {
    AMesh,
    Empty,
}

/// Gives the number of statements.
fn run_document(cluster: &Cluster, name: &str, nodes: Nodes) -> usize {
    let text = std::fs::read_to_string(Path::new(DOCUMENTS).join(name)).expect("the document");
    let mut statements = 0;
    for line in lines(&text) {
        match line {
            Line::Heading if nodes == Nodes::Empty => {}
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
    let statements = run_document(&cluster, "conflicts.md", Nodes::AMesh);
    assert!(statements > 50, "{statements} statements found");
    cluster.finish();
}

#[test]
fn the_runbook_of_exceptions_repairs() {
    let cluster = Plan::new("runbook", 2).setting("meld.exception_retry_delay = 1").start_mesh();
    cluster.expect_log("violates check constraint \"light\"");
    cluster.expect_log("was parked as");
    fault::expect_lost_links(&cluster);
    let statements = run_document(&cluster, "operations/exceptions.md", Nodes::AMesh);
    assert!(statements > 15, "{statements} statements found");
    cluster.finish();
}

#[test]
fn the_examples_of_the_reference_run() {
    let cluster = Plan::new("reference", 2).start();
    // one example ends the worker that another has started, wherever it is
    fault::expect_lost_links(&cluster);
    let statements = run_document(&cluster, "sql-reference.md", Nodes::Empty);
    assert!(statements > 55, "{statements} statements found");
    cluster.finish();
}
