//! One node: its state, its log, what it commits itself, and what a crash leaves of it. `worker` applies what others send.
//!
//! Two states are kept. Local transactions are durable before anyone sees them, and with them all that came before; a
//! remote one is visible at once and durable with the next flush, as under asynchronous commit. A crash goes back to the
//! durable state. The log is sent only as far as it is durable.

use std::collections::BTreeMap;
use std::rc::Rc;

use meld_core::clock::{LocalWait, local_wait};
use meld_core::converge::{First, Policy};
use meld_core::ids::NodeId;
use meld_core::time::{Stamp, Timestamp};
use meld_core::tombstone::{floor_is_droppable, void_is_droppable};

use crate::data::{Entry, Op, Row, RowId, Statement, Table, Transaction};
use crate::local::Local;
use crate::mutant::Mutant;
use crate::state::State;

#[derive(Clone, Debug)]
pub struct Node {
    pub id: NodeId,
    pub policy: Policy,
    pub mutant: Option<Mutant>,
    pub current: Rc<State>,
    pub durable: Rc<State>,
    pub log: Vec<Rc<Transaction>>,
    pub durable_len: usize,
    /// Every commit is flushed at once: no crash can take anything back.
    pub synchronous: bool,
    /// See [`Config`](crate::world::Config).
    pub gaps: bool,
    pub waits: bool,
    pub leaves_out: bool,
    pub shuffled: bool,
    /// What has to be committed before the transaction in hand of each origin.
    pub(crate) pending: BTreeMap<NodeId, Pending>,
    /// The stream names every version, those of the origin's own too.
    pub names_every_version: bool,
    /// It has parked, or fetched: its state is then not a plain function of what has arrived.
    pub is_plain: bool,
    pub parked_once: bool,
    /// The torn mutant has applied the first change of this one.
    pub(crate) torn: Option<Stamp>,
}

/// How far a step of the apply worker came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Done,
    /// Something else was committed first.
    Again,
}

/// Found to be needed first, and not yet committed.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub stamp: Stamp,
    pub first: Vec<First<RowId>>,
    pub fetched: BTreeMap<RowId, (Row, Option<Stamp>)>,
}

impl Node {
    pub fn new(id: NodeId, members: &[NodeId], policy: Policy, mutant: Option<Mutant>) -> Node {
        let state = Rc::new(State::new(id, members));
        Node {
            id,
            policy,
            mutant,
            current: state.clone(),
            durable: state,
            log: Vec::new(),
            durable_len: 0,
            synchronous: false,
            gaps: false,
            waits: false,
            leaves_out: false,
            shuffled: false,
            pending: BTreeMap::new(),
            names_every_version: false,
            is_plain: true,
            parked_once: false,
            torn: None,
        }
    }

    // ---- transactions of its own ----------------------------------------------------------------------------------

    /// False if the server would refuse.
    pub fn transact(&mut self, statements: &[Statement], now: Timestamp) -> bool {
        let is_behind = local_wait(now, self.current.seen, 0, 0) != LocalWait::Commit;
        if self.waits && is_behind && self.mutant != Some(Mutant::NoCommitWait) {
            return false;
        }
        let mut me = State::clone(&self.current);
        let stamp = me.next_stamp(self.id, now, self.mutant);
        let local = Local { me: &mut me, id: self.id, stamp, mutant: self.mutant }.run(statements);
        local.map(|entries| self.commit_local(me, stamp, entries, None)).is_some()
    }

    pub(crate) fn commit_local(
        &mut self,
        mut me: State,
        stamp: Stamp,
        entries: Vec<Entry>,
        beat: Option<(Timestamp, Timestamp)>,
    ) {
        me.seen = me.seen.max(stamp.commit_ts);
        let saw = self.current.applied.clone();
        self.log.push(Rc::new(Transaction { origin: self.id, stamp, entries, beat, saw }));
        self.current = Rc::new(me);
        if self.mutant != Some(Mutant::UnflushedIsSent) {
            self.flush();
        }
    }

    pub fn heartbeat(&mut self, now: Timestamp) {
        let stamp = self.current.next_stamp(self.id, now, self.mutant);
        let horizon = self.current.horizons.horizon(self.current.oldest_parked(self.mutant));
        self.commit_local(State::clone(&self.current), stamp, Vec::new(), Some((stamp.commit_ts, horizon)));
    }

    /// What every member has told that nothing up to it can take effect there any more.
    pub fn confirmed(&self) -> Timestamp {
        let horizons = &self.current.horizons;
        if self.mutant == Some(Mutant::EarlyCollection) {
            return horizons.promises().map(|(_, promise)| promise).max().unwrap_or(Timestamp::MIN);
        }
        horizons.confirmed(self.current.oldest_parked(self.mutant))
    }

    /// Announces the residues of its own deletes void that all have confirmed, and drops what no longer matters.
    pub fn collect(&mut self, now: Timestamp) {
        let confirmed = self.confirmed();
        let horizon = self.current.horizons.horizon(self.current.oldest_parked(self.mutant));
        let mut me = State::clone(&self.current);
        let mut entries = Vec::new();
        for (row, tomb) in me.tombs.iter().filter(|(row, _)| row.table == Table::A) {
            let name = tomb.kept.grave.map(|grave| grave.stamp);
            let is_void_already = name.is_some_and(|name| me.voids.contains_key(&(*row, name)));
            let due = tomb.kept.due_void(self.id, tomb.residue == 0, is_void_already, confirmed);
            entries.extend(due.map(|name| Entry { void: Some((name, tomb.residue)), ..Entry::new(Op::Void, *row) }));
        }
        if !entries.is_empty() {
            let stamp = me.next_stamp(self.id, now, self.mutant);
            for entry in &entries {
                entry.void.iter().for_each(|&(name, residue)| me.void(entry.row, name, stamp, residue, self.mutant));
            }
            self.commit_local(me, stamp, entries, None);
        }
        let mut me = State::clone(&self.current);
        let bound = if self.mutant == Some(Mutant::PromiseIsEnough) { horizon } else { confirmed };
        me.tombs.retain(|_, tomb| !tomb.kept.is_droppable(tomb.residue == 0, bound));
        me.floor.retain(|_, floor| !floor_is_droppable(*floor, confirmed));
        let parked = !me.parked.is_empty();
        me.voids.retain(|(_, name), (by, _)| !void_is_droppable(*by, *name, parked, confirmed));
        self.current = Rc::new(me);
        self.flush_if_synchronous();
    }

    /// The server forgets the stamps of rows that nothing on its way can be compared with any more.
    pub fn freeze(&mut self) {
        let confirmed = self.confirmed();
        let mut me = State::clone(&self.current);
        me.rows.values_mut().for_each(|row| row.frozen |= row.stamp.commit_ts <= confirmed);
        me.frozen_before = me.frozen_before.max(Some(Stamp { commit_ts: confirmed, node: NodeId(NodeId::MAX as u16) }));
        self.current = Rc::new(me);
        self.flush_if_synchronous();
    }

    // ---- crashes ---------------------------------------------------------------------------------------------------

    pub fn flush(&mut self) {
        self.durable = self.current.clone();
        self.durable_len = self.log.len();
    }

    pub(crate) fn flush_if_synchronous(&mut self) {
        if self.synchronous {
            self.flush();
        }
    }

    pub fn crash(&mut self) {
        let positions = self.current.applied.clone();
        self.current = self.durable.clone();
        self.log.truncate(self.durable_len);
        self.torn = None;
        self.pending.clear();
        if self.mutant == Some(Mutant::FlushedTooEarly) {
            self.current = Rc::new(State { applied: positions, ..State::clone(&self.durable) });
        }
    }
}
