//! One remote transaction on its way into the local database.
//!
//! Outside -> `begin` -> changes -> `commit`. The local transaction starts with the first change, so that a remote one
//! without changes costs nothing; tables are opened at their first change and stay open until the commit. An error
//! anywhere unwinds to the worker, which ends; the local transaction aborts with it, and the provider sends the remote
//! one again.

use std::collections::HashMap;

use meld_core::apply::{Change, Operation, Outcome, Replaced, apply_change};
use meld_core::conflict::ConflictType;
use meld_core::ids::RelId;
use meld_core::time::Stamp;
use meld_core::value::Tuple;
use meld_core::wire::{Begin, Commit, Delete, Insert, RelationDescription, Truncate, Update};
use pgrx::prelude::PgSqlErrorCode;

use super::clock::wait_until_past;
use super::store::{HeapStore, RemoteContext};
use crate::conflict::writers::Writers;
use crate::log::{Failure, Result};
use crate::pg::Snapshots;
use crate::pg::executor::{ChangeMemory, fire_triggers_at_once};
use crate::pg::origin;
use crate::pg::target::Target;
use crate::pg::truncate::truncate_tables;
use crate::pg::xact::Xact;

/// Descriptions of the stream's relations, by the provider's oid.
pub type Relations = HashMap<RelId, RelationDescription>;

/// What a transaction did, for the statistics.
#[derive(Default, Debug)]
pub struct Counts {
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    pub conflicts: Vec<ConflictType>,
}

/// The remote transaction that is being applied.
pub struct RemoteTransaction {
    pub begin: Begin,
    pub counts: Counts,
    local: Option<Local>,
}

/// Its local half: a transaction with the tables that were written to, which are closed before it ends.
struct Local {
    xact: Xact,
    memory: ChangeMemory,
    targets: HashMap<RelId, Target>,
    /// Deferred triggers were told to fire at their rows.
    is_immediate: bool,
}

impl Local {
    fn begin() -> Local {
        let xact = Xact::begin();
        let memory = ChangeMemory::new(&xact);
        Local { xact, memory, targets: HashMap::new(), is_immediate: false }
    }

    /// The table of a relation, opened if it is not open.
    fn target(&mut self, relation: RelId, relations: &Relations) -> Result<(&mut Target, &ChangeMemory)> {
        if !self.targets.contains_key(&relation) {
            let target = Target::open(&self.xact, describe(relations, relation)?)?;
            if target.has_triggers() && !self.is_immediate {
                fire_triggers_at_once(&self.xact);
                self.is_immediate = true;
            }
            self.targets.insert(relation, target);
        }
        let Some(target) = self.targets.get_mut(&relation) else { unreachable!("opened above") };
        Ok((target, &self.memory))
    }

    fn close_targets(&mut self) {
        self.targets.drain().for_each(|(_, target)| target.close());
    }
}

/// One change of a remote transaction.
#[derive(Debug)]
pub enum RowChange<'a> {
    Insert(&'a Insert),
    Update(&'a Update),
    Delete(&'a Delete),
}

impl RowChange<'_> {
    pub fn relation(&self) -> RelId {
        match self {
            RowChange::Insert(change) => change.relation,
            RowChange::Update(change) => change.relation,
            RowChange::Delete(change) => change.relation,
        }
    }

    pub fn operation(&self) -> Operation {
        match self {
            RowChange::Insert(_) => Operation::Insert,
            RowChange::Update(_) => Operation::Update,
            RowChange::Delete(_) => Operation::Delete,
        }
    }
}

impl RemoteTransaction {
    pub fn new(begin: Begin) -> RemoteTransaction {
        RemoteTransaction { begin, counts: Counts::default(), local: None }
    }

    fn stamp(&self) -> Stamp {
        Stamp { commit_ts: self.begin.commit_ts, node: self.begin.origin }
    }

    /// Applies one change of a row.
    pub fn apply(&mut self, change: &RowChange<'_>, relations: &Relations, writers: &mut Writers) -> Result<()> {
        let remote = RemoteContext { stamp: self.stamp(), commit_lsn: self.begin.commit_lsn, xid: self.begin.xid };
        let local = self.local.get_or_insert_with(Local::begin);
        let (target, memory) = local.target(change.relation(), relations)?;
        let mut step = Step { target, memory, writers, remote, conflicts: &mut self.counts.conflicts };
        match change {
            RowChange::Insert(insert) => {
                self.counts.inserts += 1;
                step.run(Operation::Insert, Replaced::Own, &insert.new)
            }
            RowChange::Delete(delete) => {
                self.counts.deletes += 1;
                step.run(Operation::Delete, delete.replaced, &delete.key)
            }
            RowChange::Update(update) => {
                self.counts.updates += 1;
                match &update.old_key {
                    None => step.run(Operation::Update, update.replaced, &update.new),
                    // a row with a new key is a new row: what the old one had must not decide about it
                    Some(old_key) => {
                        let completed = step.complete(old_key, &update.new)?;
                        step.run(Operation::Delete, update.replaced, old_key)?;
                        step.run(Operation::Insert, Replaced::Own, completed.as_ref().unwrap_or(&update.new))
                    }
                }
            }
        }
    }

    /// Empties the tables.
    pub fn truncate(&mut self, truncate: &Truncate, relations: &Relations) -> Result<()> {
        let local = self.local.get_or_insert_with(Local::begin);
        // a table that is to be truncated must not be open
        local.close_targets();
        let tables = truncate.relations.iter().map(|&id| describe(relations, id)).collect::<Result<Vec<_>>>()?;
        local.xact.with_snapshot(|| truncate_tables(&local.xact, &tables))
    }

    /// Commits under the remote's timestamp and position. Returns whether there was anything to commit.
    pub fn commit(self, commit: &Commit) -> Result<(bool, Counts)> {
        let Some(mut local) = self.local else { return Ok((false, self.counts)) };
        wait_until_past(commit.commit_ts, self.begin.origin)?;
        local.close_targets();
        origin::stamp_transaction(&local.xact, commit.end_lsn, commit.commit_ts);
        local.xact.commit();
        Ok((true, self.counts))
    }

    /// The relation's description changed: its table is opened anew at the next change.
    pub fn forget(&mut self, relation: RelId) {
        let Some(local) = &mut self.local else { return };
        if let Some(target) = local.targets.remove(&relation) {
            target.close();
        }
    }
}

/// One change on its table.
struct Step<'s> {
    target: &'s mut Target,
    memory: &'s ChangeMemory,
    writers: &'s mut Writers,
    remote: RemoteContext,
    conflicts: &'s mut Vec<ConflictType>,
}

impl Step<'_> {
    fn run(&mut self, operation: Operation, replaced: Replaced, row: &Tuple) -> Result<()> {
        self.target.begin_change(self.memory);
        self.target.read(row)?;
        let mut store = HeapStore {
            target: self.target,
            operation,
            writers: self.writers,
            remote: self.remote,
            conflicts: self.conflicts,
        };
        let outcome = apply_change(Change { operation, stamp: self.remote.stamp, replaced }, &mut store)?;
        if outcome == Outcome::Undecided {
            return Err(self.undecided());
        }
        self.target.end_change(self.memory);
        Ok(())
    }

    /// The new row of an update that changed the key, with the values that the stream left out taken from the old row.
    /// `None` if there are none.
    fn complete(&mut self, old_key: &Tuple, new: &Tuple) -> Result<Option<Tuple>> {
        if !new.has_unchanged() {
            return Ok(None);
        }
        self.target.begin_change(self.memory);
        self.target.read(old_key)?;
        let completed = match self.target.find(true, Snapshots::FromActive)? {
            None => None,
            Some(_) => Some(self.target.fill_unchanged(new)),
        };
        self.target.end_change(self.memory);
        Ok(completed)
    }

    fn undecided(&self) -> Failure {
        Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!(
                "cannot tell whether a row of \"{}.{}\" is older than the change that meets it",
                self.target.schema(),
                self.target.name()
            ),
        )
        .detail("The server has forgotten when the row was written, and the change is as old as that.")
        .hint("Decide by hand which of the two shall stay: update the row here to keep it, or delete it to let the change in.")
    }
}

fn describe(relations: &Relations, id: RelId) -> Result<&RelationDescription> {
    relations.get(&id).ok_or_else(|| {
        Failure::new(
            PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION,
            format!("change of relation {} that the stream did not describe", id.0),
        )
    })
}
