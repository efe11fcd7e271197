//! What refers to a row and what a row refers to, and what goes into this node's own stream.
//!
//! A row that is put is asked for its parents at once, and each that is here is locked: one look for each foreign key. A row
//! that goes is asked for its children at once, when nobody can add one any more. What is not well then is noted
//! ([`crate::apply::dangling`]) and looked at again when all changes have been applied.

use meld_core::converge::{Grave, Here, LinkedStore, LocalStamp, Operation, Orphan, Removal, RowStore, Values};
use meld_core::ids::RelId;
use meld_core::time::Stamp;
use meld_core::version::Replaced;
use meld_core::wire::{self, RemovalNote, Replacing, Version};
use pgrx::prelude::PgSqlErrorCode;

use super::heap::not_in_hand;
use super::{Committer, HeapStore, InHand, Row, Said};
use crate::apply::fetch::FetchedStamp;
use crate::apply::row::{KeyValue, RowName};
use crate::catalog::{self, reference};
use crate::log::{Failure, Result};
use crate::pg::Snapshots;
use crate::pg::foreign_keys::ChildRow;
use crate::pg::message;
use crate::pg::parents::ParentRow;
use crate::pg::target::RowSide;

fn named(schema: String, table: String, key: Vec<(String, String)>) -> Row {
    let key = key.into_iter().map(|(column, text)| KeyValue { column, text }).collect();
    Row::named(RowName { schema, table, key, is_reference: false })
}

impl HeapStore<'_> {
    /// After the row in the target's remote slot was written, over the one in the local slot if `was_live`.
    pub(super) fn look_after_put(&mut self, table: usize, was_live: bool) -> Result<()> {
        let Some(links) = self.tables.links(table)? else { return Ok(()) };
        if self.tables.lacks_parent(table, &links, was_live)? {
            let target = &self.tables.get(table).target;
            let (schema, name, key) = (target.schema(), target.name(), target.key_values(RowSide::Remote));
            if key.is_empty() {
                return Err(keyless(schema, name));
            }
            let (schema, name) = (schema.to_owned(), name.to_owned());
            self.tables.dangling.note(&schema, &name, key, true);
        }
        if was_live && links.children.iter().any(|key| self.tables.get(table).target.differs(&key.parent_columns)) {
            self.tables.parent_went();
            let children = self.tables.get(table).target.stranded_children(&links.children)?;
            self.note_children(children);
        }
        Ok(())
    }

    /// After the row in the target's local slot was deleted: nobody can refer to it any more.
    pub(super) fn look_after_delete(&mut self, table: usize) -> Result<()> {
        let Some(links) = self.tables.links(table)? else { return Ok(()) };
        if links.children.is_empty() {
            return Ok(());
        }
        self.tables.parent_went();
        let children = self.tables.get(table).target.children(&links.children)?;
        self.note_children(children);
        Ok(())
    }

    fn note_children(&mut self, children: Vec<ChildRow>) {
        for ChildRow { schema, table, key } in children {
            self.tables.dangling.note(&schema, &table, key, false);
        }
    }

    /// All rows that refer to tables which were truncated.
    fn note_children_of_emptied(&mut self) -> Result<()> {
        for oid in std::mem::take(&mut self.tables.dangling.emptied) {
            let children = self.tables.xact.with_snapshot(|| {
                let keys = catalog::foreign_key::to_table(oid)?;
                keys.iter().map(crate::pg::foreign_keys::ForeignKey::all_rows).collect::<Result<Vec<_>>>()
            })?;
            children.into_iter().for_each(|children| self.note_children(children));
        }
        Ok(())
    }

    /// Where the row is that a reference means, by its key: here, or where the fetched one belongs.
    pub(super) fn by_key(&mut self, row: &Row, name: &RowName) -> Result<Option<Row>> {
        if let Some(located) = self.located(name)? {
            return Ok(Some(located));
        }
        let Some(there) = self.fetched.row(row) else { return Ok(None) };
        let (relation, tuple) = (there.relation.clone(), there.row.clone());
        let table = self.tables.by_relation(&relation)?;
        let name = self.tables.get(table).name_of_key_in(&tuple);
        Ok(Some(Row::named(name)))
    }

    fn located(&mut self, name: &RowName) -> Result<Option<Row>> {
        let (columns, values): (Vec<String>, Vec<String>) =
            name.key.iter().map(|part| (part.column.clone(), part.text.clone())).unzip();
        let place = self.tables.xact.with_snapshot(|| match reference::table(&name.schema, &name.table)? {
            Some(table) => reference::find(table, &columns, &values),
            None => Ok(None),
        })?;
        Ok(place.map(|place| named(place.schema, place.name, place.key)))
    }

    /// What is known here of the row that a reference means. One that is here, but has other values by now, stands against
    /// the fetched one like a tombstone of its stamp.
    pub(super) fn find_referenced(&mut self, row: &Row, name: &RowName) -> Result<Here> {
        while let Some(located) = self.located(name)? {
            let here = self.find(&located)?;
            // now it is locked; before, others may have given it other values
            if self.located(name)?.as_ref() == Some(&located) {
                return Ok(here);
            }
        }
        if self.committer == Committer::Remote {
            self.fetch(row)?;
        }
        let Some(key) = self.by_key(row, name)? else { return Ok(Here::Nothing) };
        Ok(match self.find(&key)? {
            Here::Live(stamp) => {
                let stamp = match stamp {
                    LocalStamp::ThisTransaction => self.remote.stamp,
                    LocalStamp::Known(stamp) | LocalStamp::Before(stamp) => stamp,
                };
                Here::Dead(Grave { stamp, removed: None })
            }
            other => other,
        })
    }

    /// Does something to a fetched row, with its values in its target's remote slot as if it were in hand.
    pub(super) fn with_fetched<T>(&mut self, row: &Row, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let (Some(there), None) = (self.fetched.row(row), &self.in_hand) else { return Err(not_in_hand()) };
        let (relation, tuple) = (there.relation.clone(), there.row.clone());
        let table = self.tables.by_relation(&relation)?;
        self.tables.begin_change(table);
        self.tables.get(table).target.read(&tuple)?;
        let in_hand = InHand::new(table, Operation::Insert, Said::default());
        self.in_hand = Some(InHand { row: row.clone(), has_fetched: true, ..in_hand });
        self.find(row)?;
        let result = work(self)?;
        self.in_hand = None;
        self.tables.end_change(table);
        Ok(result)
    }

    /// What is here of the fetched row in hand has been decided about, but nobody was kept from writing it meanwhile. Now it
    /// is locked: is the fetched one still to take its place?
    pub(super) fn check_still_older(&self, fetched: Stamp) -> Result<()> {
        let older = match self.in_hand.as_ref().map(|in_hand| in_hand.here) {
            Some(Here::Live(LocalStamp::Known(stamp) | LocalStamp::Before(stamp))) => stamp <= fetched,
            Some(Here::Live(LocalStamp::ThisTransaction)) => true,
            Some(Here::Dead(grave)) => grave.yields_to(fetched),
            Some(Here::Nothing) | None => true,
        };
        if older { Ok(()) } else { Err(overtaken()) }
    }

    /// The name of a row that is referred to and is not here.
    fn name_parent(&mut self, parent: ParentRow) -> Result<Row> {
        let ParentRow { schema, name, columns, is_partitioned, .. } = parent;
        if !is_partitioned {
            let table = self.tables.by_name(&schema, &name)?;
            let key = self.tables.get(table).target.key_columns();
            let value = |column: &String| {
                let (_, value) = columns.iter().find(|(name, _)| name == column)?;
                Some((column.clone(), value.clone()))
            };
            let values: Option<Vec<(String, String)>> = key.iter().map(value).collect();
            if let Some(values) = values.filter(|values| !values.is_empty() && values.len() == columns.len()) {
                return Ok(named(schema, name, values));
            }
        }
        let key = columns.into_iter().map(|(column, text)| KeyValue { column, text }).collect();
        Ok(Row::named(RowName { schema, table: name, key, is_reference: true }))
    }

    /// The stamp of a noted row that has no parent, and one of those that it lacks.
    fn look_at_dangling(&mut self, child: &Row) -> Result<Option<(LocalStamp, ParentRow)>> {
        self.at(child, |store, table| {
            let found = store.open(table).target.find(true, Snapshots::Fresh)?;
            let Some(links) = store.tables.links(table)? else { return Ok(None) };
            let (Here::Live(stamp), _) = store.state(table, found, false)? else { return Ok(None) };
            let missing = store.open(table).target.missing_parents(RowSide::Local, &links.parents)?;
            Ok(missing.into_iter().next().map(|parent| (stamp, parent)))
        })
    }

    /// The row that is here is written anew.
    fn rewrite_here(&mut self, row: &Row) -> Result<()> {
        self.at(row, |store, table| {
            let found = store.open(table).target.find(false, Snapshots::Fresh)?;
            let (Here::Live(stamp), seen) = store.state(table, found, false)? else { return Err(not_in_hand()) };
            let open = store.open(table);
            open.target.take_local_row();
            store.announce_update(table, stamp)?;
            let target = &mut store.open(table).target;
            target.update();
            let (oid, key) = (target.oid(), target.row_key(RowSide::Remote));
            if seen.has_override {
                store.tables.overrides.clear(oid, &key)?;
            }
            Ok(())
        })
    }

    /// The fetched row is put, where none is or over one that has other values.
    fn rewrite_fetched(&mut self, row: &Row) -> Result<()> {
        let stamp = self.fetched.row(row).map(|there| there.stamp);
        let replaced = match stamp {
            Some(FetchedStamp::Known(stamp)) => Replaced::Version(stamp),
            Some(FetchedStamp::Forgotten(_)) | None => Replaced::Unknown,
        };
        let name = row.name().ok_or_else(not_in_hand)?;
        self.with_fetched(row, |store| {
            let Some(InHand { table, seen, here, .. }) = store.in_hand else { return Err(not_in_hand()) };
            // somebody was faster: then it is that row which has to stay
            if seen.is_live && (!name.is_reference || store.located(name)?.is_some()) {
                return Err(overtaken());
            }
            let kept = store.fill_counters(table, seen)?;
            if let Here::Live(stamp) = here {
                store.announce_update(table, stamp)?;
                store.open(table).target.update();
            } else {
                let target = &store.open(table).target;
                let (relation, key) = (RelId(target.oid().to_u32()), target.remote_fingerprint());
                let key = key.ok_or_else(not_in_hand)?;
                let change = Replacing::Return;
                message::emit_version(Version { relation, change, key, replaced, old_counters: None })?;
                store.open(table).target.insert()?;
                store.check_put(table, kept.as_ref())?;
            }
            store.look_after_put(table, seen.is_live)?;
            let target = &store.open(table).target;
            let (oid, key) = (target.oid(), target.row_key(RowSide::Remote));
            if seen.has_override {
                store.tables.overrides.clear(oid, &key)?;
            }
            if seen.has_tombstone || kept.is_some() {
                store.tables.tombstones.forget(oid, &key)?;
            }
            Ok(())
        })
    }

    /// Says which version the update that follows replaces, and that it adds nothing to the counters: the trigger leaves
    /// that to the worker.
    fn announce_update(&mut self, table: usize, stamp: LocalStamp) -> Result<()> {
        let replaced = match stamp {
            LocalStamp::ThisTransaction => Replaced::Own,
            LocalStamp::Known(stamp) => Replaced::Version(stamp),
            LocalStamp::Before(_) => Replaced::Unknown,
        };
        let open = self.open(table);
        let Some(key) = open.target.fingerprint() else { return Ok(()) };
        let relation = RelId(open.target.oid().to_u32());
        let old_counters = open.target.old_counters()?;
        message::emit_version(Version { relation, change: Replacing::Update, key, replaced, old_counters })
    }
}

impl LinkedStore for HeapStore<'_> {
    fn children(&mut self, row: &Row) -> Result<Vec<Row>> {
        self.at(row, |store, table| {
            let Some(links) = store.tables.links(table)? else { return Ok(Vec::new()) };
            let target = &mut store.open(table).target;
            if links.children.is_empty() || target.find(true, Snapshots::Fresh)?.is_none() {
                return Ok(Vec::new());
            }
            let children = target.children(&links.children)?;
            Ok(children.into_iter().map(|ChildRow { schema, table, key }| named(schema, table, key)).collect())
        })
    }

    /// Of a fetched row.
    fn missing_parents(&mut self, row: &Row, _values: Values) -> Result<Vec<Row>> {
        let missing = self.with_fetched(row, |store| {
            let Some(InHand { table, .. }) = store.in_hand else { return Err(not_in_hand()) };
            let Some(links) = store.tables.links(table)? else { return Ok(Vec::new()) };
            // completes the row
            store.clashes_at(table, row)?;
            store.open(table).target.missing_parents(RowSide::Remote, &links.parents)
        })?;
        missing.into_iter().map(|parent| self.name_parent(parent)).collect()
    }

    fn strands(&mut self, row: &Row) -> Result<bool> {
        self.with_fetched(row, |store| {
            let Some(InHand { table, seen, .. }) = store.in_hand else { return Err(not_in_hand()) };
            let Some(links) = store.tables.links(table)? else { return Ok(false) };
            Ok(seen.is_live && !store.open(table).target.stranded_children(&links.children)?.is_empty())
        })
    }

    fn orphans(&mut self) -> Result<Vec<Orphan<Row>>> {
        let mut orphans = Vec::new();
        self.note_children_of_emptied()?;
        for (child, written) in self.tables.dangling.take() {
            let Some((stamp, parent)) = self.look_at_dangling(&child)? else { continue };
            self.tables.dangling.keep(&child, written);
            let parent = self.name_parent(parent)?;
            let own = [LocalStamp::ThisTransaction, LocalStamp::Known(self.remote.stamp)].contains(&stamp);
            orphans.push(Orphan { child, stamp, parent, written: written || own });
        }
        Ok(orphans)
    }

    fn has_fetched(&mut self, row: &Row) -> bool {
        self.fetched.row(row).is_some()
    }

    fn rewrite(&mut self, row: &Row, values: Values) -> Result<()> {
        match values {
            Values::Fetched => self.rewrite_fetched(row),
            Values::Incoming | Values::IncomingOverHere => self.rewrite_here(row),
        }
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

pub fn overtaken() -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "rows changed too fast for a foreign key to be looked after",
    )
}

fn keyless(schema: &str, table: &str) -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_FOREIGN_KEY_VIOLATION,
        format!("row of \"{schema}.{table}\" refers to one that is not here, and can't be told by a key"),
    )
    .hint("Give the table a primary key, or put the missing row here by hand.")
}
