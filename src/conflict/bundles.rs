//! The tombstones of large local transactions, many keys in a row of `meld.tombstone_bundle`.
//!
//! Written by the row trigger's notes alone, with the stamp of their transaction; how keys are packed and found is
//! `core::bundle`. A bundle stays as it is until all of it goes: it is collected, or covered by a truncate. A row that
//! comes back under one of its keys makes that key's part meaningless, as with any tombstone.

use meld_core::bundle::{self, Bundle, Damaged, Search};
use meld_core::converge::{Grave, covers};
use meld_core::time::Stamp;
use meld_core::tombstone::Tombstone;
use pgrx::prelude::PgSqlErrorCode;

use super::gate::{self, Kind};
use super::tombstones::{Kept, add};
use super::writers::Writers;
use crate::log::{Failure, Result};
use crate::pg::Oid;
use crate::pg::keyed::{Cell, KeyedRow, KeyedTable, Sight};

// columns of the table
const KEYS: i32 = 3;
const STAMP: i32 = 5;
const SINCE: i32 = 7;

/// The table, open in one transaction.
pub struct Bundles {
    rows: KeyedTable,
}

impl Default for Bundles {
    /// Not opened before it is needed.
    fn default() -> Bundles {
        Bundles { rows: KeyedTable::new(c"tombstone_bundle", c"tombstone_bundle_prefix") }
    }
}

impl Bundles {
    pub fn close(self) {
        self.rows.close();
    }

    /// False if the table surely has none.
    pub fn may_exist(&self, table: Oid) -> Result<bool> {
        gate::may_exist(table, Kind::Bundle, &self.rows)
    }

    pub fn put(&mut self, table: Oid, bundle: &Bundle) -> Result<()> {
        let count = i32::try_from(bundle.key_count).unwrap_or(i32::MAX);
        self.rows.insert(table, &bundle.prefix, &[Cell::Bytes(&bundle.content), Cell::Int4(count)])?;
        gate::raise(table, Kind::Bundle);
        Ok(())
    }

    /// The tombstone of a key, if any bundle has it.
    pub fn find(&self, table: Oid, key: &[u8], writers: &mut Writers, own: Stamp) -> Result<Option<Kept>> {
        if !self.may_exist(table)? {
            return Ok(None);
        }
        let mut kept = None;
        let mut search = Search::of(key);
        while let Some(found) = self.rows.first_key_from(table, &search.from())? {
            let Some(prefix) = search.next(&found).map_err(damaged)? else { break };
            self.rows.scan(table, Some(&prefix), Sight::Committed, |row| {
                let content = row.bytes(KEYS).unwrap_or_default();
                if bundle::contains(&prefix, &content, key).map_err(damaged)? {
                    add(&mut kept, read(row, writers, own)?);
                }
                Ok(true)
            })?;
        }
        Ok(kept)
    }

    /// A truncate with this stamp makes those that it covers meaningless.
    pub fn remove_covered(&mut self, table: Oid, floor: Stamp, writers: &mut Writers) -> Result<()> {
        if !self.may_exist(table)? {
            return Ok(());
        }
        let mut covered = Vec::new();
        self.rows.scan(table, None, Sight::Committed, |row| {
            if read(row, writers, floor)?.tombstone.grave.is_some_and(|grave| covers(floor, grave)) {
                covered.push(row.place());
            }
            Ok(true)
        })?;
        covered.into_iter().for_each(|place| self.rows.delete(place));
        Ok(())
    }
}

fn read(row: &KeyedRow<'_>, writers: &mut Writers, own: Stamp) -> Result<Kept> {
    let mut written_by = || writers.stamp_or_bound(row.writer(), own);
    let stamp = row.stamp(STAMP).map_or_else(&mut written_by, Ok)?;
    let since = row.stamp(SINCE).map_or_else(&mut written_by, Ok)?;
    let tombstone = Tombstone { grave: Some(Grave { stamp, removed: None }), since: Some(since) };
    Ok(Kept { tombstone, residue: None, key_values: None })
}

fn damaged(damage: Damaged) -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, "row of table \"meld.tombstone_bundle\" is damaged")
        .detail(damage.to_string())
}
