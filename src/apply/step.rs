//! One message of a transaction: which function of the rule it is for.

use std::rc::Rc;

use meld_core::converge::{
    Change, Operation, Orphan, Outcome, Removal, Replaced, RowStore, apply_change, apply_removal, apply_void,
    check_foreign_keys,
};
use meld_core::ids::RelId;
use meld_core::value::Tuple;
use meld_core::wire::{self, Message, RelationDescription, Update};
use pgrx::prelude::PgSqlErrorCode;

use super::clashed::Clashed;
use super::fetched::Fetched;
use super::row::Row;
use super::store::{Committer, HeapStore, InHand, RemoteContext, Said, contribution};
use super::tables::{OpenTable, Tables};
use super::transaction::{Counts, Relations, Surroundings};
use super::truncate;
use crate::log::{Failure, Result};
use crate::pg::counter::Amount;
use crate::pg::target::RowSide;
use crate::settings;

pub struct Step<'s, 'w> {
    pub tables: &'s mut Tables,
    pub around: &'s mut Surroundings<'w>,
    pub fetched: &'s mut Fetched,
    pub clashed: &'s mut Clashed,
    pub remote: RemoteContext,
    pub counts: &'s mut Counts,
    pub doing: &'s mut Option<(Operation, RelId)>,
}

impl Step<'_, '_> {
    pub fn apply(&mut self, message: &Message) -> Result<Outcome<Row>> {
        match message {
            Message::Insert(insert) => {
                self.counts.inserts += 1;
                self.change(Operation::Insert, insert.relation, Replaced::Own, &insert.new, None)
            }
            Message::Update(update) => {
                self.counts.updates += 1;
                self.update(update)
            }
            Message::Delete(delete) => {
                self.counts.deletes += 1;
                self.change(Operation::Delete, delete.relation, delete.replaced, &delete.key, None)
            }
            Message::Truncate(wanted) => truncate::apply(self, wanted),
            Message::Removal(removal) => self.removal(removal),
            Message::Void(void) => self.void(void),
            Message::Contribution(own) => self.contribution(own),
            other => Err(unexpected(other)),
        }
    }

    fn update(&mut self, update: &Update) -> Result<Outcome<Row>> {
        let Some(old_key) = &update.old_key else {
            let old = update.old_counters.as_ref();
            return self.change(Operation::Update, update.relation, update.replaced, &update.new, old);
        };
        // a row with a new key is a new row: what the old one had must not decide about it
        match self.change(Operation::Delete, update.relation, update.replaced, old_key, None)? {
            Outcome::Applied | Outcome::Ignored => {
                self.change(Operation::Insert, update.relation, Replaced::Own, &update.new, None)
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
        old_counters: Option<&Tuple>,
    ) -> Result<Outcome<Row>> {
        let table = self.read(operation, relation, values)?;
        let OpenTable { target, counters, .. } = self.tables.get(table);
        let mut said = Said::default();
        if !counters.is_empty() {
            let old = old_counters.map(|old| counters.read(old)).transpose()?;
            said.contribution = contribution(target, counters, operation, old)?;
        }
        let contributes = said.contributes();
        let in_hand = InHand::new(table, operation, said);
        let row = in_hand.row.clone();
        let change = Change {
            operation,
            stamp: self.remote.stamp,
            replaced,
            set_aside: self.around.aside.before(self.remote.stamp),
            left_out: values.has_unchanged(),
            contributes,
            voids: None,
        };
        let mut store = self.store(Some(in_hand));
        let outcome = apply_change(&row, change, &mut store)?;
        if matches!(outcome, Outcome::Applied | Outcome::Ignored) {
            store.settle()?;
            self.tables.end_change(table);
        }
        Ok(outcome)
    }

    /// Behind the last change: no row may be without its parent.
    pub fn check_foreign_keys(&mut self) -> Result<Outcome<Row>> {
        let (policy, stamp) = (settings::FOREIGN_KEY_CONFLICT.get().into(), self.remote.stamp);
        check_foreign_keys(policy, stamp, &mut self.store(None))
    }

    fn removal(&mut self, removal: &wire::Removal) -> Result<Outcome<Row>> {
        let table = self.read(Operation::Delete, removal.relation, &removal.key)?;
        let name = self.tables.get(table).name_of(RowSide::Remote);
        self.tables.end_change(table);
        let removal = Removal { row: Row::named(name), version: removal.version, cause: removal.cause };
        apply_removal(&removal, self.remote.stamp, &mut self.store(None))
    }

    /// Begins a change, with its values in the remote slot of its table.
    fn read(&mut self, operation: Operation, relation: RelId, values: &Tuple) -> Result<usize> {
        *self.doing = Some((operation, relation));
        let description = describe(self.around.relations, relation)?.clone();
        let table = self.tables.of_relation(relation, &description)?;
        self.tables.begin_change(table);
        self.tables.get(table).target.read(values)?;
        Ok(table)
    }

    /// A residue does not count any more.
    fn void(&mut self, void: &wire::Void) -> Result<Outcome<Row>> {
        let stamp = self.remote.stamp;
        self.counters(void.relation, &void.key, &void.residue, |store, row, residue| {
            store.say(Said { void: residue, ..Said::default() });
            apply_void(row, void.tombstone, stamp, store)
        })
    }

    /// Something is added to the counters of a key, and nothing else.
    fn contribution(&mut self, own: &wire::Contribution) -> Result<Outcome<Row>> {
        self.counters(own.relation, &own.key, &own.amounts, |store, row, amounts| {
            store.say(Said { contribution: amounts, ..Said::default() });
            store.count(row)
        })
    }

    fn counters(
        &mut self,
        relation: RelId,
        key: &Tuple,
        amounts: &Tuple,
        work: impl FnOnce(&mut HeapStore<'_>, &Row, Vec<Amount>) -> Result<()>,
    ) -> Result<Outcome<Row>> {
        // what is here is looked for and locked as for a change that puts no row
        let table = self.read(Operation::Delete, relation, key)?;
        let counters = &self.tables.get(table).counters;
        if !counters.is_empty() {
            let amounts = counters.read(amounts)?;
            let in_hand = InHand::new(table, Operation::Delete, Said::default());
            let row = in_hand.row.clone();
            let mut store = self.store(Some(in_hand));
            store.find(&row)?;
            work(&mut store, &row, amounts)?;
            store.settle()?;
        }
        self.tables.end_change(table);
        Ok(Outcome::Applied)
    }

    pub(super) fn store(&mut self, in_hand: Option<InHand>) -> HeapStore<'_> {
        HeapStore {
            tables: self.tables,
            writers: self.around.writers,
            fetched: self.fetched,
            fetcher: self.around.fetcher,
            clashed: self.clashed,
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
