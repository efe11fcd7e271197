//! Tombstones of local deletes: keys are noted row by row and written together.
//!
//! The row trigger notes the old key of each DELETE, and of each UPDATE that changes it, in the memory of the backend.
//! Before the transaction is committed or prepared, what was noted is written in the order of the keys, many of them
//! packed into bundles, which costs a fraction of writing row by row; a large transaction writes in between. A tombstone
//! says nothing of its stamp: that is the transaction's own.
//!
//! Notes belong to the subtransaction in which they were made: they go with it when it is undone, and to the one above
//! when it is released. A row that was not deleted after all, since another trigger kept it, is still there, and a live
//! row makes tombstones of its key meaningless.

use std::cell::{Cell, RefCell};

use meld_core::converge::Grave;
use meld_core::ids::{NodeId, RelId};
use meld_core::time::{Stamp, Timestamp};
use pgrx::prelude::PgSqlErrorCode;

use crate::conflict::tombstones::{NewTombstone, Tombstones};
use crate::log::{Failure, Result, or_raise};
use crate::pg::Oid;
use crate::pg::emptied::EmptiedTable;
use crate::pg::key_bytes::{KeyColumns, RowKey};
use crate::pg::keyed;
use crate::pg::nesting::{self, Watch};
use crate::pg::row_trigger::{OldRow, Residue};
use crate::pg::session::is_for_apply;

crate::row_trigger_entry!(meld_truncate_trigger, pg_finfo_meld_truncate_trigger => crate::pg::emptied::run, emptied);

/// Notes of one level beyond this are written before the transaction ends.
const LIMIT_BYTES: usize = 4 << 20;

/// Memory beyond this is not kept from one transaction to the next.
const SPARE_BYTES: usize = 1 << 10;

/// A key that has lost its row.
#[derive(Clone, Copy)]
struct Note {
    table: RelId,
    /// Where the key is in the level's bytes.
    at: usize,
    length: u32,
}

/// What was noted in one subtransaction.
struct Level {
    depth: i32,
    notes: Vec<Note>,
    /// The keys, one behind the other.
    keys: Vec<u8>,
}

impl Level {
    /// In the memory of one that is not needed any more, if there is such.
    fn at(depth: i32) -> Level {
        let mut level = SPARE.take().unwrap_or(Level { depth, notes: Vec::new(), keys: Vec::new() });
        level.depth = depth;
        level.notes.clear();
        level.keys.clear();
        level
    }

    fn spare(self) {
        if self.keys.capacity() <= SPARE_BYTES {
            SPARE.set(Some(self));
        }
    }

    /// Notes the key that `append` puts behind the others, if it does.
    fn note(&mut self, table: RelId, append: impl FnOnce(&mut Vec<u8>) -> bool) {
        let at = self.keys.len();
        if append(&mut self.keys) {
            self.notes.push(Note { table, at, length: (self.keys.len() - at) as u32 });
        } else {
            self.keys.truncate(at);
        }
    }

    fn key(&self, note: &Note) -> &[u8] {
        &self.keys[note.at..note.at + note.length as usize]
    }

    fn size_bytes(&self) -> usize {
        self.keys.len() + self.notes.len() * size_of::<Note>()
    }

    fn append(&mut self, joined: Level) {
        let behind = self.keys.len();
        self.keys.extend_from_slice(&joined.keys);
        self.notes.extend(joined.notes.into_iter().map(|note| Note { at: note.at + behind, ..note }));
    }

    fn write(&self) -> Result<()> {
        let mut tombstones = Tombstones::default();
        let result = match self.notes.as_slice() {
            [note] => tombstones.put_keys(Oid::from(note.table.0), &[self.key(note)]),
            _ => self.write_all(&mut tombstones),
        };
        tombstones.close();
        result
    }

    fn write_all(&self, tombstones: &mut Tombstones) -> Result<()> {
        let mut notes: Vec<(RelId, &[u8])> = self.notes.iter().map(|note| (note.table, self.key(note))).collect();
        notes.sort_unstable();
        notes.dedup();
        notes.chunk_by(|one, other| one.0 == other.0).try_for_each(|of_table| {
            let keys: Vec<&[u8]> = of_table.iter().map(|&(_, key)| key).collect();
            tombstones.put_keys(Oid::from(of_table[0].0.0), &keys)
        })
    }
}

thread_local! {
    /// From the outermost level inwards, without those that have noted nothing.
    static NOTED: RefCell<Vec<Level>> = const { RefCell::new(Vec::new()) };
    static SPARE: Cell<Option<Level>> = const { Cell::new(None) };
}

/// Called when the library is loaded.
pub fn init() {
    nesting::watch(Watch { before_end: write_all, ended, level_joined, level_undone });
}

/// A table was emptied, which is a tombstone of every key: its floor.
fn emptied(table: &EmptiedTable) {
    if table.has_counters {
        let failure = Failure::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("cannot truncate replicated table \"{}\" because it has delta columns", table.name),
        );
        failure
            .detail("What a TRUNCATE on one node leaves of a counter would depend on what has arrived there.")
            .hint("Use DELETE, or take the delta columns away first with meld.delta_remove_column.")
            .raise();
    }
    // the apply worker raises the floor by itself
    if !is_for_apply() {
        // the empty key
        or_raise(note_key(table.id, |_| true));
    }
}

/// Notes the row's key if the change takes it away.
pub fn note(row: &OldRow<'_>) -> Result<()> {
    let Some(columns) = row.key_columns() else { return Ok(()) };
    match row.residue()? {
        None => note_plain(row, &columns),
        // an INSERT of this transaction may have to know what became of the counters
        Some(residue) => match row.lost_key(&columns) {
            Some(key) => write_with_counters(row.relation(), &key, &residue),
            None => Ok(()),
        },
    }
}

/// The same, of a table without counters, whose key has these columns.
pub fn note_plain(row: &OldRow<'_>, columns: &KeyColumns) -> Result<()> {
    if row.loses_key(columns) { note_key(row.relation(), |keys| row.append_key(columns, keys)) } else { Ok(()) }
}

fn note_key(table: RelId, append: impl FnOnce(&mut Vec<u8>) -> bool) -> Result<()> {
    let depth = nesting::level();
    let is_much = NOTED.with_borrow_mut(|levels| {
        if levels.last().is_none_or(|last| last.depth < depth) {
            levels.push(Level::at(depth));
        }
        let Some(level) = levels.last_mut() else { unreachable!("pushed above") };
        level.note(table, append);
        level.size_bytes() > LIMIT_BYTES
    });
    if is_much {
        // only what this level has noted: it is undone with what it writes
        let level = NOTED.with_borrow_mut(Vec::pop);
        level.map_or(Ok(()), |level| level.write())?;
    }
    Ok(())
}

fn write_with_counters(table: RelId, key: &RowKey, residue: &Residue) -> Result<()> {
    let mut tombstones = Tombstones::default();
    let has_any = !residue.counters.is_empty();
    let new = NewTombstone {
        // the stamp is the transaction's own, and not known yet
        grave: Some(Grave { stamp: Stamp { commit_ts: Timestamp(0), node: NodeId(0) }, removed: None }),
        is_implied: true,
        since: None,
        residue: has_any.then_some(&residue.counters),
        key_values: has_any.then_some(&residue.key_values),
    };
    let result = tombstones.put(Oid::from(table.0), key, &new);
    tombstones.close();
    // also by an INSERT of the same statement
    keyed::seen();
    result
}

fn write_all() {
    let Some(mut all) = NOTED.with_borrow_mut(|levels| (!levels.is_empty()).then(|| levels.remove(0))) else { return };
    NOTED.with_borrow_mut(|levels| levels.drain(..).for_each(|level| all.append(level)));
    or_raise(all.write());
    all.spare();
}

fn ended() {
    NOTED.with_borrow_mut(Vec::clear);
}

fn level_undone(depth: i32) {
    NOTED.with_borrow_mut(|levels| levels.retain(|level| level.depth < depth));
}

fn level_joined(depth: i32) {
    NOTED.with_borrow_mut(|levels| {
        let Some(joined) = levels.pop_if(|last| last.depth == depth) else { return };
        match levels.last_mut() {
            Some(above) if above.depth == depth - 1 => above.append(joined),
            _ => levels.push(Level { depth: depth - 1, ..joined }),
        }
    });
}
