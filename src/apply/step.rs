//! One message of a transaction: which function of the rule it is for.

use std::rc::Rc;

use meld_core::converge::{Change, Operation, Orphan, Outcome, Removal, Replaced, apply_change, apply_removal};
use meld_core::ids::RelId;
use meld_core::value::Tuple;
use meld_core::wire::{self, Message, RelationDescription, Update};
use pgrx::prelude::PgSqlErrorCode;

use super::fetched::Fetched;
use super::row::Row;
use super::store::{Committer, HeapStore, InHand, RemoteContext, no_counters};
use super::tables::Tables;
use super::transaction::{Counts, Relations, Surroundings};
use super::truncate;
use crate::log::{Failure, Result};
use crate::pg::target::RowSide;

pub struct Step<'s, 'w> {
    pub tables: &'s mut Tables,
    pub around: &'s mut Surroundings<'w>,
    pub fetched: &'s mut Fetched,
    pub remote: RemoteContext,
    pub counts: &'s mut Counts,
    pub doing: &'s mut Option<(Operation, RelId)>,
}

impl Step<'_, '_> {
    pub fn apply(&mut self, message: &Message) -> Result<Outcome<Row>> {
        match message {
            Message::Insert(insert) => {
                self.counts.inserts += 1;
                self.change(Operation::Insert, insert.relation, Replaced::Own, &insert.new)
            }
            Message::Update(update) => {
                self.counts.updates += 1;
                self.update(update)
            }
            Message::Delete(delete) => {
                self.counts.deletes += 1;
                self.change(Operation::Delete, delete.relation, delete.replaced, &delete.key)
            }
            Message::Truncate(wanted) => truncate::apply(self, wanted),
            Message::Removal(removal) => self.removal(removal),
            Message::Void(_) | Message::Contribution(_) => Err(no_counters()),
            other => Err(unexpected(other)),
        }
    }

    fn update(&mut self, update: &Update) -> Result<Outcome<Row>> {
        let Some(old_key) = &update.old_key else {
            return self.change(Operation::Update, update.relation, update.replaced, &update.new);
        };
        // a row with a new key is a new row: what the old one had must not decide about it
        match self.change(Operation::Delete, update.relation, update.replaced, old_key)? {
            Outcome::Applied | Outcome::Ignored => {
                self.change(Operation::Insert, update.relation, Replaced::Own, &update.new)
            }
            other => Ok(other),
        }
    }

    fn change(
        &mut self,
        operation: Operation,
        relation: RelId,
        replaced: Replaced,
        values: &Tuple,
    ) -> Result<Outcome<Row>> {
        *self.doing = Some((operation, relation));
        let description = describe(self.around.relations, relation)?.clone();
        let table = self.tables.of_relation(relation, &description)?;
        self.tables.begin_change(table);
        self.tables.get(table).target.read(values)?;
        let in_hand = InHand::new(table, operation);
        let row = in_hand.row.clone();
        let change = Change {
            operation,
            stamp: self.remote.stamp,
            replaced,
            set_aside: None,
            left_out: values.has_unchanged(),
            contributes: false,
            voids: None,
        };
        let outcome = apply_change(&row, change, &mut self.store(Some(in_hand)))?;
        if matches!(outcome, Outcome::Applied | Outcome::Ignored) {
            self.tables.end_change(table);
        }
        Ok(outcome)
    }

    fn removal(&mut self, removal: &wire::Removal) -> Result<Outcome<Row>> {
        *self.doing = Some((Operation::Delete, removal.relation));
        let description = describe(self.around.relations, removal.relation)?.clone();
        let table = self.tables.of_relation(removal.relation, &description)?;
        self.tables.begin_change(table);
        self.tables.get(table).target.read(&removal.key)?;
        let name = self.tables.get(table).name_of(RowSide::Remote);
        self.tables.end_change(table);
        let removal = Removal { row: Row::named(name), version: removal.version, cause: removal.cause };
        apply_removal(&removal, self.remote.stamp, &mut self.store(None))
    }

    pub(super) fn store(&mut self, in_hand: Option<InHand>) -> HeapStore<'_> {
        HeapStore {
            tables: self.tables,
            writers: self.around.writers,
            fetched: self.fetched,
            fetcher: self.around.fetcher,
            remote: self.remote,
            committer: Committer::Remote,
            in_hand,
            conflicts: &mut self.counts.conflicts,
        }
    }

    pub fn undecided(&self) -> Failure {
        let table = self.doing.and_then(|(_, relation)| self.around.relations.get(&relation));
        match table {
            Some(table) => undecided_before(&format!("a row of \"{}.{}\"", table.schema, table.name)),
            None => undecided_before("a row"),
        }
    }

    pub fn violation(&self, orphan: &Orphan<Row>) -> Failure {
        let name = |row: &Row| row.name().map_or_else(String::new, |name| format!("{}.{}", name.schema, name.table));
        Failure::new(
            PgSqlErrorCode::ERRCODE_FOREIGN_KEY_VIOLATION,
            format!(
                "row of \"{}\" would be left without its parent in \"{}\"",
                name(&orphan.child),
                name(&orphan.parent)
            ),
        )
    }
}

pub fn undecided_before(what: &str) -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("cannot tell whether {what} is older than the change that meets it"),
    )
    .detail("The server has forgotten when the row was written, and the change is as old as that.")
    .hint("Write to the row on this node (an UPDATE that changes nothing will do), and this version wins.")
}

pub fn describe(relations: &Relations, id: RelId) -> Result<&Rc<RelationDescription>> {
    relations.get(&id).ok_or_else(|| {
        Failure::new(
            PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION,
            format!("a change of relation {} arrived before its description", id.0),
        )
    })
}

fn unexpected(message: &Message) -> Failure {
    let name = format!("{message:?}");
    let name = name.split(['(', ' ']).next().unwrap_or_default();
    Failure::new(
        PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION,
        format!("a message {name} stands among a transaction's changes"),
    )
}
