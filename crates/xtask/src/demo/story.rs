//! What is written in the demo: conflicts that no timing can avoid.
//!
//! In each act several nodes have a transaction open on the same row before any of them commits. None can have seen
//! the others' writes, so all of them meet as conflicts, however fast replication is.
//!
//! An act in which a delete is *newer* than an update it has not seen is left out: it needs tombstones to end equal on
//! three nodes, and meld has none yet (README, "Limits").

use super::node::Node;
use super::session::Session;
use super::settle;
use anyhow::Result;

pub const TABLE: &str = "CREATE TABLE greeting (id int PRIMARY KEY, text text)";

pub fn play(nodes: &[Node]) -> Result<()> {
    act("n1 writes the first rows, and they go to all nodes");
    nodes[0].run_shown("INSERT INTO greeting SELECT n, 'first of row ' || n FROM generate_series(1, 5) n")?;
    settle(nodes)?;

    act("all nodes update row 1 at once");
    at_once(nodes, |node| Some(format!("UPDATE greeting SET text = 'update by {}' WHERE id = 1", node.name)))?;

    act("all nodes insert row 10 at once");
    at_once(nodes, |node| Some(format!("INSERT INTO greeting VALUES (10, 'insert by {}')", node.name)))?;

    act("n1 deletes row 2, and n2, which does not know it yet, updates the row");
    at_once(nodes, |node| match node.name {
        "n1" => Some("DELETE FROM greeting WHERE id = 2".to_owned()),
        "n2" => Some("UPDATE greeting SET text = 'newer than the delete' WHERE id = 2".to_owned()),
        _ => None,
    })?;

    act("n1 and n2 delete row 3 at once");
    at_once(nodes, |node| (node.name != "n3").then(|| "DELETE FROM greeting WHERE id = 3".to_owned()))?;

    act("n3 deletes row 4, which n1 wrote and n3 has seen: one after the other, so no conflict");
    nodes[2].run_shown("DELETE FROM greeting WHERE id = 4")
}

fn act(title: &str) {
    eprintln!("\n-- {title}");
}

/// Runs a statement on each node that has one, in transactions that are all open before the first of them commits.
/// Commits are handed out in the order of the nodes.
fn at_once(nodes: &[Node], statement: impl Fn(&Node) -> Option<String>) -> Result<()> {
    let mut sessions = Vec::new();
    for node in nodes {
        if let Some(sql) = statement(node) {
            let mut session = Session::open(node)?;
            session.run(&format!("BEGIN; {sql}"))?;
            sessions.push(session);
        }
    }
    // The first commit is waited for, so that its timestamp is the oldest one; the rest commit together.
    let (first, others) = sessions.split_first_mut().expect("an act has a writer");
    first.run("COMMIT")?;
    for session in others.iter_mut() {
        session.send("COMMIT")?;
    }
    others.iter_mut().try_for_each(Session::wait)
}
