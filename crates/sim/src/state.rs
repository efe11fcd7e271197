//! What one node has on disk or in memory: rows, tombstones, positions. A transaction works on a copy and replaces it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use meld_core::clock::earliest_commit;
use meld_core::converge::{Grave, Here, LocalStamp};
use meld_core::horizon::Horizons;
use meld_core::ids::NodeId;
use meld_core::time::{Stamp, Timestamp};
use meld_core::tombstone::Tombstone;

use crate::data::{Cols, Lost, Row, RowId, Table, Transaction};
use crate::mutant::Mutant;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tomb {
    pub kept: Tombstone,
    pub residue: i64,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    pub rows: BTreeMap<RowId, Row>,
    pub tombs: BTreeMap<RowId, Tomb>,
    /// Stamp of the last truncate.
    pub floor: BTreeMap<Table, Stamp>,
    /// (key, tombstone's stamp) to (stamp of the voider, residue).
    pub voids: BTreeMap<(RowId, Stamp), (Stamp, i64)>,
    /// Position in each other node's log.
    pub applied: BTreeMap<NodeId, usize>,
    pub horizons: Horizons,
    /// Largest timestamp committed or applied here.
    pub seen: Timestamp,
    pub parked: Vec<Rc<Transaction>>,
    pub history: BTreeSet<Lost>,
    /// Bound of the rows whose stamp is forgotten.
    pub frozen_before: Option<Stamp>,
}

impl State {
    pub fn new(id: NodeId, members: &[NodeId]) -> State {
        let others = || members.iter().copied().filter(move |&member| member != id);
        State {
            rows: BTreeMap::new(),
            tombs: BTreeMap::new(),
            floor: BTreeMap::new(),
            voids: BTreeMap::new(),
            applied: others().map(|member| (member, 0)).collect(),
            horizons: Horizons::new(others()),
            seen: Timestamp(0),
            parked: Vec::new(),
            history: BTreeSet::new(),
            frozen_before: None,
        }
    }

    /// The stamp of the next commit here, which has waited for the clock.
    pub fn next_stamp(&self, id: NodeId, now: Timestamp, mutant: Option<Mutant>) -> Stamp {
        let commit_ts = if mutant == Some(Mutant::NoCommitWait) { now } else { earliest_commit(now, self.seen) };
        Stamp { commit_ts, node: id }
    }

    pub fn local_stamp(&self, row: &Row) -> LocalStamp {
        match self.frozen_before {
            Some(bound) if row.frozen => LocalStamp::Before(bound),
            Some(_) | None => LocalStamp::Known(row.stamp),
        }
    }

    pub fn here(&self, row: RowId) -> Here {
        match (self.rows.get(&row), self.tombs.get(&row).and_then(|tomb| tomb.kept.grave)) {
            (Some(live), _) => Here::Live(self.local_stamp(live)),
            (None, Some(grave)) => Here::Dead(grave),
            (None, None) => Here::Nothing,
        }
    }

    pub fn put(&mut self, row: RowId, stamp: Stamp, cols: Cols, n: i64) {
        self.tombs.remove(&row);
        self.rows.insert(row, Row { stamp, cols, n, frozen: false });
    }

    /// The counter of a key, wherever it is kept.
    pub fn counter(&self, row: RowId) -> i64 {
        match (self.rows.get(&row), self.tombs.get(&row)) {
            (Some(live), _) => live.n,
            (None, tomb) => tomb.map_or(0, |tomb| tomb.residue),
        }
    }

    pub fn count(&mut self, row: RowId, n: i64) {
        if let Some(live) = self.rows.get_mut(&row) {
            live.n += n;
        } else if let Some(tomb) = self.tombs.get_mut(&row) {
            tomb.residue += n;
        } else if n != 0 {
            self.tombs.insert(row, Tomb { kept: Tombstone { grave: None, since: None }, residue: n });
        }
    }

    pub fn bury(&mut self, row: RowId, grave: Grave, by: Stamp, mutant: Option<Mutant>) {
        let residue = if mutant == Some(Mutant::DeleteTakesCounter) { 0 } else { self.counter(row) };
        self.rows.remove(&row);
        let before = self.tombs.remove(&row);
        if mutant != Some(Mutant::NoTombstones) {
            let kept = Tombstone::buried(before.map(|tomb| tomb.kept), grave, by);
            self.tombs.insert(row, Tomb { kept, residue });
        }
    }

    pub fn void(&mut self, row: RowId, tombstone: Stamp, by: Stamp, residue: i64, mutant: Option<Mutant>) {
        let before = self.voids.insert((row, tombstone), (by, residue)).map_or(0, |(_, residue)| residue);
        let before = if mutant == Some(Mutant::VoidWithoutRegister) { 0 } else { before };
        self.count(row, before - residue);
    }

    /// Other rows of `a` with the same value in a unique column.
    pub fn clashes(&self, row: RowId, cols: Cols) -> Vec<(RowId, &Row)> {
        let others = self.rows.iter().filter(|(other, _)| other.table == row.table && **other != row);
        let clashing = others.filter(|(_, live)| row.table == Table::A && live.cols.clashes(cols));
        clashing.map(|(other, live)| (*other, live)).collect()
    }

    pub fn children(&self, parent: RowId) -> Vec<RowId> {
        let refers = |(row, live): &(&RowId, &Row)| live.cols.parent(**row) == Some(parent);
        self.rows.iter().filter(refers).map(|(row, _)| *row).collect()
    }

    /// Rows without their parent, and that.
    pub fn orphans(&self) -> Vec<(RowId, RowId)> {
        let parents = self.rows.iter().filter_map(|(row, live)| live.cols.parent(*row).map(|parent| (*row, parent)));
        parents.filter(|(_, parent)| !self.rows.contains_key(parent)).collect()
    }

    /// Largest stamp of a parked transaction of the origin that is older than this one.
    pub fn set_aside(&self, stamp: Stamp) -> Option<Stamp> {
        let earlier = |tx: &Rc<Transaction>| tx.origin == stamp.node && tx.stamp < stamp;
        self.parked.iter().filter(|tx| earlier(tx)).map(|tx| tx.stamp).max()
    }

    pub fn oldest_parked(&self, mutant: Option<Mutant>) -> Option<Timestamp> {
        let oldest = self.parked.iter().map(|tx| tx.stamp.commit_ts).min();
        oldest.filter(|_| mutant != Some(Mutant::ParkedIgnored))
    }
}
