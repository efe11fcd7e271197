//! Which changes of a transaction are left out (`meld.exception_behaviour` is `discard`).
//!
//! A row's stamp stands for one content of the row, on all nodes; a later change may build on just that version. So all
//! changes that a transaction makes to one row are left out together, those before the one that failed, too. If the
//! transaction empties the row's table, all its changes of that table belong together. What turns out to belong to it only
//! later makes the transaction be applied again from its start. Runs in the apply worker.

use std::collections::{BTreeMap, HashSet};

use meld_core::ids::RelId;
use meld_core::value::{Tuple, Value};
use meld_core::wire::{Message, RelationDescription};
use pgrx::prelude::PgSqlErrorCode;

use super::parked::relations_of;
use super::transaction::Relations;
use crate::log::Failure;

/// Changes of one transaction that may be left out one by one; beyond it, it is parked whole.
const FAILED_MAX: usize = 1000;

/// A row by the values of its key.
type Key = (RelId, Vec<Vec<u8>>);

#[derive(Default)]
pub struct LeftOut {
    /// By their number in the transaction, from 1.
    changes: BTreeMap<u64, Failure>,
    /// Those of them that have failed themselves.
    failed: usize,
    /// Rows of what is left out.
    rows: HashSet<Key>,
    /// Tables in which any row may be one of those.
    tables: HashSet<RelId>,
    /// Tables of `rows`.
    touched: HashSet<RelId>,
    /// Changes that were applied in this try may belong to it.
    has_grown: bool,
}

impl LeftOut {
    /// The change has failed and is left out from now on.
    pub fn add(&mut self, place: u64, failure: Failure) {
        self.failed += 1;
        self.changes.insert(place, failure);
    }

    pub fn is_full(&self) -> bool {
        self.failed >= FAILED_MAX
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub fn get(&self, place: u64) -> Option<&Failure> {
        self.changes.get(&place)
    }

    /// How many there are, and why the first is left out.
    pub fn first(&self) -> Option<(usize, &Failure)> {
        self.changes.values().next().map(|failure| (self.changes.len(), failure))
    }

    /// Whether the transaction has to be applied again from its first change. It is known then.
    pub fn has_grown(&mut self) -> bool {
        std::mem::take(&mut self.has_grown)
    }

    /// Whether the change is left out, for its own sake or because of the rows that it is about.
    pub fn takes(&mut self, place: u64, message: &Message, relations: &Relations) -> bool {
        if self.changes.is_empty() {
            return false;
        }
        let is_known = self.changes.contains_key(&place);
        let about = relations_of(message);
        let keys = match about.first().and_then(|relation| relations.get(relation)) {
            Some(table) => keys_of(message, table),
            None => None,
        };
        let follows = !is_known
            && match &keys {
                Some(keys) => keys.iter().any(|key| self.tables.contains(&key.0) || self.rows.contains(key)),
                None => about.iter().any(|table| self.tables.contains(table) || self.touched.contains(table)),
            };
        if follows {
            self.changes.insert(place, follower());
        }
        if follows || is_known {
            self.touched.extend(about.iter().copied());
            let known = self.rows.len() + self.tables.len();
            match keys {
                Some(keys) => self.rows.extend(keys),
                None => self.tables.extend(about),
            }
            self.has_grown |= self.rows.len() + self.tables.len() > known;
        }
        follows || is_known
    }
}

fn follower() -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "another change of the row in this transaction could not be applied",
    )
}

/// The rows that a change is about, before and after it; `None` if that can't be told.
fn keys_of(message: &Message, table: &RelationDescription) -> Option<Vec<Key>> {
    let key = |row: &Tuple| -> Option<Key> {
        let parts = table.columns.iter().zip(row.values()).filter(|(column, _)| column.is_key);
        let values = parts.map(|(_, value)| match value {
            Value::Text(bytes) | Value::Binary(bytes) => Some(bytes.to_vec()),
            Value::Null | Value::Unchanged => None,
        });
        values.collect::<Option<Vec<_>>>().filter(|key| !key.is_empty()).map(|key| (table.id, key))
    };
    match message {
        Message::Insert(m) => Some(vec![key(&m.new)?]),
        Message::Update(m) => match &m.old_key {
            Some(old) => Some(vec![key(old)?, key(&m.new)?]),
            None => Some(vec![key(&m.new)?]),
        },
        Message::Delete(m) => Some(vec![key(&m.key)?]),
        Message::Removal(m) => Some(vec![key(&m.key)?]),
        Message::Void(m) => Some(vec![key(&m.key)?]),
        Message::Contribution(m) => Some(vec![key(&m.key)?]),
        Message::Truncate(_)
        | Message::Startup(_)
        | Message::Begin(_)
        | Message::Commit(_)
        | Message::Relation(_)
        | Message::Logical(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use meld_core::wire::{Column, Delete, Insert};

    use super::*;

    const T: RelId = RelId(1);

    fn relations() -> Relations {
        let column = |name: &str, is_key| Column {
            name: name.to_owned(),
            type_oid: 23,
            type_modifier: -1,
            is_key,
            is_delta: false,
        };
        let columns = vec![column("id", true), column("v", false)];
        let table = RelationDescription { id: T, schema: "public".to_owned(), name: "t".to_owned(), columns };
        Relations::from([(T, Rc::new(table))])
    }

    fn insert(id: &str) -> Message {
        let new = [Value::Text(id.as_bytes()), Value::Text(b"v")].into_iter().collect();
        Message::Insert(Insert { relation: T, new })
    }

    #[test]
    fn all_changes_of_the_row_belong_together_and_no_others() {
        let relations = relations();
        let mut left_out = LeftOut::default();
        assert!(!left_out.takes(1, &insert("1"), &relations));
        left_out.add(2, follower());
        assert!(!left_out.takes(1, &insert("1"), &relations), "nothing is known of the row yet");
        assert!(left_out.takes(2, &insert("1"), &relations));
        assert!(left_out.has_grown());
        assert!(left_out.takes(1, &insert("1"), &relations), "before it");
        assert!(left_out.takes(2, &insert("1"), &relations));
        assert!(!left_out.takes(3, &insert("2"), &relations), "another row");
        let key = [Value::Text(b"1"), Value::Null].into_iter().collect();
        let delete = Message::Delete(Delete { relation: T, replaced: meld_core::version::Replaced::Own, key });
        assert!(left_out.takes(4, &delete, &relations));
        assert!(!left_out.has_grown());
        assert_eq!(left_out.first().map(|(count, _)| count), Some(3));
    }
}
