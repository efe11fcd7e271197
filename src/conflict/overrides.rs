//! Explicit stamps, in `meld.row_stamp_override`: of rows whose last writer's commit does not carry the right one.
//!
//! A fetched row keeps the stamp that it has at its provider, and a row that only took a contribution to a counter keeps
//! its own. The stamp holds for the version of the row that the same transaction wrote: once somebody writes the row
//! again, its own commit counts, and the explicit stamp means nothing.

use meld_core::ids::Xid;
use meld_core::time::Stamp;

use super::gate::{self, Kind};
use crate::log::Result;
use crate::pg::Oid;
use crate::pg::key_bytes::RowKey;
use crate::pg::keyed::{self, Cell, KeyedTable, Sight};

const STAMP: i32 = 3;

/// The table, open in one transaction.
pub struct Overrides {
    rows: KeyedTable,
}

impl Default for Overrides {
    /// Not opened before it is needed.
    fn default() -> Overrides {
        Overrides { rows: KeyedTable::new(c"row_stamp_override", c"row_stamp_override_pkey") }
    }
}

impl Overrides {
    pub fn close(self) {
        self.rows.close();
    }

    /// False if no row of the table surely has one.
    pub fn may_exist(&self, table: Oid) -> Result<bool> {
        gate::may_exist(table, Kind::Override, &self.rows)
    }

    /// The explicit stamp of the version that a transaction wrote.
    pub fn find(&self, table: Oid, key: &RowKey, xmin: Xid) -> Result<Option<Stamp>> {
        let mut stamp = None;
        self.rows.scan(table, Some(&key.0), Sight::Committed, |row| {
            if row.xmin() == xmin {
                stamp = row.stamp(STAMP);
            }
            Ok(true)
        })?;
        Ok(stamp)
    }

    /// The same, without asking for the key where no row of the table has one. No key: no explicit stamp.
    pub fn find_if_any(
        &self,
        table: Oid,
        xmin: Xid,
        key: impl FnOnce() -> Result<Option<RowKey>>,
    ) -> Result<Option<Stamp>> {
        if !self.may_exist(table)? {
            return Ok(None);
        }
        match key()? {
            Some(key) => self.find(table, &key, xmin),
            None => Ok(None),
        }
    }

    /// Gives the version that this transaction writes, or wrote, an explicit stamp.
    pub fn set(&mut self, table: Oid, key: &RowKey, stamp: Stamp) -> Result<()> {
        #[cfg(feature = "planted_fault")]
        if crate::settings::PLANTED_FAULT.get() == crate::settings::PlantedFault::NoOverrides {
            return Ok(());
        }
        self.clear(table, key)?;
        self.rows.insert(table, &key.0, &Cell::stamp(Some(stamp)))?;
        gate::raise(table, Kind::Override);
        keyed::seen();
        Ok(())
    }

    /// Removes what the key has, also if it means nothing any more.
    pub fn clear(&mut self, table: Oid, key: &RowKey) -> Result<()> {
        if self.rows.delete_key(table, key)? {
            keyed::seen();
        }
        Ok(())
    }
}
