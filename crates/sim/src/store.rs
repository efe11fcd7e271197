//! The rule's port over the state of a simulated node: one store for each transaction that is tried.
//!
//! Most mutants live here, as lies of the store, so that the rule which is tested is the one that is used.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use meld_core::conflict::{Conflict, ConflictType, Resolution};
use meld_core::converge::{
    Fetched, Grave, Here, LinkedStore, LocalStamp, Orphan, Removal, Replaced, RowStore, TableStore, Values, covers,
};
use meld_core::ids::NodeId;
use meld_core::time::{Stamp, Timestamp};

use crate::data::{Big, Cols, Entry, Lost, Op, Row, RowId, Why};
use crate::mutant::Mutant;
use crate::state::State;

pub struct MemStore<'a> {
    pub me: &'a mut State,
    pub id: NodeId,
    pub mutant: Option<Mutant>,
    /// The node that rows are fetched from.
    pub provider: &'a State,
    /// Of the transaction in hand.
    pub stamp: Stamp,
    /// The change in hand; `None` in a transaction of this node's own.
    pub entry: Option<&'a Entry>,
    pub written: BTreeSet<RowId>,
    pub fetched: BTreeMap<RowId, (Row, Option<Stamp>)>,
    pub has_asked: bool,
    /// Largest timestamp fetched and put.
    pub latest: Timestamp,
    /// What a transaction of this node's own has done.
    pub out: Vec<Entry>,
}

const FIRST: Stamp = Stamp { commit_ts: Timestamp::MIN, node: NodeId(0) };
const LAST: Stamp = Stamp { commit_ts: Timestamp(i64::MAX), node: NodeId(u16::MAX) };

impl MemStore<'_> {
    /// What a mutant takes the state of the key to be.
    fn lie(&self, op: Op, here: Here) -> Here {
        let change = self.stamp;
        match (self.mutant, here) {
            (Some(Mutant::ArrivalWins), Here::Live(LocalStamp::Known(stamp))) if stamp > change => {
                Here::Live(LocalStamp::Known(FIRST))
            }
            (Some(Mutant::ArrivalWins), Here::Dead(_)) => Here::Nothing,
            (Some(Mutant::TieByApplier), Here::Live(LocalStamp::Known(stamp)))
                if stamp.commit_ts == change.commit_ts && stamp.node != change.node =>
            {
                let node = if stamp.node == self.id { NodeId(u16::MAX) } else { NodeId(0) };
                Here::Live(LocalStamp::Known(Stamp { node, ..stamp }))
            }
            (Some(Mutant::RemovalTie), Here::Dead(grave)) => Here::Dead(Grave { removed: None, ..grave }),
            (Some(Mutant::DeleteTie), Here::Dead(grave)) if grave.stamp == change && op == Op::Insert => {
                Here::Dead(Grave { removed: Some(ConflictType::InsertExists), ..grave })
            }
            (Some(Mutant::FrozenWins), Here::Live(LocalStamp::Before(_))) => Here::Live(LocalStamp::Known(LAST)),
            _ => here,
        }
    }

    fn cols(&self, row: RowId, values: Values) -> Cols {
        let here = self.me.rows.get(&row).map(|live| live.cols);
        let incoming = self.entry.and_then(|entry| entry.cols);
        let fetched = self.fetched.get(&row).map(|(live, _)| live.cols);
        let whole = match values {
            Values::Incoming => incoming,
            Values::IncomingOverHere => incoming.or(here),
            Values::Fetched => fetched,
        };
        let whole = whole.unwrap_or_else(|| panic!("{row:?}: no values to write from {values:?}"));
        match (whole.big, here) {
            (Big::LeftOut, Some(here)) => Cols { big: here.big, ..whole },
            (Big::LeftOut, None) => panic!("{row:?}: a value is left out and nothing is here"),
            (Big::NoColumn | Big::Value(_), _) => whole,
        }
    }

    fn lose(&mut self, row: RowId, stamp: Stamp, why: Why) {
        if self.mutant != Some(Mutant::SilentOverwrite) {
            self.me.history.insert(Lost { row, stamp, why });
        }
    }

    /// How a log names the version that a local write replaces.
    pub fn replaced(id: NodeId, row: &Row) -> Replaced {
        match row {
            Row { frozen: true, .. } => Replaced::Unknown,
            Row { stamp, .. } if stamp.node == id => Replaced::Own,
            Row { stamp, .. } => Replaced::Version(*stamp),
        }
    }
}

impl RowStore for MemStore<'_> {
    type Error = Infallible;
    type Row = RowId;

    fn find(&mut self, row: &RowId) -> Result<Here, Infallible> {
        let here = self.me.here(*row);
        Ok(match self.entry {
            Some(entry) if entry.row == *row && !matches!(entry.op, Op::Remove(_)) => self.lie(entry.op, here),
            Some(_) | None => here,
        })
    }

    fn floor(&mut self, row: &RowId) -> Result<Option<Stamp>, Infallible> {
        let floor = self.me.floor.get(&row.table).copied();
        Ok(floor.filter(|_| self.mutant != Some(Mutant::TruncateUnstamped)))
    }

    fn put(&mut self, row: &RowId, stamp: Stamp, values: Values) -> Result<(), Infallible> {
        let cols = self.cols(*row, values);
        let mut n = self.me.counter(*row);
        if let Some(entry) = self.entry.filter(|entry| entry.row == *row) {
            match (self.mutant, values, self.fetched.get(row)) {
                (Some(Mutant::DeltaAsValue), _, _) if entry.op == Op::Insert => n = entry.n,
                (Some(Mutant::FetchBringsCounter), Values::Fetched, Some((there, _))) => {
                    n += there.n - self.me.rows.get(row).map_or(0, |live| live.n);
                }
                _ => {}
            }
        }
        self.latest = self.latest.max(stamp.commit_ts);
        self.written.insert(*row);
        self.me.put(*row, stamp, cols, n);
        Ok(())
    }

    fn bury(&mut self, row: &RowId, grave: Grave) -> Result<(), Infallible> {
        self.me.bury(*row, grave, self.stamp, self.mutant);
        Ok(())
    }

    fn count(&mut self, row: &RowId) -> Result<(), Infallible> {
        let n = self.entry.map_or(0, |entry| entry.n);
        self.me.count(*row, n);
        Ok(())
    }

    fn voided(&mut self, row: &RowId, tombstone: Stamp) -> Result<Option<Stamp>, Infallible> {
        let register = self.me.voids.get(&(*row, tombstone)).map(|(by, _)| *by);
        Ok(register.filter(|_| self.mutant != Some(Mutant::VoidWithoutRegister)))
    }

    fn void(&mut self, row: &RowId, tombstone: Stamp, by: Stamp) -> Result<(), Infallible> {
        let residue = self.entry.and_then(|entry| entry.void).map_or(0, |(_, residue)| residue);
        self.me.void(*row, tombstone, by, residue, self.mutant);
        Ok(())
    }

    fn fetch(&mut self, row: &RowId) -> Result<Fetched, Infallible> {
        self.has_asked = true;
        let Some(there) = self.provider.rows.get(row) else { return Ok(Fetched::Gone) };
        let (stamp, fetched) = match self.provider.local_stamp(there) {
            LocalStamp::Before(bound) => (None, Fetched::Forgotten(bound)),
            LocalStamp::Known(_) | LocalStamp::ThisTransaction => (Some(there.stamp), Fetched::Row(there.stamp)),
        };
        self.fetched.insert(*row, (*there, stamp));
        Ok(fetched)
    }

    fn clashes(&mut self, row: &RowId, values: Values) -> Result<Vec<(RowId, LocalStamp)>, Infallible> {
        let cols = self.cols(*row, values);
        let clashes = self.me.clashes(*row, cols);
        Ok(clashes.into_iter().map(|(other, live)| (other, self.me.local_stamp(live))).collect())
    }

    fn record(&mut self, row: &RowId, conflict: Conflict, here: Here) -> Result<(), Infallible> {
        let stamp_here = self.me.rows.get(row).map(|live| live.stamp).filter(|_| matches!(here, Here::Live(_)));
        let op = self.entry.map(|entry| entry.op);
        match (op, conflict.resolution, stamp_here) {
            (None | Some(Op::Remove(_)), Resolution::ApplyRemote, Some(stamp)) => self.lose(*row, stamp, Why::Removed),
            (Some(Op::Insert | Op::Update | Op::Delete), Resolution::ApplyRemote, Some(stamp)) => {
                self.lose(*row, stamp, Why::Overwritten);
            }
            (Some(Op::Insert | Op::Update), Resolution::KeepLocal | Resolution::Skip, _) => {
                self.lose(*row, self.stamp, Why::Beaten);
            }
            _ => {}
        }
        Ok(())
    }
}

impl LinkedStore for MemStore<'_> {
    fn children(&mut self, row: &RowId) -> Result<Vec<RowId>, Infallible> {
        Ok(self.me.children(*row))
    }

    fn missing_parents(&mut self, row: &RowId, values: Values) -> Result<Vec<RowId>, Infallible> {
        let parent = self.cols(*row, values).parent(*row);
        let missing = parent.filter(|parent| !self.me.rows.contains_key(parent));
        Ok(missing.filter(|_| self.mutant != Some(Mutant::ParentAlone)).into_iter().collect())
    }

    fn orphans(&mut self) -> Result<Vec<Orphan<RowId>>, Infallible> {
        let orphans = self.me.orphans().into_iter().map(|(child, parent)| Orphan {
            child,
            stamp: self.me.rows.get(&child).map_or(LocalStamp::ThisTransaction, |live| self.me.local_stamp(live)),
            parent,
            written: self.written.contains(&child),
        });
        Ok(orphans.filter(|_| self.mutant != Some(Mutant::ForeignKeyUnchecked)).collect())
    }

    fn has_fetched(&mut self, row: &RowId) -> bool {
        self.fetched.contains_key(row)
    }

    fn rewrite(&mut self, row: &RowId, values: Values) -> Result<(), Infallible> {
        let full = self.cols(*row, values);
        let mut entry = Entry { full: Some(full), cols: Some(full), touch: true, ..Entry::new(Op::Update, *row) };
        if let Some(live) = self.me.rows.get(row) {
            entry.prev = Some(live.stamp);
            entry.replaced = Self::replaced(self.id, live);
            entry.cols = Some(Cols { big: Big::LeftOut, ..full });
        } else if let Some((there, stamp)) = self.fetched.get(row) {
            entry.prev = Some(there.stamp);
            entry.replaced = stamp.map_or(Replaced::Unknown, Replaced::Version);
        }
        let n = self.me.counter(*row);
        self.me.put(*row, self.stamp, full, n);
        self.out.push(entry);
        Ok(())
    }

    fn announce(&mut self, removal: &Removal<RowId>) -> Result<(), Infallible> {
        self.out.push(Entry { prev: Some(removal.version), ..Entry::new(Op::Remove(removal.cause), removal.row) });
        Ok(())
    }
}

/// The table is that of the truncate in hand.
impl TableStore for MemStore<'_> {
    type Error = Infallible;
    type Row = RowId;

    fn rows(&mut self) -> Result<Vec<(RowId, LocalStamp)>, Infallible> {
        let table = self.entry.map(|entry| entry.row.table);
        let rows = self.me.rows.iter().filter(|(row, _)| Some(row.table) == table);
        let unstamped = self.mutant == Some(Mutant::TruncateUnstamped);
        let stamp = |live| if unstamped { LocalStamp::Known(FIRST) } else { self.me.local_stamp(live) };
        Ok(rows.map(|(row, live)| (*row, stamp(live))).collect())
    }

    fn erase(&mut self, row: &RowId) -> Result<(), Infallible> {
        if let Some(gone) = self.me.rows.remove(row) {
            self.lose(*row, gone.stamp, Why::Truncated);
        }
        Ok(())
    }

    fn raise_floor(&mut self, stamp: Stamp) -> Result<(), Infallible> {
        let Some(table) = self.entry.map(|entry| entry.row.table) else { return Ok(()) };
        let covered = |grave: Option<Grave>| grave.is_none_or(|grave| covers(stamp, grave));
        self.me.tombs.retain(|row, tomb| row.table != table || !covered(tomb.kept.grave));
        let floor = self.me.floor.entry(table).or_insert(stamp);
        *floor = (*floor).max(stamp);
        Ok(())
    }
}
