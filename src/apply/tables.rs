//! The tables that one local transaction writes to.
//!
//! A table is opened, and locked, at its first change, and stays open until the commit. After an error, or to abort, all
//! of it is simply let go: the transaction's end frees what the server holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use meld_core::ids::{RelId, Xid};
use meld_core::time::Stamp;
use meld_core::value::{Tuple, Value};
use meld_core::wire::RelationDescription;

use super::dangling::Dangling;
use super::row::{KeyValue, RowName};
use crate::catalog::foreign_key::{self, Links};
use crate::conflict::overrides::Overrides;
use crate::conflict::tombstones::Tombstones;
use crate::conflict::voids::Voids;
use crate::log::Result;
use crate::pg::executor::{ChangeMemory, fire_triggers_at_once};
use crate::pg::key_bytes::RowKey;
use crate::pg::key_lock::{self, KeyLock};
use crate::pg::origin::Writer;
use crate::pg::parents::LockedParents;
use crate::pg::target::{Found, RowSide, Target};
use crate::pg::target_counters::Counters;
use crate::pg::target_key::{describe_local, key_tuple};
use crate::pg::xact::Xact;
use crate::pg::{Oid, Snapshots};

/// A table in use.
pub struct OpenTable {
    pub target: Target,
    pub description: Rc<RelationDescription>,
    /// Its delta columns, as far as they are the stream's, too.
    pub counters: Counters,
    /// Stamp of its last truncate, once it was looked up. It can't change while the table is locked.
    pub floor: Option<Option<Stamp>>,
    /// This transaction may put rows where none is.
    is_shared: bool,
    /// Its foreign keys, once they were asked for.
    links: Option<Option<Rc<Links>>>,
    /// For each foreign key of its rows.
    locked_parents: Vec<LockedParents>,
}

/// A key without a row to which the transaction did something that a row put there meanwhile would not know of.
struct DeadKey {
    table: Rc<RelationDescription>,
    key: Tuple,
}

/// A local transaction and its tables.
pub struct Tables {
    pub xact: Xact,
    pub memory: ChangeMemory,
    pub tombstones: Tombstones,
    pub overrides: Overrides,
    pub dangling: Dangling,
    /// Few transactions need them.
    voids: Option<Voids>,
    open: Vec<OpenTable>,
    by_relation: BTreeMap<RelId, usize>,
    dead: Vec<DeadKey>,
    /// Tables in which others were at work on keys without a row, so that this transaction may have read what is not so.
    busy: BTreeSet<RelId>,
    /// Deferred triggers were told to fire at their rows.
    is_immediate: bool,
}

impl Tables {
    /// `alone`: tables in which nobody else may put rows where none is until this transaction ends.
    pub fn begin(alone: &BTreeSet<RelId>) -> Tables {
        let xact = Xact::begin();
        // in the order of their oids, and before anything else is locked: nobody waits for another in a circle
        alone.iter().for_each(|table| key_lock::lock(&xact, Oid::from(table.0), KeyLock::Exclusive));
        let memory = ChangeMemory::new(&xact);
        let (tombstones, overrides) = (Tombstones::default(), Overrides::default());
        let (open, by_relation) = (Vec::new(), BTreeMap::new());
        let (voids, dead, busy) = (None, Vec::new(), BTreeSet::new());
        let dangling = Dangling::default();
        Tables {
            xact,
            memory,
            tombstones,
            overrides,
            dangling,
            voids,
            open,
            by_relation,
            dead,
            busy,
            is_immediate: false,
        }
    }

    /// The table of a relation of the stream.
    pub fn of_relation(&mut self, relation: RelId, description: &Rc<RelationDescription>) -> Result<usize> {
        if let Some(&table) = self.by_relation.get(&relation) {
            return Ok(table);
        }
        let table = self.open(description.clone())?;
        self.by_relation.insert(relation, table);
        Ok(table)
    }

    /// The table of that name, by its own description if no relation of the stream has opened it.
    pub fn by_name(&mut self, schema: &str, name: &str) -> Result<usize> {
        let is_it = |table: &OpenTable| table.description.schema == schema && table.description.name == name;
        match self.open.iter().position(is_it) {
            Some(table) => Ok(table),
            None => {
                let description = describe_local(&self.xact, schema, name)?;
                self.open(Rc::new(description))
            }
        }
    }

    fn open(&mut self, description: Rc<RelationDescription>) -> Result<usize> {
        let target = Target::open(&self.xact, &description)?;
        if target.has_triggers() && !self.is_immediate {
            fire_triggers_at_once(&self.xact);
            self.is_immediate = true;
        }
        let counters = target.counters(&description)?;
        self.open.push(OpenTable {
            target,
            description,
            counters,
            floor: None,
            is_shared: false,
            links: None,
            locked_parents: Vec::new(),
        });
        Ok(self.open.len() - 1)
    }

    /// The table as a fetched row has it.
    pub fn by_relation(&mut self, relation: &Rc<RelationDescription>) -> Result<usize> {
        match self.open.iter().position(|table| Rc::ptr_eq(&table.description, relation)) {
            Some(table) => Ok(table),
            None => self.open(relation.clone()),
        }
    }

    /// The foreign keys of a table and to it; `None` for one that has nothing to do with any. In a change.
    pub fn links(&mut self, table: usize) -> Result<Option<Rc<Links>>> {
        let open = &mut self.open[table];
        if open.links.is_none() {
            let any = open.target.has_foreign_keys();
            open.links = Some(if any { Some(foreign_key::links(open.target.oid())?) } else { None });
            let keys = open.links.iter().flatten().map(|links| links.parents.len()).sum();
            open.locked_parents.resize_with(keys, LockedParents::default);
        }
        Ok(open.links.clone().flatten())
    }

    /// Whether the row that was just written to a table lacks one that it refers to.
    pub fn lacks_parent(&mut self, table: usize, links: &Links, was_live: bool) -> Result<bool> {
        let OpenTable { target, locked_parents, .. } = &mut self.open[table];
        target.lacks_parent(&links.parents, locked_parents, was_live)
    }

    /// A row went, or changed, that others may refer to.
    pub fn parent_went(&mut self) {
        let all = self.open.iter_mut().flat_map(|open| &mut open.locked_parents);
        all.for_each(LockedParents::clear);
    }

    pub fn voids(&mut self) -> Result<&mut Voids> {
        if self.voids.is_none() {
            self.voids = Some(Voids::open()?);
        }
        let Some(voids) = &mut self.voids else { unreachable!("opened above") };
        Ok(voids)
    }

    pub fn get(&mut self, table: usize) -> &mut OpenTable {
        &mut self.open[table]
    }

    pub fn begin_change(&mut self, table: usize) {
        self.open[table].target.begin_change(&self.memory);
    }

    pub fn end_change(&mut self, table: usize) {
        self.open[table].target.end_change(&self.memory);
    }

    /// Explicit stamp of a version in a table. The key is asked for only where any may have one.
    pub fn explicit_stamp(
        &mut self,
        table: usize,
        xmin: Xid,
        key: impl FnOnce(&mut Target) -> Result<RowKey>,
    ) -> Result<Option<Stamp>> {
        let target = &mut self.open[table].target;
        self.overrides.find_if_any(target.oid(), xmin, || key(target).map(Some))
    }

    /// The relation's description changed: its table is opened anew at the next change.
    pub fn forget(&mut self, relation: RelId) {
        self.by_relation.remove(&relation);
    }

    /// From here to the end of the transaction, nobody does something to a key without a row, unseen by a row that this
    /// transaction puts there.
    pub fn share(&mut self, table: usize) {
        let open = &mut self.open[table];
        if !std::mem::replace(&mut open.is_shared, true) {
            key_lock::lock(&self.xact, open.target.oid(), KeyLock::Shared);
        }
    }

    /// The key in the remote slot of the table, which had no row when it was looked for, keeps having none from here to the
    /// end of the transaction, and nobody else counts for it. If that is too late, the transaction goes on in vain, to be
    /// tried again.
    pub fn claim(&mut self, table: usize) -> Result<()> {
        let open = &mut self.open[table];
        // a row may have been put before the lock was there, also if the transaction will have written it by its end
        if !key_lock::try_exclusive(&self.xact, open.target.oid()) || open.live_now()?.is_some() {
            self.stumble(table);
        }
        Ok(())
    }

    /// Somebody else has been at work meanwhile: the transaction has to be tried again.
    pub fn stumble(&mut self, table: usize) {
        self.busy.insert(RelId(self.open[table].target.oid().to_u32()));
    }

    /// Notes that something was done to the key of the remote row, which has no row.
    pub fn note_dead(&mut self, table: usize) {
        let open = &self.open[table];
        let key = open.key_tuple(&open.key_of(RowSide::Remote));
        self.dead.push(DeadKey { table: open.description.clone(), key });
    }

    /// Before the commit: whether the keys that were without a row still are, as far as others go. Where others are at
    /// work, this does not wait for them: the tables come back that have to be [locked](Tables::begin) first, in another try.
    pub fn check_dead(&mut self) -> Result<std::result::Result<(), BTreeSet<RelId>>> {
        if !self.busy.is_empty() {
            return Ok(Err(std::mem::take(&mut self.busy)));
        }
        let mut last = None;
        for DeadKey { table, key } in std::mem::take(&mut self.dead) {
            let at = self.by_name(&table.schema, &table.name)?;
            let open = &mut self.open[at];
            let oid = open.target.oid();
            if last != Some(oid) && !key_lock::try_exclusive(&self.xact, oid) {
                return Ok(Err(BTreeSet::from([RelId(oid.to_u32())])));
            }
            last = Some(oid);
            open.target.begin_change(&self.memory);
            open.target.read(&key)?;
            // the transaction itself may have put a row there since
            let is_well = match open.live_now()? {
                None => true,
                Some(found) => matches!(found.writer, Writer::ThisTransaction),
            };
            open.target.end_change(&self.memory);
            if !is_well {
                return Ok(Err(BTreeSet::from([RelId(oid.to_u32())])));
            }
        }
        Ok(Ok(()))
    }

    /// Closes all tables, as a commit wants it, and gives the transaction.
    pub fn close(self) -> Xact {
        self.open.into_iter().for_each(|open| open.target.close());
        self.tombstones.close();
        self.overrides.close();
        self.voids.into_iter().for_each(Voids::close);
        self.xact
    }

    /// Closes the tables but not the transaction: a table that is to be truncated must not be open.
    pub fn close_tables(&mut self) {
        self.by_relation.clear();
        self.open.drain(..).for_each(|open| open.target.close());
    }

    pub fn abort(self) {
        self.xact.abort();
    }
}

impl OpenTable {
    /// The row with the key in the remote slot, as of now: whoever is at it has come to an end.
    fn live_now(&mut self) -> Result<Option<Found>> {
        match self.target.key_is_free() {
            Some(true) => Ok(None),
            Some(false) | None => self.target.find(false, Snapshots::Fresh),
        }
    }

    pub fn key_of(&self, side: RowSide) -> Vec<KeyValue> {
        let values = self.target.key_values(side);
        values.into_iter().map(|(column, text)| KeyValue { column, text }).collect()
    }

    pub fn key_tuple(&self, key: &[KeyValue]) -> Tuple {
        let value = |name: &str| key.iter().find(|part| part.column == name).map(|part| part.text.as_str());
        key_tuple(&self.description, value)
    }

    /// The name of a row in one of the target's slots.
    pub fn name_of(&self, side: RowSide) -> RowName {
        RowName {
            schema: self.description.schema.clone(),
            table: self.description.name.clone(),
            key: self.key_of(side),
            is_reference: false,
        }
    }

    /// The name of a row that is given whole, as a tuple of the relation.
    pub fn name_of_key_in(&self, row: &Tuple) -> RowName {
        let columns = self.target.key_columns();
        let all = self.description.columns.iter().zip(row.values());
        let values: HashMap<&str, Value<'_>> = all.map(|(column, value)| (column.name.as_str(), value)).collect();
        let key = columns.into_iter().filter_map(|column| match values.get(column.as_str())? {
            Value::Text(text) => Some(KeyValue { text: String::from_utf8_lossy(text).into_owned(), column }),
            Value::Null | Value::Unchanged | Value::Binary(_) => None,
        });
        RowName {
            schema: self.description.schema.clone(),
            table: self.description.name.clone(),
            key: key.collect(),
            is_reference: false,
        }
    }

    /// The name of the row with a key, given as a tuple of the relation.
    pub fn name_of_key(&self, key: &Tuple) -> RowName {
        let columns = self.description.columns.iter().zip(key.values());
        let key = columns.filter_map(|(column, value)| match value {
            Value::Text(text) => {
                let text = String::from_utf8_lossy(text).into_owned();
                Some(KeyValue { column: column.name.clone(), text })
            }
            Value::Null | Value::Unchanged | Value::Binary(_) => None,
        });
        RowName {
            schema: self.description.schema.clone(),
            table: self.description.name.clone(),
            key: key.collect(),
            is_reference: false,
        }
    }
}
