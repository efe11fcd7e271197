//! Which changes of a transaction are left out (`meld.exception_behaviour` is `discard`).
//!
//! All changes of one transaction have one stamp, so what comes later in it decides by its place, and a replay has no places:
//! it applies what was parked behind all the rest. So when a change of a row is left out, all later changes of that row
//! are, too, and a TRUNCATE of its table, and then everything that comes to that table. Runs in the apply worker.

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
    /// Rows of what was left out so far in this try.
    rows: HashSet<Key>,
    /// Tables in which any row may be one of those.
    tables: HashSet<RelId>,
    /// Tables of `rows`.
    touched: HashSet<RelId>,
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

    /// The transaction is tried again from its first change.
    pub fn begin_again(&mut self) {
        self.rows.clear();
        self.tables.clear();
        self.touched.clear();
    }

    /// Whether the change is left out, for its own sake or because of what was before it.
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
            match keys {
                Some(keys) => self.rows.extend(keys),
                None => self.tables.extend(about),
            }
        }
        follows || is_known
    }
}

fn follower() -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "an earlier change of the row in this transaction could not be applied",
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
    fn later_changes_of_the_row_follow_and_no_others() {
        let relations = relations();
        let mut left_out = LeftOut::default();
        assert!(!left_out.takes(1, &insert("1"), &relations));
        left_out.add(2, follower());
        left_out.begin_again();
        assert!(!left_out.takes(1, &insert("1"), &relations), "before it");
        assert!(left_out.takes(2, &insert("1"), &relations));
        assert!(!left_out.takes(3, &insert("2"), &relations), "another row");
        let key = [Value::Text(b"1"), Value::Null].into_iter().collect();
        let delete = Message::Delete(Delete { relation: T, replaced: meld_core::version::Replaced::Own, key });
        assert!(left_out.takes(4, &delete, &relations));
        assert_eq!(left_out.first().map(|(count, _)| count), Some(2));
    }
}
