//! The promises P1 to P9, checked against what the logs alone say. Nothing here asks the rule.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use meld_core::ids::NodeId;
use meld_core::time::Stamp;

use crate::data::{Cols, Entry, Op, RowId, Table, Transaction};
use crate::node::Node;
use crate::world::World;

/// A promise that was broken, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

type Checked = Result<(), Violation>;

fn broken(promise: fmt::Arguments<'_>) -> Checked {
    Err(Violation(promise.to_string()))
}

/// A transaction that counts, with its log and its position there.
type Place<'a> = (NodeId, usize, &'a Transaction);

/// What must hold after every step.
pub fn always(world: &World) -> Checked {
    for node in world.nodes.values() {
        constraints(node)?;
        if node.is_plain {
            prefix(world, node)?;
        }
    }
    Ok(())
}

/// P8.
fn constraints(node: &Node) -> Checked {
    let orphans = node.current.orphans();
    if !orphans.is_empty() {
        return broken(format_args!("P8: node {} has orphans {orphans:?}", node.id));
    }
    let rows = node.current.rows.iter().filter(|(row, _)| row.table == Table::A);
    let mut rows: Vec<Cols> = rows.map(|(_, live)| live.cols).collect();
    while let Some(row) = rows.pop() {
        if rows.iter().any(|other| other.clashes(row)) {
            return broken(format_args!("P8: node {} holds a unique value twice", node.id));
        }
    }
    Ok(())
}

/// P3, P6, P7, P9 at every moment: a node that has neither fetched nor parked holds just what the transactions that it
/// has applied say, each of them whole and once.
fn prefix(world: &World, node: &Node) -> Checked {
    let arrived = |&(origin, position, _): &Place<'_>| {
        origin == node.id || node.current.applied.get(&origin).is_some_and(|&applied| position < applied)
    };
    let places: Vec<Place<'_>> = world.transactions().filter(arrived).collect();
    let promise = "P3/P6/P7/P9, on the way";
    rows_are(promise, node, &winners(&places))?;
    counters_are(promise, node, &counters(&places))
}

/// What must hold when everything has arrived.
pub fn at_rest(world: &World) -> Checked {
    let places: Vec<Place<'_>> = world.transactions().collect();
    let (winners, counters) = (winners(&places), counters(&places));
    for node in world.nodes.values() {
        rows_are("P1/P3/P7", node, &winners)?;
        counters_are("P4", node, &counters)?;
        for (row, live) in node.current.rows.iter().filter(|(row, _)| row.table == Table::A) {
            let meant = world.adds.get(row).copied().flatten();
            if meant.is_some_and(|sum| sum != live.n) {
                return broken(format_args!("P4: {row:?} counts {}, users added {meant:?}", live.n));
            }
        }
        if !node.current.parked.is_empty() {
            return broken(format_args!("P9: node {} still has parked work", node.id));
        }
    }
    causality(&places)?;
    history(world, &places, &winners)?;
    let concerns_all = |entry: &Entry| matches!(entry.op, Op::Remove(_) | Op::Truncate);
    let plain = world.nodes.len() == 2
        && !world.was_frozen
        && !world.nodes.values().any(|node| node.parked_once)
        && !places.iter().any(|(_, _, tx)| tx.entries.iter().any(concerns_all));
    if plain { no_false_conflicts(world, &places) } else { Ok(()) }
}

/// Who wins each key, and with what; `None` where a delete does.
type Winners = BTreeMap<RowId, Option<(Stamp, Cols)>>;

fn winners(places: &[Place<'_>]) -> Winners {
    let mut writes: BTreeMap<RowId, ((Stamp, usize), &Entry)> = BTreeMap::new();
    let mut removed: BTreeMap<RowId, Stamp> = BTreeMap::new();
    let mut floors: BTreeMap<Table, (Stamp, usize)> = BTreeMap::new();
    for (_, _, tx) in places {
        for (at, entry) in tx.entries.iter().enumerate() {
            let order = (tx.stamp, at);
            match (entry.op, entry.prev) {
                (Op::Remove(_), Some(version)) => {
                    let known = removed.entry(entry.row).or_insert(version);
                    *known = (*known).max(version);
                }
                (Op::Remove(_), None) | (Op::Void, _) => {}
                (Op::Truncate, _) => {
                    let floor = floors.entry(entry.row.table).or_insert(order);
                    *floor = (*floor).max(order);
                }
                (Op::Insert | Op::Update | Op::Delete, _) => {
                    let known = writes.entry(entry.row).or_insert((order, entry));
                    if order > known.0 {
                        *known = (order, entry);
                    }
                }
            }
        }
    }
    let winner = |(row, (order, entry)): (RowId, ((Stamp, usize), &Entry))| {
        let is_removed = removed.get(&row).is_some_and(|&version| version >= order.0);
        let is_truncated = floors.get(&row.table).is_some_and(|&floor| order < floor);
        (row, entry.full.filter(|_| !is_removed && !is_truncated).map(|full| (order.0, full)))
    };
    writes.into_iter().map(winner).collect()
}

fn rows_are(promise: &str, node: &Node, winners: &Winners) -> Checked {
    for (row, want) in winners {
        let have = node.current.rows.get(row).map(|live| (live.stamp, live.cols));
        if have != *want {
            return broken(format_args!("{promise}: node {} has {row:?} = {have:?}, the logs say {want:?}", node.id));
        }
    }
    match node.current.rows.keys().find(|row| !winners.contains_key(row)) {
        Some(row) => broken(format_args!("{promise}: node {} has {row:?} from nowhere", node.id)),
        None => Ok(()),
    }
}

/// Contributions less voided residues, of each voided tombstone once.
fn counters(places: &[Place<'_>]) -> BTreeMap<RowId, i64> {
    let mut sums: BTreeMap<RowId, i64> = BTreeMap::new();
    let mut voids: BTreeMap<(RowId, Stamp), (Stamp, i64)> = BTreeMap::new();
    for (_, _, tx) in places {
        for entry in tx.entries.iter().filter(|entry| entry.row.table == Table::A) {
            *sums.entry(entry.row).or_default() += entry.n;
            if let Some((name, residue)) = entry.void {
                let register = voids.entry((entry.row, name)).or_insert((tx.stamp, residue));
                if tx.stamp > register.0 {
                    *register = (tx.stamp, residue);
                }
            }
        }
    }
    voids.into_iter().for_each(|((row, _), (_, residue))| *sums.entry(row).or_default() -= residue);
    sums
}

fn counters_are(promise: &str, node: &Node, counters: &BTreeMap<RowId, i64>) -> Checked {
    for (row, live) in node.current.rows.iter().filter(|(row, _)| row.table == Table::A) {
        let want = counters.get(row).copied().unwrap_or(0);
        if live.n != want {
            return broken(format_args!(
                "{promise}: node {} counts {row:?} = {}, the logs say {want}",
                node.id, live.n
            ));
        }
    }
    Ok(())
}

fn is_write(entry: &Entry) -> bool {
    matches!(entry.op, Op::Insert | Op::Update | Op::Delete)
}

/// P5: what was written after a version was seen is larger.
fn causality(places: &[Place<'_>]) -> Checked {
    let mut by_row: BTreeMap<RowId, Vec<Place<'_>>> = BTreeMap::new();
    for place in places {
        let rows: BTreeSet<RowId> = place.2.entries.iter().filter(|entry| is_write(entry)).map(|e| e.row).collect();
        rows.into_iter().for_each(|row| by_row.entry(row).or_default().push(*place));
    }
    for writes in by_row.values() {
        for (_, position, tx) in writes {
            for (node, at, seen) in writes {
                if World::had_seen(tx, *position, (*node, *at)) && tx.stamp <= seen.stamp {
                    return broken(format_args!("P5: {:?} was written after {:?} was seen", tx.stamp, seen.stamp));
                }
            }
        }
    }
    Ok(())
}

/// P2: each write is here, or was replaced by one who had seen it, or is in a history.
fn history(world: &World, places: &[Place<'_>], winners: &Winners) -> Checked {
    let mut replaced: BTreeSet<(RowId, Stamp)> = BTreeSet::new();
    let mut truncates = Vec::new();
    for place in places {
        for entry in &place.2.entries {
            match (entry.op, entry.prev) {
                (Op::Truncate, _) => truncates.push(*place),
                (Op::Update | Op::Delete, Some(version)) => {
                    replaced.insert((entry.row, version));
                }
                _ => {}
            }
        }
    }
    let histories = || world.nodes.values().flat_map(|node| &node.current.history);
    let listed: BTreeSet<(RowId, Stamp)> = histories().map(|lost| (lost.row, lost.stamp)).collect();
    for (origin, position, tx) in places {
        for entry in tx.entries.iter().filter(|entry| matches!(entry.op, Op::Insert | Op::Update)) {
            let version = (entry.row, tx.stamp);
            let is_here = winners.get(&entry.row).copied().flatten().is_some_and(|(stamp, _)| stamp == tx.stamp);
            let taken_back = || tx.entries.iter().any(|other| other.op == Op::Delete && other.row == entry.row);
            let truncated = || {
                let table = entry.row.table;
                let had_seen = |(node, at, truncate): &Place<'_>| {
                    let had_seen = World::had_seen(truncate, *at, (*origin, *position));
                    let takes = |entry: &Entry| entry.op == Op::Truncate && entry.row.table == table;
                    (had_seen || node == origin && at == position) && truncate.entries.iter().any(takes)
                };
                truncates.iter().any(had_seen)
            };
            if !(is_here || replaced.contains(&version) || listed.contains(&version) || taken_back() || truncated()) {
                return broken(format_args!(
                    "P2: {version:?} is neither here, nor replaced by one who saw it, nor in a history"
                ));
            }
        }
    }
    Ok(())
}

/// Exact conflicts: what is listed was concurrent.
fn no_false_conflicts(world: &World, places: &[Place<'_>]) -> Checked {
    for node in world.nodes.values() {
        for lost in &node.current.history {
            let writes = || {
                let of_row = |place: &&Place<'_>| place.2.entries.iter().any(|e| is_write(e) && e.row == lost.row);
                places.iter().filter(of_row)
            };
            let is_concurrent = |mine: &Place<'_>| {
                writes().any(|other| {
                    other.0 != mine.0
                        && !World::had_seen(mine.2, mine.1, (other.0, other.1))
                        && !World::had_seen(other.2, other.1, (mine.0, mine.1))
                })
            };
            if !writes().filter(|place| place.2.stamp == lost.stamp).any(is_concurrent) {
                return broken(format_args!("exact conflicts: {lost:?} on node {}, nothing was concurrent", node.id));
            }
        }
    }
    Ok(())
}
