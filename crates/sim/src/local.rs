//! What local users do: a transaction of the node's own, all or nothing, and what of it goes into the log.

use meld_core::converge::{Grave, LocalStamp};
use meld_core::counter::{Rebirth, rebirth};
use meld_core::ids::NodeId;
use meld_core::time::Stamp;

use crate::data::{Big, Cols, Entry, Key, Op, RowId, Statement, Table, a};
use crate::mutant::Mutant;
use crate::state::State;
use crate::store::MemStore;

/// A local transaction at work.
pub struct Local<'a> {
    pub me: &'a mut State,
    pub id: NodeId,
    pub stamp: Stamp,
    pub mutant: Option<Mutant>,
}

impl Local<'_> {
    /// The changes of the transaction, or `None` if the server would refuse it.
    pub fn run(&mut self, statements: &[Statement]) -> Option<Vec<Entry>> {
        let mut entries = Vec::new();
        for statement in statements {
            entries.extend(self.statement(statement)?);
        }
        self.me.orphans().is_empty().then_some(entries)
    }

    fn statement(&mut self, statement: &Statement) -> Option<Vec<Entry>> {
        match *statement {
            Statement::Truncate { table } => {
                self.me.rows.retain(|row, _| row.table != table);
                self.me.tombs.retain(|row, _| row.table != table);
                self.me.floor.insert(table, self.stamp);
                Some(vec![Entry::new(Op::Truncate, RowId { table, key: 0 })])
            }
            Statement::Insert { row, .. } if self.me.rows.contains_key(&row) => None,
            Statement::Insert { row, cols, n } => Some(vec![self.insert(row, cols, n)?]),
            Statement::Update { row, v, link, second, big, n } => {
                let old = *self.me.rows.get(&row)?;
                let cols = Cols {
                    v: v.unwrap_or(old.cols.v),
                    link: link.or(old.cols.link),
                    second: second.or(old.cols.second),
                    big: big.filter(|_| row.table == Table::A).map_or(old.cols.big, Big::Value),
                };
                if !self.me.clashes(row, cols).is_empty() {
                    return None;
                }
                self.me.put(row, self.stamp, cols, old.n + n);
                Some(vec![Entry {
                    cols: Some(leave_out(old.cols, cols)),
                    full: Some(cols),
                    prev: Some(old.stamp),
                    replaced: MemStore::replaced(self.id, &old),
                    n,
                    ..Entry::new(Op::Update, row)
                }])
            }
            Statement::Delete { row } => Some(vec![self.delete(row)?]),
            Statement::Move { from, to } => self.change_key(from, to),
        }
    }

    fn delete(&mut self, row: RowId) -> Option<Entry> {
        let old = *self.me.rows.get(&row)?;
        self.me.bury(row, Grave { stamp: self.stamp, removed: None }, self.stamp, self.mutant);
        let replaced = MemStore::replaced(self.id, &old);
        Some(Entry { prev: Some(old.stamp), replaced, ..Entry::new(Op::Delete, row) })
    }

    fn change_key(&mut self, from: Key, to: Key) -> Option<Vec<Entry>> {
        let old = *self.me.rows.get(&a(from))?;
        if self.me.rows.contains_key(&a(to)) {
            return None;
        }
        let delete = self.delete(a(from))?;
        let insert = self.insert(a(to), old.cols, old.n)?;
        let insert = Entry {
            cols: Some(leave_out(old.cols, old.cols)),
            prev: Some(old.stamp),
            moved_from: Some(from),
            ..insert
        };
        Some(vec![delete, insert])
    }

    fn insert(&mut self, row: RowId, cols: Cols, n: i64) -> Option<Entry> {
        if !self.me.clashes(row, cols).is_empty() {
            return None;
        }
        let tomb = self.me.tombs.get(&row).copied();
        let residue = tomb.map_or(0, |tomb| tomb.residue);
        let grave = tomb.and_then(|tomb| tomb.kept.grave).map(|grave| grave.stamp);
        let is_void_already = grave.is_some_and(|stamp| self.me.voids.contains_key(&(row, stamp)));
        let stamp = grave.map(|stamp| match stamp == self.stamp {
            true => LocalStamp::ThisTransaction,
            false => LocalStamp::Known(stamp),
        });
        let (contribution, void) = match rebirth(stamp, residue == 0, is_void_already) {
            Rebirth::Plain => (n, None),
            Rebirth::Continues => (n - residue, None),
            Rebirth::Voids(tombstone) => (n, Some((tombstone, residue))),
        };
        self.me.put(row, self.stamp, cols, n);
        if let Some((tombstone, residue)) = void {
            self.me.voids.insert((row, tombstone), (self.stamp, residue));
        }
        Some(Entry { cols: Some(cols), full: Some(cols), n: contribution, void, ..Entry::new(Op::Insert, row) })
    }
}

/// The row as the WAL holds it: without a TOASTed value that did not change.
fn leave_out(old: Cols, new: Cols) -> Cols {
    match new.big {
        Big::Value(_) if new.big == old.big => Cols { big: Big::LeftOut, ..new },
        Big::Value(_) | Big::NoColumn | Big::LeftOut => new,
    }
}
