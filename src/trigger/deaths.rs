//! Tombstones of local deletes: keys are noted row by row and written together.
//!
//! The row trigger notes the old key of each DELETE, and of each UPDATE that changes it, in the memory of the backend.
//! Before the transaction is committed or prepared, what was noted is written to `meld.tombstone` in the order of the
//! keys, which costs a fraction of writing row by row; a large transaction writes in between. A tombstone says nothing of
//! its stamp: that is the transaction's own.
//!
//! Notes belong to the subtransaction in which they were made: they go with it when it is undone, and to the one above
//! when it is released. A row that was not deleted after all, since another trigger kept it, is still there, and a live
//! row makes tombstones of its key meaningless.

use std::cell::RefCell;

use meld_core::converge::Grave;
use meld_core::ids::{NodeId, RelId};
use meld_core::time::{Stamp, Timestamp};
use pgrx::prelude::PgSqlErrorCode;

use crate::conflict::tombstones::{NewTombstone, Tombstones};
use crate::log::{Failure, Result, or_raise};
use crate::pg::Oid;
use crate::pg::emptied::EmptiedTable;
use crate::pg::key_bytes::RowKey;
use crate::pg::keyed;
use crate::pg::nesting::{self, Watch};
use crate::pg::row_trigger::{OldRow, Residue};
use crate::pg::session::is_for_apply;

crate::row_trigger_entry!(meld_truncate_trigger, pg_finfo_meld_truncate_trigger => crate::pg::emptied::run, emptied);

/// Notes of one level beyond this are written before the transaction ends.
const LIMIT_BYTES: usize = 4 << 20;

/// What a note costs beside its key.
const NOTE_BYTES: usize = 40;

/// A key that has lost its row.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Death {
    table: RelId,
    key: RowKey,
}

/// What was noted in one subtransaction.
struct Level {
    depth: i32,
    deaths: Vec<Death>,
    size_bytes: usize,
}

thread_local! {
    /// From the outermost level inwards, without those that have noted nothing.
    static NOTED: RefCell<Vec<Level>> = const { RefCell::new(Vec::new()) };
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
        or_raise(push(Death { table: table.id, key: RowKey::default() }));
    }
}

/// Notes the row's key if the change takes it away.
pub fn note(row: &OldRow<'_>) -> Result<()> {
    let Some(key) = row.lost_key() else { return Ok(()) };
    match row.residue()? {
        None => push(Death { table: row.relation(), key }),
        // an INSERT of this transaction may have to know what became of the counters
        Some(residue) => write_with_counters(row.relation(), &key, &residue),
    }
}

fn push(death: Death) -> Result<()> {
    let depth = nesting::level();
    let is_much = NOTED.with_borrow_mut(|levels| {
        if levels.last().is_none_or(|last| last.depth < depth) {
            levels.push(Level { depth, deaths: Vec::new(), size_bytes: 0 });
        }
        let Some(level) = levels.last_mut() else { unreachable!("pushed above") };
        level.size_bytes += death.key.0.len() + NOTE_BYTES;
        level.deaths.push(death);
        level.size_bytes > LIMIT_BYTES
    });
    if is_much {
        // only what this level has noted: it is undone with what it writes
        let level = NOTED.with_borrow_mut(Vec::pop);
        write(level.map(|level| level.deaths).unwrap_or_default())?;
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
    let levels = NOTED.take();
    if !levels.is_empty() {
        or_raise(write(levels.into_iter().flat_map(|level| level.deaths).collect()));
    }
}

fn write(mut deaths: Vec<Death>) -> Result<()> {
    deaths.sort_unstable();
    deaths.dedup();
    let mut tombstones = Tombstones::default();
    let result = tombstones.put_keys(deaths.iter().map(|death| (Oid::from(death.table.0), &death.key)));
    tombstones.close();
    result
}

fn ended() {
    NOTED.with_borrow_mut(Vec::clear);
}

fn level_undone(depth: i32) {
    NOTED.with_borrow_mut(|levels| levels.retain(|level| level.depth < depth));
}

fn level_joined(depth: i32) {
    NOTED.with_borrow_mut(|levels| {
        let Some(mut joined) = levels.pop_if(|last| last.depth == depth) else { return };
        match levels.last_mut() {
            Some(above) if above.depth == depth - 1 => {
                above.size_bytes += joined.size_bytes;
                above.deaths.append(&mut joined.deaths);
            }
            _ => levels.push(Level { depth: depth - 1, ..joined }),
        }
    });
}
