//! Residues of deleted rows that do not count any more, in `meld.void`.
//!
//! Two nodes may start a deleted row anew at once, and both say that what its counters held is void: a register for each
//! key and tombstone, in which the later one stands, has it counted once. Written by the apply worker, and by the trigger of
//! the session that inserts over a residue; both hold the lock on keys without a row. The collector of the database's
//! manager removes what no node needs any more.

use meld_core::time::Stamp;

use super::writers::Writers;
use crate::log::Result;
use crate::pg::Oid;
use crate::pg::key_bytes::RowKey;
use crate::pg::keyed::{self, Cell, KeyedTable, Place, Sight};

// columns of the table
const TOMBSTONE: i32 = 3;
const BY: i32 = 5;
const RESIDUE: i32 = 7;

/// The table, open in one transaction.
pub struct Voids {
    rows: KeyedTable,
}

/// What the register of a key and tombstone holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registered {
    /// The transaction whose void counts.
    pub by: Stamp,
    /// What it took away.
    pub residue: Vec<String>,
}

impl Voids {
    pub fn open() -> Result<Voids> {
        Ok(Voids { rows: KeyedTable::new(c"void", c"void_pkey") })
    }

    pub fn close(self) {
        self.rows.close();
    }

    /// `own` is the stamp of the transaction in hand.
    pub fn find(
        &self,
        table: Oid,
        key: &RowKey,
        tombstone: Stamp,
        writers: &mut Writers,
        own: Stamp,
    ) -> Result<Option<Registered>> {
        Ok(self.look(table, key, tombstone, writers, own)?.map(|(found, _)| found))
    }

    /// Puts a void in place of the one that the register holds. `by`: none for the transaction in hand.
    pub fn set(
        &mut self,
        table: Oid,
        key: &RowKey,
        tombstone: Stamp,
        by: Option<Stamp>,
        residue: &[String],
        writers: &mut Writers,
    ) -> Result<()> {
        if let Some((_, place)) = self.look(table, key, tombstone, writers, tombstone)? {
            self.rows.delete(place);
            keyed::seen();
        }
        let [tombstone_ts, tombstone_node] = Cell::stamp(Some(tombstone));
        let [by_ts, by_node] = Cell::stamp(by);
        let cells = [tombstone_ts, tombstone_node, by_ts, by_node, Cell::Texts(residue)];
        self.rows.insert(table, &key.0, &cells)?;
        keyed::seen();
        Ok(())
    }

    fn look(
        &self,
        table: Oid,
        key: &RowKey,
        tombstone: Stamp,
        writers: &mut Writers,
        own: Stamp,
    ) -> Result<Option<(Registered, Place)>> {
        let mut found = None;
        self.rows.scan(table, Some(&key.0), Sight::Committed, |row| {
            if row.stamp(TOMBSTONE) != Some(tombstone) {
                return Ok(true);
            }
            let by = match row.stamp(BY) {
                Some(by) => by,
                None => writers.stamp_or_bound(row.writer(), own)?,
            };
            found = Some((Registered { by, residue: row.texts(RESIDUE).unwrap_or_default() }, row.place()));
            Ok(false)
        })?;
        Ok(found)
    }
}
