//! One remote transaction on its way into the local database.
//!
//! ```text
//! new -> apply ... -> commit
//!          |            |
//!          +-- start again from the first change, as often as something has to come first --+
//! ```
//!
//! The local transaction starts with the first change, so that a remote one without changes costs nothing. The rule of
//! `core::converge` may ask for a removal: then the local transaction is aborted, the removal committed as one of this
//! node's own (`own`), and all that has come so far is applied again. The same, without the removal, follows an error that
//! may not come again, such as a deadlock. Any other error goes to the worker, which ends; the provider sends the
//! transaction again.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::Duration;

use meld_core::conflict::ConflictType;
use meld_core::converge::{First, Operation, Outcome};
use meld_core::ids::RelId;
use meld_core::time::{Stamp, Timestamp};
use meld_core::wire::{Begin, Commit, Message, RelationDescription};
use pgrx::prelude::PgSqlErrorCode;

use super::clock::wait_until_past;
use super::fetch::Fetcher;
use super::fetched::Fetched;
use super::kept::Kept;
use super::own;
use super::row::Row;
use super::step;
use super::store::RemoteContext;
use super::tables::Tables;
use crate::conflict::Writers;
use crate::log::{Failure, Result};
use crate::pg::trap::trap;
use crate::pg::{origin, worker};
use crate::settings;

/// Descriptions of the stream's relations, by the provider's oid.
pub type Relations = HashMap<RelId, Rc<RelationDescription>>;

/// How often a transaction is tried again after an error, each time after twice the pause.
const RETRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// How often something may have to come first. Each time a version of a row goes for good, but users write new ones.
const ROUNDS: u32 = 1000;

/// What a transaction needs of the worker.
pub struct Surroundings<'w> {
    pub relations: &'w mut Relations,
    pub writers: &'w mut Writers,
    pub fetcher: &'w mut Fetcher,
    /// Whatever was committed anywhere up to this has been applied at the provider before it wrote the transaction.
    pub seen_by_origin: Timestamp,
}

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
    /// What is being done, for the report of an error.
    pub doing: Option<(Operation, RelId)>,
    tables: Option<Tables>,
    kept: Kept,
    /// Relations that the transaction described anew, as they were known before.
    redescribed: Vec<(RelId, Rc<RelationDescription>)>,
    fetched: Fetched,
    /// Tables on which nobody else may be at work in the next try.
    alone: BTreeSet<RelId>,
    /// Of removals that were committed on the way.
    removals: Vec<ConflictType>,
    rounds: u32,
    retries: u32,
}

/// Where a try ended.
enum Try {
    Done,
    Committed,
    /// There was nothing to commit.
    Empty,
    First(Vec<First<Row>>),
    Busy(BTreeSet<RelId>),
}

impl RemoteTransaction {
    pub fn new(begin: Begin) -> RemoteTransaction {
        RemoteTransaction {
            begin,
            counts: Counts::default(),
            doing: None,
            tables: None,
            kept: Kept::default(),
            redescribed: Vec::new(),
            fetched: Fetched::default(),
            alone: BTreeSet::new(),
            removals: Vec::new(),
            rounds: 0,
            retries: 0,
        }
    }

    fn remote(&self) -> RemoteContext {
        let stamp = Stamp { commit_ts: self.begin.commit_ts, node: self.begin.origin };
        RemoteContext { stamp, commit_lsn: self.begin.commit_lsn, xid: self.begin.xid }
    }

    /// Applies the next change.
    pub fn apply(&mut self, message: Message, around: &mut Surroundings<'_>) -> Result<()> {
        let limit_bytes = settings::APPLY_QUEUE_SIZE_KB.get() as usize * 1024;
        let from = self.kept.push(message, limit_bytes);
        self.run(from, None, around).map(|_| ())
    }

    /// Commits under the remote's timestamp and position. Returns whether there was anything to commit.
    pub fn commit(&mut self, commit: &Commit, around: &mut Surroundings<'_>) -> Result<bool> {
        let from = usize::MAX;
        let committed = self.run(from, Some(commit), around)?;
        self.counts.conflicts.append(&mut self.removals);
        Ok(committed)
    }

    /// Applies what has come from a place on, and commits it if that is all; from the start again if it must be.
    fn run(&mut self, mut from: usize, commit: Option<&Commit>, around: &mut Surroundings<'_>) -> Result<bool> {
        loop {
            let outcome = trap(|| self.attempt(from, commit, around));
            match outcome {
                Ok(Try::Done | Try::Empty) => return Ok(false),
                Ok(Try::Committed) => return Ok(true),
                Ok(Try::First(first)) => {
                    self.abort();
                    if let Err(failure) = self.carry_out(&first, around) {
                        self.pause_or_give_up(failure)?;
                    }
                }
                Ok(Try::Busy(tables)) => {
                    self.abort();
                    self.alone.extend(tables);
                }
                Err(failure) => {
                    // it was aborted with the error
                    self.tables = None;
                    self.pause_or_give_up(failure)?;
                }
            }
            from = 0;
            self.counts = Counts::default();
            self.rounds += 1;
            while let Some((relation, before)) = self.redescribed.pop() {
                around.relations.insert(relation, before);
            }
            if self.kept.is_cut() || self.rounds > ROUNDS {
                return Err(again());
            }
        }
    }

    fn attempt(&mut self, from: usize, commit: Option<&Commit>, around: &mut Surroundings<'_>) -> Result<Try> {
        let remote = self.remote();
        for message in self.kept.from(from) {
            if let Message::Relation(description) = message {
                if let Some(tables) = &mut self.tables {
                    tables.forget(description.id);
                }
                if let Some(before) = around.relations.insert(description.id, Rc::new(description.clone())) {
                    self.redescribed.push((description.id, before));
                }
                continue;
            }
            let tables = match &mut self.tables {
                Some(tables) => tables,
                None => self.tables.insert(Tables::begin(&self.alone)),
            };
            let mut step = step::Step {
                tables,
                around,
                fetched: &mut self.fetched,
                remote,
                counts: &mut self.counts,
                doing: &mut self.doing,
            };
            match step.apply(message)? {
                Outcome::Applied | Outcome::Ignored => {}
                Outcome::First(first) => return Ok(Try::First(first)),
                Outcome::Undecided => return Err(step.undecided()),
                Outcome::Violation(orphan) => return Err(step.violation(&orphan)),
            }
        }
        match commit {
            None => Ok(Try::Done),
            Some(commit) => self.finish(commit, around),
        }
    }

    fn finish(&mut self, commit: &Commit, around: &mut Surroundings<'_>) -> Result<Try> {
        let remote = self.remote();
        let Some(tables) = &mut self.tables else { return Ok(Try::Empty) };
        if !tables.dangling.is_empty() {
            let (fetched, counts, doing) = (&mut self.fetched, &mut self.counts, &mut self.doing);
            let mut step = step::Step { tables, around, fetched, remote, counts, doing };
            match step.check_foreign_keys()? {
                Outcome::Applied | Outcome::Ignored => {}
                Outcome::First(first) => return Ok(Try::First(first)),
                Outcome::Undecided => return Err(step.undecided()),
                Outcome::Violation(orphan) => return Err(step.violation(&orphan)),
            }
        }
        let own = Stamp { commit_ts: commit.commit_ts, node: self.begin.origin };
        let latest = self.fetched.latest().map_or(own, |fetched| fetched.max(own));
        wait_until_past(latest.commit_ts, latest.node)?;
        if let Err(busy) = tables.check_dead()? {
            return Ok(Try::Busy(busy));
        }
        if let Some(tables) = self.tables.take() {
            let xact = tables.close();
            origin::stamp_transaction(&xact, commit.end_lsn, commit.commit_ts);
            xact.commit();
        }
        Ok(Try::Committed)
    }

    fn carry_out(&mut self, first: &[First<Row>], around: &mut Surroundings<'_>) -> Result<()> {
        let mut conflicts = Vec::new();
        let remote = self.remote();
        if !own::carry_out(first, remote, &mut self.fetched, around, &mut conflicts)? {
            return Err(step::undecided_before("a row that has to be removed"));
        }
        self.removals.append(&mut conflicts);
        Ok(())
    }

    fn abort(&mut self) {
        if let Some(tables) = self.tables.take() {
            tables.abort();
        }
    }

    /// After an error: returns if the transaction is to be tried again.
    fn pause_or_give_up(&mut self, failure: Failure) -> Result<()> {
        if !may_pass(&failure) || self.retries >= RETRIES || worker::shutdown_requested() {
            return Err(failure);
        }
        let pause = FIRST_PAUSE * 2_u32.pow(self.retries);
        self.retries += 1;
        if worker::wait(None, Some(pause)).shutdown {
            return Err(failure);
        }
        Ok(())
    }
}

/// Whether the same work may succeed when it is done again at once: others were in its way.
fn may_pass(failure: &Failure) -> bool {
    let sqlstate = failure.sqlstate();
    // also a unique or exclusion violation: where the rule looked, somebody has put a row since
    sqlstate.starts_with("40") || matches!(sqlstate.as_str(), "55P03" | "23505" | "23P01")
}

fn again() -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "transaction has to be received again to be applied again",
    )
    .detail("A conflict was resolved by a removal that had to be committed first, and the transaction is too large to be kept in memory meanwhile.")
    .hint("This comes to an end by itself. A larger meld.apply_queue_size avoids it.")
}
