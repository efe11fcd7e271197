//! The counters of keys: what changes add to them, whoever wins.
//!
//! A change adds to the counter of its key before the rule decides about the row, and the row is often written afterwards.
//! So what is added is held back ([`InHand::pending`]) until `put` or `bury` writes the row or the tombstone, and
//! [`HeapStore::settle`] does it by itself where neither comes. Nothing of it outlives the change in hand.

use meld_core::converge::{Grave, Here, LocalStamp, Operation};
use meld_core::time::Stamp;

use super::heap::not_in_hand;
use super::{Committer, HeapStore, InHand, Row, Seen};
use crate::conflict::tombstones::{Kept, NewTombstone};
use crate::conflict::voids::Registered;
use crate::log::Result;
use crate::pg::counter::Amount;
use crate::pg::target::RowSide;
use crate::pg::target_counters::Counters;

/// What a change says about the counters of its key, in the order of the table's counters; empty without counters.
#[derive(Default)]
pub struct Said {
    /// What it adds.
    pub contribution: Vec<Amount>,
    /// What it takes away again.
    pub void: Vec<Amount>,
}

impl Said {
    pub fn contributes(&self) -> bool {
        self.contribution.iter().any(|amount| !amount.is_zero())
    }
}

/// The sums of two lists of amounts; an empty one stands for zeros.
pub fn sums(one: &[Amount], other: &[Amount]) -> Result<Vec<Amount>> {
    match (one, other) {
        ([], amounts) | (amounts, []) => Ok(amounts.to_vec()),
        _ => one.iter().zip(other).map(|(a, b)| a.plus(b)).collect(),
    }
}

/// The differences of two lists of amounts of one length.
pub fn differences(one: &[Amount], other: &[Amount]) -> Result<Vec<Amount>> {
    one.iter().zip(other).map(|(a, b)| a.minus(b)).collect()
}

impl InHand {
    fn add(&mut self, amounts: &[Amount]) -> Result<()> {
        self.pending = sums(&self.pending, amounts)?;
        Ok(())
    }
}

impl HeapStore<'_> {
    /// The change in hand says this about the counters.
    pub fn say(&mut self, said: Said) {
        if let Some(in_hand) = &mut self.in_hand {
            in_hand.said = said;
        }
    }

    pub(super) fn add_contribution(&mut self) -> Result<()> {
        let Some(in_hand) = &mut self.in_hand else { return Err(not_in_hand()) };
        let contribution = std::mem::take(&mut in_hand.said.contribution);
        in_hand.add(&contribution)
    }

    pub(super) fn registered_void(&mut self, row: &Row, tombstone: Stamp) -> Result<Option<Registered>> {
        let table = self.table_of(row)?;
        let target = &self.tables.get(table).target;
        let (oid, key) = (target.oid(), target.row_key(RowSide::Remote));
        self.tables.voids()?.find(oid, &key, tombstone, self.writers, self.remote.stamp)
    }

    pub(super) fn register_void(&mut self, row: &Row, tombstone: Stamp, by: Stamp) -> Result<()> {
        let before = self.registered_void(row, tombstone)?;
        let table = self.table_of(row)?;
        let (counters, oid, key) = self.key_in_hand(table);
        let before = match before {
            Some(before) => counters.of_residue(&before.residue)?,
            None => counters.zeros(),
        };
        let Some(in_hand) = &mut self.in_hand else { return Err(not_in_hand()) };
        let change = differences(&before, &in_hand.said.void)?;
        let now = counters.residue(&in_hand.said.void);
        in_hand.add(&change)?;
        self.tables.voids()?.set(oid, &key, tombstone, Some(by), &now, self.writers)
    }

    fn key_in_hand(&mut self, table: usize) -> (Counters, crate::pg::Oid, crate::pg::key_bytes::RowKey) {
        let open = self.tables.get(table);
        (open.counters.clone(), open.target.oid(), open.target.row_key(RowSide::Remote))
    }

    /// Gives the row in the remote slot, which is about to be written, the counter of its key. What was kept of the key comes
    /// back.
    pub(super) fn fill_counters(&mut self, table: usize, seen: Seen) -> Result<Option<Kept>> {
        if self.tables.get(table).counters.is_empty() {
            return Ok(None);
        }
        let kept = self.kept_now(table, seen)?;
        let amounts = self.counted(table, seen, kept.as_ref())?;
        let open = self.tables.get(table);
        open.target.set_counters(&open.counters, &amounts)?;
        Ok(kept)
    }

    /// After a row was put where none was: has somebody put one there and deleted it again since the counters were looked
    /// at? From now on nobody can.
    pub(super) fn check_put(&mut self, table: usize, kept: Option<&Kept>) -> Result<()> {
        if !self.tables.get(table).counters.is_empty() && self.kept_now(table, Seen::default())?.as_ref() != kept {
            self.tables.stumble(table);
        }
        Ok(())
    }

    /// Leaves a tombstone with the counter of the key, whose row has not been taken away yet.
    pub(super) fn bury_counters(
        &mut self,
        table: usize,
        seen: Seen,
        grave: Option<Grave>,
        implied: bool,
    ) -> Result<()> {
        if !seen.is_live {
            self.tables.claim(table)?;
        }
        let kept = self.kept_now(table, seen)?;
        let amounts = self.counted(table, seen, kept.as_ref())?;
        let (counters, oid, key) = self.key_in_hand(table);
        // a live row may have one that means nothing: of a DELETE that a trigger of a user suppressed
        if kept.is_some() || seen.is_live && self.tables.tombstones.may_exist(oid)? {
            self.tables.tombstones.forget(oid, &key)?;
        }
        // somebody may have raised it since it was looked at
        let higher = kept.as_ref().and_then(|kept| kept.tombstone.grave).filter(|kept| Some(*kept) > grave);
        let (grave, implied) = if higher.is_some() { (higher, false) } else { (grave, implied) };
        // the later of the two transactions; one of this node's own is later than all that it knows
        let before = kept.and_then(|kept| kept.tombstone.since);
        let since = before.filter(|before| self.committer == Committer::Remote && *before > self.remote.stamp);
        self.write_tombstone(table, grave, implied, since, &counters.residue(&amounts))
    }

    fn write_tombstone(
        &mut self,
        table: usize,
        grave: Option<Grave>,
        is_implied: bool,
        since: Option<Stamp>,
        residue: &[String],
    ) -> Result<()> {
        let open = self.tables.get(table);
        let key_values: Vec<String> =
            open.target.key_values(RowSide::Remote).into_iter().map(|(_, text)| text).collect();
        let (oid, key) = (open.target.oid(), open.target.row_key(RowSide::Remote));
        let (residue, key_values) = match residue.is_empty() {
            true => (None, None),
            false => (Some(residue), Some(key_values.as_slice())),
        };
        self.tables.tombstones.put(oid, &key, &NewTombstone { grave, is_implied, since, residue, key_values })
    }

    /// Writes what the change has added, if nothing that the rule did has taken it along.
    pub fn settle(&mut self) -> Result<()> {
        let Some(in_hand) = &self.in_hand else { return Ok(()) };
        let (table, seen, here) = (in_hand.table, in_hand.seen, in_hand.here);
        if in_hand.pending.iter().all(Amount::is_zero) {
            return Ok(());
        }
        match here {
            Here::Live(stamp) => self.settle_live(table, seen, stamp),
            Here::Dead(_) | Here::Nothing => self.settle_dead(table, seen),
        }
    }

    /// The row is written anew, with its old stamp.
    fn settle_live(&mut self, table: usize, seen: Seen, stamp: LocalStamp) -> Result<()> {
        let amounts = self.counted(table, seen, None)?;
        let open = self.tables.get(table);
        open.target.take_local_row();
        open.target.set_counters(&open.counters, &amounts)?;
        open.target.update();
        let stamp = match stamp {
            LocalStamp::ThisTransaction => return Ok(()),
            LocalStamp::Known(stamp) | LocalStamp::Before(stamp) => stamp,
        };
        if self.committer == Committer::Remote && stamp == self.remote.stamp {
            return Ok(());
        }
        let (_, oid, key) = self.key_in_hand(table);
        self.tables.overrides.set(oid, &key, stamp)
    }

    /// The tombstone, or what waits for its row, is written anew.
    fn settle_dead(&mut self, table: usize, seen: Seen) -> Result<()> {
        self.tables.claim(table)?;
        let kept = self.kept_now(table, seen)?;
        let amounts = self.counted(table, seen, kept.as_ref())?;
        let (counters, oid, key) = self.key_in_hand(table);
        if kept.is_some() {
            self.tables.tombstones.forget(oid, &key)?;
        }
        let grave = kept.as_ref().and_then(|kept| kept.tombstone.grave);
        let since = kept.and_then(|kept| kept.tombstone.since);
        let residue = counters.residue(&amounts);
        if grave.is_some() || !residue.is_empty() {
            self.write_tombstone(table, grave, false, since, &residue)?;
        }
        Ok(())
    }

    /// What is kept of the key in hand at this moment, if it has no row.
    fn kept_now(&mut self, table: usize, seen: Seen) -> Result<Option<Kept>> {
        let (_, oid, key) = self.key_in_hand(table);
        if seen.is_live || !self.tables.tombstones.may_exist(oid)? {
            return Ok(None);
        }
        self.tables.tombstones.find(oid, &key, self.writers, self.remote.stamp)
    }

    /// The counter of the key with what the change in hand has added to it, which is taken with this.
    fn counted(&mut self, table: usize, seen: Seen, kept: Option<&Kept>) -> Result<Vec<Amount>> {
        let open = self.tables.get(table);
        let counters = &open.counters;
        let here = match kept.and_then(|kept| kept.residue.as_ref()) {
            _ if seen.is_live => open.target.counter_values(RowSide::Local, counters)?,
            Some(residue) => counters.of_residue(residue)?,
            None => counters.zeros(),
        };
        let pending = self.in_hand.as_mut().map(|in_hand| std::mem::take(&mut in_hand.pending)).unwrap_or_default();
        sums(&here, &pending)
    }
}

/// What an INSERT or UPDATE adds, whose new row is in the target's remote slot. `old`: what an UPDATE replaced.
pub fn contribution(
    target: &crate::pg::target::Target,
    counters: &Counters,
    operation: Operation,
    old: Option<Vec<Amount>>,
) -> Result<Vec<Amount>> {
    match (operation, old) {
        (Operation::Insert, _) => target.counter_values(RowSide::Remote, counters),
        (Operation::Update, Some(old)) => {
            let new = target.new_counters(counters, &old)?;
            differences(&new, &old)
        }
        (Operation::Update, None) | (Operation::Delete, _) => Ok(counters.zeros()),
    }
}
