//! What refers to a row, and what goes into this node's own stream.

use meld_core::converge::{LinkedStore, Orphan, Removal, Values};
use meld_core::ids::RelId;
use meld_core::wire::{self, RemovalNote};
use pgrx::prelude::PgSqlErrorCode;

use super::{HeapStore, Row};
use crate::apply::row::{KeyValue, RowName};
use crate::catalog;
use crate::log::{Failure, Result};
use crate::pg::Snapshots;
use crate::pg::foreign_keys::ChildRow;
use crate::pg::message;
use crate::pg::target::RowSide;

fn named(child: ChildRow) -> Row {
    let ChildRow { schema, table, key } = child;
    let key = key.into_iter().map(|(column, text)| KeyValue { column, text }).collect();
    Row::named(RowName { schema, table, key })
}

impl LinkedStore for HeapStore<'_> {
    fn children(&mut self, row: &Row) -> Result<Vec<Row>> {
        self.at(row, |store, table| {
            let target = &mut store.open(table).target;
            let keys = catalog::foreign_key::to_table(target.oid())?;
            if keys.is_empty() || target.find(true, Snapshots::Fresh)?.is_none() {
                return Ok(Vec::new());
            }
            Ok(target.children(&keys)?.into_iter().map(named).collect())
        })
    }

    fn missing_parents(&mut self, _row: &Row, _values: Values) -> Result<Vec<Row>> {
        Ok(Vec::new())
    }

    fn orphans(&mut self) -> Result<Vec<Orphan<Row>>> {
        Ok(Vec::new())
    }

    fn has_fetched(&mut self, row: &Row) -> bool {
        self.fetched.row(row).is_some()
    }

    fn rewrite(&mut self, _row: &Row, _values: Values) -> Result<()> {
        Err(Failure::new(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, "a parent can't be written anew yet"))
    }

    /// The delete of the row that is here follows.
    fn announce(&mut self, removal: &Removal<Row>) -> Result<()> {
        #[cfg(feature = "planted_fault")]
        if crate::settings::PLANTED_FAULT.get() == crate::settings::PlantedFault::SilentRemovals {
            return Ok(());
        }
        self.at(&removal.row, |store, table| {
            let target = &mut store.open(table).target;
            let row_goes = target.find(true, Snapshots::Fresh)?.is_some();
            // the plugin looks for the delete by the old row's key
            let fingerprint = if row_goes { target.fingerprint() } else { None };
            let relation = RelId(target.oid().to_u32());
            let open = store.open(table);
            let key = open.key_tuple(&open.key_of(RowSide::Remote));
            let (version, cause) = (removal.version, removal.cause);
            message::emit_removal(RemovalNote {
                removal: wire::Removal { relation, key, version, cause },
                row_goes,
                fingerprint: fingerprint.unwrap_or_default(),
            })
        })
    }
}
