//! What is kept of deleted rows, in `meld.tombstone`, and for large local transactions in `bundles`.
//!
//! Written for every delete in a replicated table: by the apply worker here, by the row trigger for local ones. Rows are
//! added, not changed: a key may have several, of which the one with the largest stamp counts. A live row makes the
//! tombstones of its key meaningless, so it is looked for first. The row with the empty key is the table's floor: its
//! last truncate, a tombstone of every key. The collector of the database's manager removes what no node needs any more.

use meld_core::bundle::{Packed, pack};
use meld_core::conflict::ConflictType;
use meld_core::converge::{Grave, covers};
use meld_core::time::{Stamp, Timestamp};
use meld_core::tombstone::Tombstone;

use super::bundles::Bundles;
use super::gate::{self, Kind};
use super::writers::Writers;
use crate::log::Result;
use crate::pg::Oid;
use crate::pg::key_bytes::RowKey;
use crate::pg::keyed::{self, Cell, KeyedRow, KeyedTable, Sight};

// columns of the table
const STAMP: i32 = 3;
const CAUSE: i32 = 5;
const SINCE: i32 = 6;
const KEY_VALUES: i32 = 8;
const RESIDUE: i32 = 9;

/// The table, open in one transaction.
pub struct Tombstones {
    rows: KeyedTable,
    bundles: Bundles,
}

/// Fewer keys of a table than this are not packed into bundles, which are dearer to look through.
const BUNDLED_FROM: usize = 64;

/// A tombstone with what hangs on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    pub tombstone: Tombstone,
    /// Of tables with delta columns: their counters, as text, in the columns' order.
    pub residue: Option<Vec<String>>,
    /// Of such tables: the key, as text, in the key's order.
    pub key_values: Option<Vec<String>>,
}

/// How a tombstone is written.
pub struct NewTombstone<'v> {
    /// None: a residue that waits for its row.
    pub grave: Option<Grave>,
    /// The grave's stamp is that of the transaction that writes it.
    pub is_implied: bool,
    /// None: the transaction that writes it.
    pub since: Option<Stamp>,
    pub residue: Option<&'v [String]>,
    pub key_values: Option<&'v [String]>,
}

impl NewTombstone<'_> {
    /// Of a plain table.
    pub fn plain(grave: Grave, is_implied: bool) -> NewTombstone<'static> {
        NewTombstone { grave: Some(grave), is_implied, since: None, residue: None, key_values: None }
    }
}

/// The stamp of a residue that waits.
const WAITING: Timestamp = Timestamp(i64::MIN);

impl Default for Tombstones {
    /// Not opened before it is needed.
    fn default() -> Tombstones {
        Tombstones { rows: KeyedTable::new(c"tombstone", c"tombstone_key"), bundles: Bundles::default() }
    }
}

impl Tombstones {
    pub fn close(self) {
        self.rows.close();
        self.bundles.close();
    }

    /// False if the table surely has none, no floor either.
    pub fn may_exist(&self, table: Oid) -> Result<bool> {
        Ok(gate::may_exist(table, Kind::Tombstone, &self.rows)? || self.bundles.may_exist(table)?)
    }

    /// The tombstone of a key. `own` is the stamp of the transaction in hand, by which its own tombstones are known.
    pub fn find(&self, table: Oid, key: &RowKey, writers: &mut Writers, own: Stamp) -> Result<Option<Kept>> {
        let mut kept = self.bundles.find(table, &key.0, writers, own)?;
        self.rows.scan(table, Some(&key.0), Sight::Committed, |row| {
            add(&mut kept, read(row, writers, own)?);
            Ok(true)
        })?;
        Ok(kept)
    }

    /// Stamp of the table's last truncate.
    pub fn floor(&self, table: Oid, writers: &mut Writers, own: Stamp) -> Result<Option<Stamp>> {
        if !self.may_exist(table)? {
            return Ok(None);
        }
        let kept = self.find(table, &RowKey::default(), writers, own)?;
        Ok(kept.and_then(|kept| kept.tombstone.grave).map(|grave| grave.stamp))
    }

    pub fn put(&mut self, table: Oid, key: &RowKey, new: &NewTombstone<'_>) -> Result<()> {
        let stamp = match new.grave {
            None => Some(Stamp { commit_ts: WAITING, node: meld_core::ids::NodeId(0) }),
            Some(grave) => (!new.is_implied).then_some(grave.stamp),
        };
        let cause = new.grave.and_then(|grave| grave.removed).map(ConflictType::name);
        let [stamp_ts, stamp_node] = Cell::stamp(stamp);
        let [since_ts, since_node] = Cell::stamp(new.since);
        let cells = [
            stamp_ts,
            stamp_node,
            cause.map_or(Cell::Null, Cell::Text),
            since_ts,
            since_node,
            new.key_values.map_or(Cell::Null, Cell::Texts),
            new.residue.map_or(Cell::Null, Cell::Texts),
        ];
        self.rows.insert(table, &key.0, &cells)?;
        gate::raise(table, Kind::Tombstone);
        Ok(())
    }

    /// Tombstones of a plain table, with the stamp of the transaction that writes them: of keys in order, without doubles.
    pub fn put_keys(&mut self, table: Oid, keys: &[&[u8]]) -> Result<()> {
        if keys.len() < BUNDLED_FROM {
            return self.put_singles(table, keys);
        }
        // the floor, which is before all others, is looked for by itself
        let (floor, keys) = keys.split_at(usize::from(keys.first().is_some_and(|key| key.is_empty())));
        let mut singles = floor.to_vec();
        pack(keys, |packed| match packed {
            Packed::Single(key) => {
                singles.push(key);
                Ok(())
            }
            Packed::Bundle(bundle) => self.bundles.put(table, &bundle),
        })?;
        self.put_singles(table, &singles)
    }

    fn put_singles(&mut self, table: Oid, keys: &[&[u8]]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        keys.iter().try_for_each(|key| self.rows.insert(table, key, &[]))?;
        gate::raise(table, Kind::Tombstone);
        Ok(())
    }

    /// Removes all tombstones of a key, whose row is back. In bundles it stays, where a live row makes it meaningless.
    pub fn forget(&mut self, table: Oid, key: &RowKey) -> Result<()> {
        self.rows.delete_key(table, key).map(drop)
    }

    /// A truncate with the stamp of the transaction in hand: the floor rises to it, and what it covers goes.
    pub fn raise_floor(&mut self, table: Oid, own: Stamp, writers: &mut Writers) -> Result<()> {
        let mut covered = Vec::new();
        self.rows.scan(table, None, Sight::Committed, |row| {
            let kept = read(row, writers, own)?;
            if kept.residue.is_none() && kept.tombstone.grave.is_some_and(|grave| covers(own, grave)) {
                covered.push(row.place());
            }
            Ok(true)
        })?;
        covered.into_iter().for_each(|place| self.rows.delete(place));
        self.bundles.remove_covered(table, own, writers)?;
        self.put(table, &RowKey::default(), &NewTombstone::plain(Grave { stamp: own, removed: None }, true))?;
        keyed::seen();
        Ok(())
    }
}

fn read(row: &KeyedRow<'_>, writers: &mut Writers, own: Stamp) -> Result<Kept> {
    let mut written_by = || writers.stamp_or_bound(row.writer(), own);
    let explicit = row.stamp(STAMP);
    let residue = row.texts(RESIDUE);
    let key_values = row.texts(KEY_VALUES);
    if explicit.is_some_and(|stamp| stamp.commit_ts == WAITING) {
        return Ok(Kept { tombstone: Tombstone { grave: None, since: None }, residue, key_values });
    }
    let stamp = match explicit {
        Some(stamp) => stamp,
        None => written_by()?,
    };
    let since = match row.stamp(SINCE) {
        Some(since) => since,
        None => written_by()?,
    };
    let removed = row.text(CAUSE).and_then(|name| ConflictType::ALL.into_iter().find(|kind| kind.name() == name));
    let tombstone = Tombstone { grave: Some(Grave { stamp, removed }), since: Some(since) };
    Ok(Kept { tombstone, residue, key_values })
}

/// Of the tombstones of a key, the largest one, made by the latest transaction.
pub(super) fn add(kept: &mut Option<Kept>, found: Kept) {
    *kept = Some(match kept.take() {
        None => found,
        Some(before) => {
            let since = before.tombstone.since.max(found.tombstone.since);
            let larger = if found.tombstone.grave >= before.tombstone.grave { found } else { before };
            Kept { tombstone: Tombstone { since, ..larger.tombstone }, ..larger }
        }
    });
}
