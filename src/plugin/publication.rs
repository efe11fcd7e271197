//! What is published of each table, and how its rows are written: a cache over the catalog as it was at the change.
//!
//! An entry is right until an invalidation names its table: the functions that change replication sets send one for
//! each table concerned, and decoding takes it in where the change of the set comes into effect, also in the middle of
//! other transactions. Invalidations are looked at between two changes only, so an entry stays while it is used.

use std::collections::HashMap;

use meld_core::ids::RelId;
use meld_core::wire::RelationDescription;

use crate::log::Result;
use crate::pg::decoded::DecodedRelation;
use crate::pg::delta;
use crate::pg::historic::{self, Key};
use crate::pg::invalidation::Invalidations;
use crate::pg::output::{RowFormat, TypeForms};

/// Outdated entries are kept, to know what was said of their tables; beyond this many entries they are dropped, and
/// their tables are described once more.
const TABLES_LIMIT: usize = 16 * 1024;

/// What may be done to a table and is replicated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Actions {
    pub insert: bool,
    pub update: bool,
    pub delete: bool,
    pub truncate: bool,
}

impl Actions {
    /// Any that is about single rows.
    pub fn of_rows(self) -> bool {
        self.insert || self.update || self.delete
    }

    fn or(self, other: Actions) -> Actions {
        Actions {
            insert: self.insert || other.insert,
            update: self.update || other.update,
            delete: self.delete || other.delete,
            truncate: self.truncate || other.truncate,
        }
    }
}

pub struct Table {
    is_current: bool,
    pub actions: Actions,
    pub description: RelationDescription,
    /// The subscriber has this description.
    pub is_described: bool,
    pub format: RowFormat,
    /// A change that had to be left out was reported.
    pub has_complained: bool,
    /// So was an update without what it adds to the delta columns.
    pub has_complained_of_counters: bool,
}

impl Table {
    /// It has delta columns.
    pub fn has_counters(&self) -> bool {
        self.description.columns.iter().any(|column| column.is_delta)
    }
}

pub struct Publication {
    /// Names of the sets that the subscriber asked for.
    sets: Vec<String>,
    tables: HashMap<RelId, Table>,
    forms: TypeForms,
    invalidations: Invalidations,
}

impl Publication {
    pub fn new(sets: Vec<String>, text_only: bool) -> Publication {
        let invalidations = Invalidations::listen();
        Publication { sets, tables: HashMap::new(), forms: TypeForms::new(text_only), invalidations }
    }

    /// What is known of a table at the change that is being decoded.
    pub fn table(&mut self, relation: DecodedRelation<'_>) -> Result<&mut Table> {
        self.take_invalidations();
        let id = relation.id();
        if !self.tables.get(&id).is_some_and(|table| table.is_current) {
            let mut table = self.read(relation)?;
            if let Some(old) = self.tables.get(&id) {
                table.is_described = old.is_described && old.description == table.description;
                table.has_complained = old.has_complained && !table.format.has_key();
                table.has_complained_of_counters = old.has_complained_of_counters;
            }
            self.tables.insert(id, table);
        }
        Ok(self.tables.get_mut(&id).expect("it was there or is new"))
    }

    fn take_invalidations(&mut self) {
        let Some(changed) = self.invalidations.take() else { return };
        if changed.types {
            self.forms.renew();
        }
        if changed.all_relations {
            self.tables.values_mut().for_each(|table| table.is_current = false);
        }
        for relation in &changed.relations {
            if let Some(table) = self.tables.get_mut(relation) {
                table.is_current = false;
            }
        }
        if self.tables.len() > TABLES_LIMIT {
            self.tables.retain(|_, table| table.is_current);
        }
    }

    fn read(&mut self, relation: DecodedRelation<'_>) -> Result<Table> {
        let actions = self.actions(relation.id())?;
        let (mut description, columns) = relation.describe();
        if actions != Actions::default() {
            delta::mark(&mut description, &columns)?;
        }
        // the forms of columns are looked up in vain if nothing of the table is sent
        let columns = if actions == Actions::default() { &[] } else { columns.as_slice() };
        let format = RowFormat::new(relation.width(), columns, &mut self.forms);
        Ok(Table {
            is_current: true,
            actions,
            description,
            is_described: false,
            format,
            has_complained: false,
            has_complained_of_counters: false,
        })
    }

    /// What the wanted ones of the table's replication sets replicate, taken together.
    fn actions(&self, table: RelId) -> Result<Actions> {
        let key = Some((c"set_reloid", Key::Oid(table.0)));
        let sets = historic::read(c"replication_set_table", key, &[c"set_id"], |row| row.int4(0))?;
        let mut actions = Actions::default();
        for set in sets.unwrap_or_default() {
            let columns =
                [c"set_name", c"replicate_insert", c"replicate_update", c"replicate_delete", c"replicate_truncate"];
            let found = historic::read(c"replication_set", Some((c"set_id", Key::Int4(set))), &columns, |row| {
                let actions = Actions {
                    insert: row.boolean(1)?,
                    update: row.boolean(2)?,
                    delete: row.boolean(3)?,
                    truncate: row.boolean(4)?,
                };
                Ok((row.name(0)?, actions))
            })?;
            for (name, of_set) in found.unwrap_or_default() {
                if self.sets.contains(&name) {
                    actions = actions.or(of_set);
                }
            }
        }
        Ok(actions)
    }
}
