//! The second trigger of tables with delta columns: what is a new row to the counter of its key?
//!
//! Fires after an INSERT, and after an UPDATE that changed the key. If the key was deleted before and its counters left a
//! residue, the row starts anew: a void says that the residue does not count, or a contribution takes it off (`core`'s
//! `counter` says which). The message comes behind the row's own change, at the end of the statement, and the tombstone
//! goes: the counter lives in the row again. The lock on keys without a row keeps apply from burying or counting there
//! meanwhile.

use meld_core::converge::LocalStamp;
use meld_core::counter::{Rebirth, rebirth};
use meld_core::wire::{Contribution, Void};

use crate::conflict::tombstones::Tombstones;
use crate::conflict::voids::Voids;
use crate::conflict::writers::{UNCOMMITTED, Writers};
use crate::log::{Result, or_raise};
use crate::pg::Oid;
use crate::pg::born_row::BornRow;
use crate::pg::counter::Amount;
use crate::pg::key_bytes::RowKey;
use crate::pg::key_lock::{self, KeyLock};
use crate::pg::message;
use crate::pg::row_trigger::is_replaying;

crate::row_trigger_entry!(meld_counter_trigger, pg_finfo_meld_counter_trigger => crate::pg::born_row::run, look);

crate::row_trigger_entry!(meld_arrival_trigger, pg_finfo_meld_arrival_trigger => crate::pg::born_row::run_before, arriving);

/// Takes the lock before the first row is put. Taken behind it, it could be held by an apply worker that waits for the row.
fn arriving(table: Oid) {
    if !is_replaying() {
        key_lock::lock_in_statement(table, KeyLock::Shared);
    }
}

fn look(row: &BornRow<'_>) {
    // apply keeps the counters of what it puts by itself
    if !is_replaying() {
        or_raise(born(row));
    }
}

fn born(row: &BornRow<'_>) -> Result<()> {
    let Some(key) = row.new_key() else { return Ok(()) };
    row.check_counters()?;
    key_lock::lock_in_statement(row.table(), KeyLock::Shared);
    let mut tombstones = Tombstones::default();
    if tombstones.may_exist(row.table())? {
        over_tombstone(row, &key, &mut tombstones)?;
    }
    tombstones.close();
    Ok(())
}

fn over_tombstone(row: &BornRow<'_>, key: &RowKey, tombstones: &mut Tombstones) -> Result<()> {
    let mut writers = Writers::read_past_rights()?;
    let Some(kept) = tombstones.find(row.table(), key, &mut writers, UNCOMMITTED)? else { return Ok(()) };
    let residue = row.amounts(kept.residue.as_deref().unwrap_or_default())?;
    if !residue.iter().all(Amount::is_zero) {
        let stamp = kept.tombstone.grave.map(|grave| match grave.stamp {
            UNCOMMITTED => LocalStamp::ThisTransaction,
            stamp => LocalStamp::Known(stamp),
        });
        let mut voids = Voids::open()?;
        let is_void_already = match stamp {
            Some(LocalStamp::Known(stamp)) => voids.find(row.table(), key, stamp, &mut writers, UNCOMMITTED)?.is_some(),
            Some(LocalStamp::ThisTransaction | LocalStamp::Before(_)) | None => false,
        };
        match rebirth(stamp, false, is_void_already) {
            Rebirth::Plain => {}
            Rebirth::Continues => {
                let zeros = row.zeros();
                let off: Result<Vec<Amount>> =
                    zeros.iter().zip(&residue).map(|(zero, amount)| zero.minus(amount)).collect();
                let amounts = row.amounts_tuple(&off?);
                message::emit_contribution(Contribution { relation: row.relation(), key: row.key_tuple(), amounts })?;
            }
            Rebirth::Voids(tombstone) => {
                let kept = kept.residue.unwrap_or_default();
                voids.set(row.table(), key, tombstone, None, &kept, &mut writers)?;
                let residue = row.amounts_tuple(&residue);
                message::emit_void(Void { relation: row.relation(), key: row.key_tuple(), tombstone, residue })?;
            }
        }
        voids.close();
    }
    tombstones.forget(row.table(), key)
}
