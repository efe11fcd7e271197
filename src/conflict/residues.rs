//! Giving up the counters of rows that stay deleted.
//!
//! A tombstone can't be forgotten while it holds a residue: a later INSERT has to say that it does not count. When every
//! node has confirmed the delete, its author says so himself, by a void in a transaction of its own, and the tombstone
//! becomes a plain one. Runs in the manager of the database, before it collects tombstones.

use meld_core::time::Timestamp;
use meld_core::wire::Void;

use super::tombstones::{Kept, NewTombstone, Tombstones};
use super::voids::Voids;
use super::writers::{UNCOMMITTED, Writers};
use crate::catalog::residue;
use crate::log::Result;
use crate::pg::counter::Amount;
use crate::pg::delta::OwnTable;
use crate::pg::key_bytes::RowKey;
use crate::pg::key_lock::try_exclusive;
use crate::pg::present_row::{self, KeyColumn, PresentTable};
use crate::pg::xact::Xact;
use crate::pg::{Oid, message};

/// Keys in one transaction.
const AT_MOST: i64 = 1000;

/// Announces void what tombstones of this node hold in these blocks of `meld.tombstone` (`to` not among them) and every node
/// has confirmed: `confirmed` is what the collector may collect up to. In a transaction of its own, under no origin, which
/// the caller commits. Tables that somebody works on are left for another time. Gives the number of voids.
pub fn void_due(xact: &Xact, from: u32, to: u32, confirmed: Timestamp) -> Result<usize> {
    let keys = residue::up_to(from, to, confirmed, AT_MOST)?;
    if keys.is_empty() {
        return Ok(0);
    }
    let mut writers = Writers::read_past_rights()?;
    let (mut tombstones, mut voids) = (Tombstones::default(), Voids::open()?);
    let mut count = 0;
    for keys in keys.chunk_by(|one, other| one.0 == other.0) {
        let table = keys[0].0;
        if !try_exclusive(xact, table) {
            continue;
        }
        let Some(own) = OwnTable::open(table)? else { continue };
        for (_, key) in keys {
            let mut due = Due { own: &own, table, key, confirmed, writers: &mut writers };
            count += usize::from(due.void(&mut tombstones, &mut voids)?);
        }
        own.close();
    }
    tombstones.close();
    voids.close();
    Ok(count)
}

/// A key whose tombstone may be due.
struct Due<'d> {
    own: &'d OwnTable,
    table: Oid,
    key: &'d RowKey,
    confirmed: Timestamp,
    writers: &'d mut Writers,
}

impl Due<'_> {
    /// Whether a void was announced.
    fn void(&mut self, tombstones: &mut Tombstones, voids: &mut Voids) -> Result<bool> {
        let Some(kept) = tombstones.find(self.table, self.key, self.writers, UNCOMMITTED)? else { return Ok(false) };
        let residue = self.own.amounts(kept.residue.as_deref().unwrap_or_default())?;
        let is_zero = residue.iter().all(Amount::is_zero);
        let name = kept.tombstone.grave.map(|grave| grave.stamp);
        let is_void_already = match name {
            Some(stamp) => voids.find(self.table, self.key, stamp, self.writers, UNCOMMITTED)?.is_some(),
            None => false,
        };
        let local = self.writers.local_node;
        let due = kept.tombstone.due_void(local, is_zero, is_void_already, self.confirmed);
        let (Some(tombstone), Kept { tombstone: before, residue: Some(entries), key_values: Some(key_values) }) =
            (due, kept)
        else {
            return Ok(false);
        };
        if self.is_live(&key_values)? {
            return Ok(false);
        }
        let Some(key_tuple) = self.own.key_tuple(&key_values) else { return Ok(false) };
        let residue = self.own.amounts_tuple(&residue);
        message::emit_void(Void { relation: self.own.relation(), key: key_tuple, tombstone, residue })?;
        voids.set(self.table, self.key, tombstone, None, &entries, self.writers)?;
        tombstones.forget(self.table, self.key)?;
        let plain = NewTombstone {
            grave: before.grave,
            is_implied: false,
            since: before.since,
            residue: None,
            key_values: None,
        };
        tombstones.put(self.table, self.key, &plain)?;
        Ok(true)
    }

    /// A live row makes the tombstones of its key meaningless.
    fn is_live(&self, key_values: &[String]) -> Result<bool> {
        let names = present_row::key_names(self.table)?;
        if names.len() != key_values.len() {
            // of a key that the table had before: nobody asks for it any more
            return Ok(true);
        }
        let texts = key_values.iter().map(|text| text.clone().into_bytes());
        let columns: Vec<KeyColumn> = names.into_iter().zip(texts).collect();
        let mut present = PresentTable::open(self.table, &columns)?;
        let is_other = present.asked_key().as_ref() != Some(self.key);
        let is_live = is_other || present.look().is_some();
        present.close();
        Ok(is_live)
    }
}
