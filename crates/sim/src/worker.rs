//! The apply worker of a node: the rule of core around one remote transaction, on a copy of the state.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use meld_core::clock::{ApplyWait, SkewAction, apply_wait};
use meld_core::converge::{
    Change, First, Operation, Outcome, Removal, Replaced, Verdict, apply_change, apply_removal, apply_truncate,
    apply_void, carry_out, check_foreign_keys, decide,
};
use meld_core::time::{Stamp, Timestamp};

use crate::data::{Big, Entry, Op, Row, RowId, Transaction};
use crate::mutant::Mutant;
use crate::node::{Node, Pending, Step};
use crate::state::State;
use crate::store::MemStore;

/// A transaction tried on a copy of the state.
struct Attempt {
    me: State,
    outcome: Outcome<RowId>,
    fetched: BTreeMap<RowId, (Row, Option<Stamp>)>,
    latest: Timestamp,
}

impl Node {
    /// One step of the apply worker: the transaction, or what has to come first, is committed.
    pub fn apply(&mut self, tx: &Rc<Transaction>, provider: &State, now: Timestamp, poisoned: bool) -> Step {
        if self.mutant == Some(Mutant::Torn) && tx.entries.len() > 1 && self.torn != Some(tx.stamp) {
            let first = Transaction { entries: tx.entries[..1].to_vec(), ..Transaction::clone(tx) };
            let attempt = self.attempt(&first, provider);
            if attempt.outcome == Outcome::Applied {
                self.torn = Some(tx.stamp);
                self.current = Rc::new(attempt.me);
                return Step::Again;
            }
        }
        if self.is_too_early(tx.stamp.commit_ts, now) {
            return Step::Again;
        }
        if let Some(pending) = self.pending.remove(&tx.origin).filter(|pending| pending.stamp == tx.stamp) {
            return match self.commit_first(&pending.first, pending.fetched, tx, provider, now) {
                true => Step::Again,
                false => self.give_up(tx),
            };
        }
        let is_poisoned = poisoned && tx.beat.is_none();
        let parts = if is_poisoned && self.leaves_out { self.parts(tx) } else { None };
        let (to_apply, left_out) = match parts {
            Some((rest, left_out)) => (Rc::new(rest), Some(left_out)),
            None => (tx.clone(), None),
        };
        let mut me = match (is_poisoned && left_out.is_none()).then(|| self.park(tx)) {
            Some(parked) => parked,
            None => match self.attempt(&to_apply, provider) {
                Attempt { outcome: Outcome::First(first), fetched, .. } if self.gaps => {
                    self.pending.insert(tx.origin, Pending { stamp: tx.stamp, first, fetched });
                    return Step::Again;
                }
                Attempt { outcome: Outcome::First(first), fetched, .. } => {
                    return if self.commit_first(&first, fetched, tx, provider, now) {
                        Step::Again
                    } else {
                        self.give_up(tx)
                    };
                }
                Attempt { outcome: Outcome::Undecided | Outcome::Violation(_), .. } => self.park(tx),
                Attempt { latest, .. } if self.is_too_early(latest, now) => return Step::Again,
                Attempt { me, latest, .. } => {
                    let mut me = State { seen: me.seen.max(latest), ..me };
                    if let Some(left_out) = left_out {
                        self.is_plain = false;
                        self.parked_once = true;
                        me.parked.push(Rc::new(left_out));
                    }
                    me
                }
            },
        };
        me.seen = me.seen.max(tx.stamp.commit_ts);
        if let Some((promise, horizon)) = tx.beat {
            me.horizons.hear(tx.origin, promise, horizon);
        }
        *me.applied.entry(tx.origin).or_default() += 1;
        self.current = Rc::new(me);
        self.flush_if_synchronous();
        Step::Done
    }

    /// Whether the clock has still to pass a timestamp before the commit of what has seen it.
    fn is_too_early(&self, latest: Timestamp, now: Timestamp) -> bool {
        let commits = apply_wait(now, latest, u32::MAX, SkewAction::Wait) == ApplyWait::Commit;
        self.waits && !commits && self.mutant != Some(Mutant::NoCommitWait)
    }

    fn give_up(&mut self, tx: &Rc<Transaction>) -> Step {
        let mut me = self.park(tx);
        *me.applied.entry(tx.origin).or_default() += 1;
        self.current = Rc::new(me);
        Step::Done
    }

    /// A transaction without the changes of the row that fails, and those: a version of a row is there whole or not at all.
    /// If its table is emptied, all changes of the table belong together. `None` if nothing else is in it.
    fn parts(&self, tx: &Transaction) -> Option<(Transaction, Transaction)> {
        let failing = tx.stamp.commit_ts.0 as usize % tx.entries.len().max(1);
        let row = tx.entries.get(failing)?.row;
        let is_emptied = tx.entries.iter().any(|entry| entry.op == Op::Truncate && entry.row.table == row.table);
        let (mut rest, mut left_out) = (tx.clone(), tx.clone());
        (rest.entries, left_out.entries) = (Vec::new(), Vec::new());
        for (at, entry) in tx.entries.iter().enumerate() {
            let belongs = match self.mutant {
                Some(Mutant::LeftOutAlone) => at == failing,
                Some(Mutant::LeftOutFromThereOn) => at >= failing && entry.row == row,
                _ => entry.row == row || is_emptied && entry.row.table == row.table,
            };
            if belongs { left_out.entries.push(*entry) } else { rest.entries.push(*entry) }
        }
        (!rest.entries.is_empty()).then_some((rest, left_out))
    }

    fn park(&mut self, tx: &Rc<Transaction>) -> State {
        let mut me = State::clone(&self.current);
        self.is_plain = false;
        self.parked_once = true;
        if self.mutant != Some(Mutant::PositionPassesParked) {
            me.parked.push(tx.clone());
        }
        me
    }

    /// What a wrong worker does with a transaction that is sent again.
    pub fn apply_again(&mut self, tx: &Transaction, provider: &State) {
        let attempt = self.attempt(tx, provider);
        if attempt.outcome == Outcome::Applied {
            self.current = Rc::new(attempt.me);
        }
    }

    /// A parked transaction again.
    pub fn replay(&mut self, at: usize, provider: &State, now: Timestamp) -> Step {
        let Some(mut tx) = self.current.parked.get(at).cloned() else { return Step::Done };
        match self.mutant {
            Some(Mutant::ReplayedAnew) => {
                let stamp = Stamp { commit_ts: self.current.next_stamp(self.id, now, None).commit_ts, node: tx.origin };
                tx = Rc::new(Transaction { stamp, ..Transaction::clone(&tx) });
            }
            Some(Mutant::ReplayedTwice) => {
                let attempt = self.attempt(&tx, provider);
                if attempt.outcome == Outcome::Applied {
                    self.current = Rc::new(attempt.me);
                }
            }
            _ => {}
        }
        match self.attempt(&tx, provider) {
            Attempt { outcome: Outcome::First(first), fetched, .. } => {
                self.commit_first(&first, fetched, &tx, provider, now);
                Step::Again
            }
            Attempt { outcome: Outcome::Undecided | Outcome::Violation(_), .. } => Step::Again,
            Attempt { mut me, latest, .. } => {
                me.parked.remove(at);
                me.seen = me.seen.max(latest);
                if self.mutant == Some(Mutant::ReplayNotAtomic) {
                    let mut durable = State::clone(&self.durable);
                    durable.parked.retain(|other| *other != tx);
                    self.durable = Rc::new(durable);
                }
                self.current = Rc::new(me);
                self.flush_if_synchronous();
                Step::Done
            }
        }
    }

    fn store<'a>(&self, me: &'a mut State, provider: &'a State, stamp: Stamp) -> MemStore<'a> {
        MemStore {
            me,
            id: self.id,
            mutant: self.mutant,
            provider,
            stamp,
            entry: None,
            written: BTreeSet::new(),
            fetched: BTreeMap::new(),
            has_asked: false,
            latest: Timestamp::MIN,
            out: Vec::new(),
        }
    }

    fn attempt(&mut self, tx: &Transaction, provider: &State) -> Attempt {
        let mut me = State::clone(&self.current);
        let mut store = self.store(&mut me, provider, tx.stamp);
        let mut outcome = Outcome::Applied;
        for entry in &tx.entries {
            store.entry = Some(entry);
            let replaced = entry.prev.filter(|_| self.names_every_version).map_or(entry.replaced, Replaced::Version);
            outcome = one_change(entry, replaced, tx.stamp, &mut store);
            if !matches!(outcome, Outcome::Applied | Outcome::Ignored) {
                break;
            }
        }
        if matches!(outcome, Outcome::Applied | Outcome::Ignored) {
            store.entry = None;
            outcome = check_foreign_keys(self.policy, tx.stamp, &mut store).unwrap_or_else(|never| match never {});
        }
        let (fetched, latest, has_asked) = (store.fetched, store.latest, store.has_asked);
        self.is_plain &= !has_asked;
        Attempt { me, outcome, fetched, latest }
    }

    /// Removals and parents written anew, as a transaction of this node. False if a forgotten stamp would decide.
    fn commit_first(
        &mut self,
        first: &[First<RowId>],
        fetched: BTreeMap<RowId, (Row, Option<Stamp>)>,
        tx: &Transaction,
        provider: &State,
        now: Timestamp,
    ) -> bool {
        let mut me = State::clone(&self.current);
        // the commit wait: what is taken away or brought back was seen
        me.seen = me.seen.max(tx.stamp.commit_ts).max(passed_by(first, &fetched, &me));
        let stamp = me.next_stamp(self.id, now, self.mutant);
        let mut store = self.store(&mut me, provider, stamp);
        store.fetched = fetched;
        let outcome = carry_out(first, tx.stamp, &mut store).unwrap_or_else(|never| match never {});
        let entries = store.out;
        if outcome != Outcome::Applied {
            return false;
        }
        // what was decided a moment ago may leave somebody alone by now: it is decided anew
        if self.gaps && self.mutant.is_none() && !me.orphans().is_empty() {
            return true;
        }
        let removals_only = entries.iter().all(|entry| matches!(entry.op, Op::Remove(_)));
        match self.mutant {
            Some(Mutant::RemovalLocal) if removals_only => {
                me.seen = me.seen.max(stamp.commit_ts);
                self.current = Rc::new(me);
                self.flush();
            }
            Some(Mutant::RemovalInSameTransaction) if removals_only => {
                // only the announcement is durable
                let durable = self.durable.clone();
                self.commit_local(me, stamp, entries, None);
                self.durable = durable;
            }
            _ => self.commit_local(me, stamp, entries, None),
        }
        true
    }
}

/// The largest timestamp that a transaction of this node's own has to pass, because it takes a version away or
/// brings it back.
fn passed_by(first: &[First<RowId>], fetched: &BTreeMap<RowId, (Row, Option<Stamp>)>, me: &State) -> Timestamp {
    let of = |item: &First<RowId>| match item {
        First::Remove(removal) => removal.version.commit_ts,
        First::KeepParent { parent, .. } if me.rows.contains_key(parent) => Timestamp::MIN,
        First::KeepParent { parent, or_else } => match fetched.get(parent) {
            Some((there, _)) if me.clashes(*parent, there.cols).is_empty() => {
                there.stamp.max(or_else.version).commit_ts
            }
            Some(_) | None => or_else.version.commit_ts,
        },
    };
    first.iter().map(of).max().unwrap_or(Timestamp::MIN)
}

fn one_change(entry: &Entry, replaced: Replaced, stamp: Stamp, store: &mut MemStore<'_>) -> Outcome<RowId> {
    let operation = match entry.op {
        Op::Insert => Operation::Insert,
        Op::Update => Operation::Update,
        Op::Delete => Operation::Delete,
        Op::Truncate => return infallible(apply_truncate(stamp, store)),
        Op::Remove(cause) => {
            let version = entry.prev.unwrap_or(stamp);
            return infallible(apply_removal(&Removal { row: entry.row, version, cause }, stamp, store));
        }
        Op::Void => {
            let void = entry.void.map(|(name, _)| apply_void(&entry.row, name, stamp, store));
            void.into_iter().for_each(infallible);
            return Outcome::Applied;
        }
    };
    let left_out = entry.cols.is_some_and(|cols| cols.big == Big::LeftOut);
    let mut change = Change {
        operation,
        stamp,
        replaced,
        set_aside: store.me.set_aside(stamp).filter(|_| store.mutant != Some(Mutant::OwnIsAlwaysHere)),
        left_out,
        contributes: entry.n != 0,
        voids: entry.void.map(|(name, _)| name),
    };
    match store.mutant {
        Some(Mutant::ToastGuessed) if operation == Operation::Update && store.me.rows.contains_key(&entry.row) => {
            change.left_out = false;
        }
        Some(Mutant::DeltaAsValue) => change.contributes = false,
        Some(Mutant::DeltaOnlyIfWins) => {
            let floor = store.me.floor.get(&entry.row.table).copied();
            change.contributes &= decide(change, store.me.here(entry.row), floor).verdict == Verdict::Wins;
        }
        _ => {}
    }
    infallible(apply_change(&entry.row, change, store))
}

fn infallible<T>(result: Result<T, std::convert::Infallible>) -> T {
    result.unwrap_or_else(|never| match never {})
}
