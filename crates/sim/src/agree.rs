//! Follows histories that another implementation of the rules has written down, and compares the ends.
//!
//! A file holds one JSON object a line: `seed`, `nodes`, `mode` (`keep_parent`, `drop_child`), `skew`, the `steps`, and for
//! each node at the `end` its rows, tombstones, voids, history, positions, clock and log, in the shapes below. Everything in
//! them has to be equal. Removals and versions are named by exact stamps there, so they are here, too; the word that the
//! stream leaves out for a version of one's own is tried as well, where nothing was parked.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, bail};
use meld_core::converge::Policy;
use meld_core::ids::NodeId;
use meld_core::time::Stamp;
use serde_json::{Value, json};

use crate::data::{Big, Cols, Entry, Key, Op, RowId, Statement, Table, Transaction, Why};
use crate::node::Node;
use crate::world::{Config, Step, World};

/// What came of a file.
#[derive(Default, Debug)]
pub struct Report {
    pub agreeing: usize,
    /// Of those, how many agreed also with the word left out.
    pub agreeing_without_word: usize,
    pub differing: Vec<(u64, String)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (seed, how) in self.differing.iter().take(10) {
            writeln!(f, "seed {seed}: {how}")?;
        }
        let differing = self.differing.len();
        write!(
            f,
            "{} histories agree, {} also without the word, {differing} differ",
            self.agreeing, self.agreeing_without_word
        )
    }
}

pub fn follow_all(file: &Path) -> Result<Report> {
    let mut report = Report::default();
    for line in BufReader::new(std::fs::File::open(file)?).lines() {
        let history: Value = serde_json::from_str(&line?)?;
        let seed = history["seed"].as_u64().context("a history has no seed")?;
        let parked =
            history["end"].as_array().is_some_and(|nodes| nodes.iter().any(|node| node["parked_once"] == true));
        let mut differs = follow(&history, true).with_context(|| format!("seed {seed}"))?;
        if differs.is_none() {
            report.agreeing += 1;
            if !parked {
                differs = follow(&history, false)?.map(|how| format!("without the word: {how}"));
                report.agreeing_without_word += usize::from(differs.is_none());
            }
        }
        report.differing.extend(differs.map(|how| (seed, how)));
    }
    Ok(report)
}

/// How the end here differs, if it does.
fn follow(history: &Value, exact: bool) -> Result<Option<String>> {
    let nodes = u16::try_from(number(&history["nodes"])?)?;
    let config = Config {
        skew: list(&history["skew"])?.iter().map(number).collect::<Result<_>>()?,
        policy: if history["mode"] == "drop_child" { Policy::DropChild } else { Policy::KeepParent },
        ..Config::plain(nodes, Policy::KeepParent, None)
    };
    let mut world = World::new(&config);
    world.nodes.values_mut().for_each(|node| node.names_every_version = exact);
    for written in list(&history["steps"])? {
        if let Err(violation) = world.step(&step(written)?) {
            return Ok(Some(format!("{violation} at {written}")));
        }
    }
    for (node, want) in world.nodes.values().zip(list(&history["end"])?) {
        let have = end(node);
        let fields = have.as_object().context("a node is an object")?;
        if let Some((field, have)) = fields.iter().find(|(field, have)| want[field.as_str()] != **have) {
            return Ok(Some(format!("{field} of node {}:\n  here  {have}\n  there {}", node.id, want[field.as_str()])));
        }
    }
    Ok(None)
}

// ---- reading --------------------------------------------------------------------------------------------------------

fn number(value: &Value) -> Result<i64> {
    value.as_i64().with_context(|| format!("{value} is no number"))
}

fn list(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("{value} is no list"))
}

fn node(value: &Value) -> Result<NodeId> {
    Ok(NodeId(u16::try_from(number(value)?)?))
}

fn key(value: &Value) -> Result<Key> {
    Ok(Key::try_from(number(value)?)?)
}

fn optional<T>(value: &Value, read: impl Fn(&Value) -> Result<T>) -> Result<Option<T>> {
    if value.is_null() { Ok(None) } else { read(value).map(Some) }
}

fn step(written: &Value) -> Result<Step> {
    let verb = written[0].as_str().context("a step has no verb")?;
    Ok(match verb {
        "transact" => Step::Transact {
            node: node(&written[1])?,
            statements: list(&written[2])?.iter().map(statement).collect::<Result<_>>()?,
        },
        "deliver" => Step::Deliver { from: node(&written[1])?, to: node(&written[2])? },
        "heartbeat" => Step::Heartbeat { node: node(&written[1])? },
        "collect" => Step::Collect { node: node(&written[1])? },
        "replay" => Step::Replay { node: node(&written[1])? },
        "poison" => Step::Poison {
            to: node(&written[1])?,
            from: node(&written[2])?,
            position: usize::try_from(number(&written[3])?)?,
        },
        "heal" | "clear" => Step::Heal,
        other => bail!("no such step: {other}"),
    })
}

fn statement(written: &Value) -> Result<Statement> {
    let table = if written["table"] == "c" { Table::C } else { Table::A };
    let second = None;
    let operation = written["op"].as_str().context("a statement has no operation")?;
    if operation == "truncate" {
        return Ok(Statement::Truncate { table });
    }
    let row = RowId { table, key: key(&written["key"])? };
    let [v, link, big] = [0, 1, 2].map(|at| &written["cols"][at]);
    let small = |value: &Value| Ok(u32::try_from(number(value)?)?);
    let n = number(&written["n"])?;
    let (link, big) = (optional(link, key)?, optional(big, small)?);
    Ok(match operation {
        "insert" => Statement::Insert {
            row,
            cols: Cols { v: small(v)?, link, second, big: big.map_or(Big::NoColumn, Big::Value) },
            n,
        },
        "update" => Statement::Update { row, v: optional(v, small)?, link, second, big, n },
        "delete" => Statement::Delete { row },
        "move" => Statement::Move { from: row.key, to: key(&written["to"])? },
        other => bail!("no such statement: {other}"),
    })
}

// ---- writing --------------------------------------------------------------------------------------------------------

fn stamp(stamp: Stamp) -> Value {
    json!([stamp.commit_ts.0, stamp.node.0])
}

fn maybe(of: Option<Stamp>) -> Value {
    of.map_or(Value::Null, stamp)
}

fn table(row: RowId) -> &'static str {
    match row.table {
        Table::A => "a",
        Table::C => "c",
        Table::G => "g",
    }
}

fn cols(row: RowId, cols: Cols) -> Value {
    match (row.table, cols.big) {
        (Table::C | Table::G, _) => json!([cols.v, cols.link]),
        (Table::A, Big::Value(big)) => json!([cols.v, cols.link, big]),
        (Table::A, Big::LeftOut) => json!([cols.v, cols.link, "left_out"]),
        (Table::A, Big::NoColumn) => json!([cols.v, cols.link, null]),
    }
}

fn why(why: Why) -> &'static str {
    match why {
        Why::Overwritten => "overwritten",
        Why::Beaten => "beaten",
        Why::Removed => "removed",
        Why::Truncated => "truncated",
    }
}

fn entry(entry: &Entry) -> Value {
    let op = match entry.op {
        Op::Insert => "insert",
        Op::Update => "update",
        Op::Delete => "delete",
        Op::Truncate => "truncate",
        Op::Remove(_) => "remove",
        Op::Void => "void",
    };
    json!({
        "op": op,
        "table": table(entry.row),
        "key": entry.row.key,
        "cols": entry.cols.map(|of| cols(entry.row, of)),
        "prev": maybe(entry.prev),
        "n": entry.n,
        "void": entry.void.map(|(name, residue)| json!([stamp(name), residue])),
        "moved_from": entry.moved_from,
        "touch": entry.touch,
    })
}

fn transaction(tx: &Transaction) -> Value {
    let beat = tx.beat.map(|(promise, horizon)| json!([promise.0, horizon.0.max(0)]));
    json!({ "stamp": stamp(tx.stamp), "beat": beat, "entries": tx.entries.iter().map(entry).collect::<Vec<_>>() })
}

fn end(node: &Node) -> Value {
    let state = &node.current;
    let rows = state
        .rows
        .iter()
        .map(|(&row, live)| json!([table(row), row.key, stamp(live.stamp), cols(row, live.cols), live.n]));
    let tombs = state.tombs.iter().map(|(&row, tomb)| {
        let grave = tomb.kept.grave;
        let is_removed = grave.is_some_and(|grave| grave.removed.is_some());
        let at = maybe(grave.map(|grave| grave.stamp));
        json!([table(row), row.key, at, is_removed, tomb.residue, maybe(tomb.kept.since)])
    });
    let voids =
        state.voids.iter().map(|((row, name), (by, residue))| json!([row.key, stamp(*name), stamp(*by), residue]));
    // in the order of the words
    let mut history: Vec<_> = state.history.iter().map(|lost| (lost.row, lost.stamp, why(lost.why))).collect();
    history.sort_unstable();
    let history = history.into_iter().map(|(row, at, why)| json!([table(row), row.key, stamp(at), why]));
    json!({
        "rows": rows.collect::<Vec<_>>(),
        "tombs": tombs.collect::<Vec<_>>(),
        "voids": voids.collect::<Vec<_>>(),
        "history": history.collect::<Vec<_>>(),
        "applied": state.applied.values().collect::<Vec<_>>(),
        "seen": state.seen.0,
        "log": node.log.iter().map(|tx| transaction(tx)).collect::<Vec<_>>(),
    })
}
