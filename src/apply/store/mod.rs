//! The heap behind the convergence rule's port: the rows, tombstones and stamps of one local transaction.
//!
//! The change in hand has its target positioned for its whole length: its values stand in the target's remote slot, and
//! the row that was found, locked, in its local one. Any other row is called by its name, and looked for again by each
//! function that needs it; it was locked when it was first met.

mod counter;
mod heap;
mod linked;

use meld_core::conflict::{Conflict, ConflictType};
use meld_core::converge::{Fetched as Answer, Grave, Here, LocalStamp, Operation, RowStore, Values};
use meld_core::ids::Xid;
use meld_core::lsn::Lsn;
use meld_core::time::Stamp;

pub use self::counter::{Said, contribution};
use self::heap::not_in_hand;
pub use self::linked::overtaken;
use super::clashed::Clashed;
use super::fetch::Fetcher;
use super::fetched::Fetched;
use super::row::Row;
use super::tables::Tables;
use crate::conflict::Writers;
use crate::log::{Failure, Result};
use crate::pg::Snapshots;
use crate::pg::counter::Amount;
use crate::pg::target::RowSide;

/// How often an insert looks again for a row that was there a moment ago.
const INSERT_ROUNDS: usize = 5;

/// The remote transaction that is being applied, or that led to a transaction of this node's own.
#[derive(Clone, Copy, Debug)]
pub struct RemoteContext {
    pub stamp: Stamp,
    pub commit_lsn: Lsn,
    pub xid: Xid,
}

/// Whose the local transaction is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Committer {
    /// It gets the remote's stamp.
    Remote,
    /// This node's own; its stamp is not known yet.
    Own,
}

/// The change whose values are in its target's remote slot.
pub struct InHand {
    pub table: usize,
    pub operation: Operation,
    pub row: Row,
    /// What `find` saw last.
    here: Here,
    seen: Seen,
    /// What it says about the counters of its key.
    said: Said,
    /// What it has added to them, and is not written yet.
    pending: Vec<Amount>,
    /// The remote slot holds what was fetched instead of what came.
    has_fetched: bool,
}

/// A conflict that is to be told of.
struct Met {
    conflict: Conflict,
    here: Here,
    /// The index in which the row clashed, and the row that it gave way to, where it is known and the row was here.
    clash: Option<(String, Option<String>)>,
}

/// What is there of a row, beside its stamp.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Seen {
    is_live: bool,
    has_tombstone: bool,
    has_override: bool,
}

pub struct HeapStore<'s> {
    pub tables: &'s mut Tables,
    pub writers: &'s mut Writers,
    pub fetched: &'s mut Fetched,
    pub fetcher: &'s mut Fetcher,
    pub clashed: &'s mut Clashed,
    pub remote: RemoteContext,
    pub committer: Committer,
    pub in_hand: Option<InHand>,
    /// Conflicts met, for the statistics.
    pub conflicts: &'s mut Vec<ConflictType>,
}

impl InHand {
    pub fn new(table: usize, operation: Operation, said: Said) -> InHand {
        let (here, seen) = (Here::Nothing, Seen::default());
        InHand { table, operation, row: Row::unnamed(), here, seen, said, pending: Vec::new(), has_fetched: false }
    }
}

impl RowStore for HeapStore<'_> {
    type Error = Failure;
    type Row = Row;

    fn find(&mut self, row: &Row) -> Result<Here> {
        match self.in_hand(row) {
            Some((table, operation)) => {
                let found = self.look_for_in_hand(table, operation)?;
                let (here, seen) = self.state(table, found, operation != Operation::Delete)?;
                if let Some(in_hand) = &mut self.in_hand {
                    in_hand.here = here;
                    in_hand.seen = seen;
                }
                Ok(here)
            }
            None => match row.name().filter(|name| name.is_reference) {
                Some(name) => self.find_referenced(row, name),
                None => self.at(row, |store, table| {
                    let found = store.open(table).target.find(true, Snapshots::Fresh)?;
                    Ok(store.state(table, found, false)?.0)
                }),
            },
        }
    }

    fn floor(&mut self, row: &Row) -> Result<Option<Stamp>> {
        let table = match row.name().filter(|name| name.is_reference) {
            None => self.table_of(row)?,
            Some(_) => match self.fetched.row(row).map(|there| there.relation.clone()) {
                Some(relation) => self.tables.by_relation(&relation)?,
                None => return Ok(None),
            },
        };
        if self.open(table).floor.is_none() {
            let oid = self.open(table).target.oid();
            let floor = self.tables.tombstones.floor(oid, self.writers, self.remote.stamp)?;
            self.open(table).floor = Some(floor);
        }
        Ok(self.open(table).floor.flatten())
    }

    fn put(&mut self, row: &Row, stamp: Stamp, values: Values) -> Result<()> {
        if self.in_hand(row).is_none() {
            return self.with_fetched(row, |store| {
                store.check_still_older(stamp)?;
                store.put(row, stamp, values)
            });
        }
        self.take(row, values)?;
        let Some(in_hand) = &self.in_hand else { return Err(not_in_hand()) };
        let (table, seen) = (in_hand.table, in_hand.seen);
        let kept = self.fill_counters(table, seen)?;
        let target = &mut self.tables.get(table).target;
        if seen.is_live {
            target.update();
        } else {
            target.insert()?;
            self.check_put(table, kept.as_ref())?;
        }
        self.look_after_put(table, seen.is_live)?;
        let seen = Seen { has_tombstone: seen.has_tombstone || kept.is_some(), ..seen };
        let target = &mut self.tables.get(table).target;
        let is_explicit = stamp != self.remote.stamp || self.committer == Committer::Own;
        if !(is_explicit || seen.has_override || seen.has_tombstone) {
            return Ok(());
        }
        let (oid, key) = (target.oid(), target.row_key(RowSide::Remote));
        if is_explicit {
            self.tables.overrides.set(oid, &key, stamp)?;
            self.fetched.note_used(stamp);
        } else if seen.has_override {
            self.tables.overrides.clear(oid, &key)?;
        }
        if seen.has_tombstone {
            self.tables.tombstones.forget(oid, &key)?;
        }
        Ok(())
    }

    fn bury(&mut self, row: &Row, grave: Grave) -> Result<()> {
        match self.in_hand(row) {
            Some((table, _)) => {
                let seen = self.in_hand.as_ref().map(|in_hand| in_hand.seen).unwrap_or_default();
                self.bury_at(table, seen, grave)
            }
            None => self.at(row, |store, table| {
                let found = store.open(table).target.find(true, Snapshots::Fresh)?;
                let (_, seen) = store.state(table, found, false)?;
                store.bury_at(table, seen, grave)
            }),
        }
    }

    fn count(&mut self, _row: &Row) -> Result<()> {
        self.add_contribution()
    }

    fn voided(&mut self, row: &Row, tombstone: Stamp) -> Result<Option<Stamp>> {
        Ok(self.registered_void(row, tombstone)?.map(|registered| registered.by))
    }

    fn void(&mut self, row: &Row, tombstone: Stamp, by: Stamp) -> Result<()> {
        self.register_void(row, tombstone, by)
    }

    fn fetch(&mut self, row: &Row) -> Result<Answer> {
        self.name(row);
        let Some(name) = row.name() else { return Err(not_in_hand()) };
        if self.in_hand(row).is_none() {
            return self.fetched.fetch_parent(self.fetcher, row, name, self.remote.xid);
        }
        let table = self.table_of(row)?;
        let open = self.tables.get(table);
        let key = open.key_tuple(&name.key);
        self.fetched.fetch(self.fetcher, row, &open.description, &key, self.remote.xid)
    }

    fn clashes(&mut self, row: &Row, values: Values) -> Result<Vec<(Row, LocalStamp)>> {
        if self.in_hand(row).is_none() {
            return self.with_fetched(row, |store| store.clashes(row, values));
        }
        self.take(row, values)?;
        let Some(table) = self.in_hand.as_ref().map(|in_hand| in_hand.table) else { return Err(not_in_hand()) };
        self.clashes_at(table, row)
    }

    fn record(&mut self, row: &Row, conflict: Conflict, here: Here) -> Result<()> {
        self.conflicts.push(conflict.kind);
        let found = Met { conflict, here, clash: self.clash_of(row, conflict, here) };
        match self.in_hand(row) {
            Some((table, operation)) => self.record_at(table, found, operation != Operation::Delete),
            None => self.at(row, |store, table| {
                store.open(table).target.find(true, Snapshots::Fresh)?;
                store.record_at(table, found, false)
            }),
        }
    }
}
