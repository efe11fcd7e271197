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
//! node's own (`own`), and all that has come so far is applied again. The same, without the removal, follows an error:
//! at once and a few times if others were in the way, `meld.exception_retries` times if the data does not fit. What
//! comes again and again is given up, and the worker does with it what `meld.exception_behaviour` says. A transient
//! error that does not pass soon goes to the worker, which ends; the provider sends the transaction again.
//!
//! With `discard`, changes that were given up are left out when the rest is applied again; they are parked in the same
//! local transaction.

mod left_out;

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::Duration;

use meld_core::conflict::ConflictType;
use meld_core::converge::{First, Operation, Outcome};
use meld_core::failure::{FailureClass, class_of};
use meld_core::ids::{NodeId, RelId};
use meld_core::time::{Stamp, Timestamp};
use meld_core::wire::{Begin, Commit, Message, RelationDescription};
use pgrx::prelude::PgSqlErrorCode;

use super::aside::Aside;
use super::clashed::Clashed;
use super::clock::wait_until_past;
use super::fetch::Fetcher;
use super::fetched::Fetched;
use super::kept::Kept;
use super::left_out::LeftOut;
use super::own;
use super::parked::is_change;
use super::parking::Cause;
use super::row::Row;
use super::step;
use super::store::RemoteContext;
use super::tables::Tables;
use crate::catalog::parked::RemoteName;
use crate::conflict::Writers;
use crate::log::{Failure, Result};
use crate::pg::trap::trap;
use crate::pg::{origin, worker};
use crate::settings;

/// Descriptions of the stream's relations, by the provider's oid.
pub type Relations = HashMap<RelId, Rc<RelationDescription>>;

/// How often a transaction is tried again when others were in its way, each time after twice the pause.
const RETRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Between tries after an error that doesn't pass by itself.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often something may have to come first. Each time a version of a row goes for good, but users write new ones.
const ROUNDS: u32 = 1000;

/// What a transaction needs of the worker.
pub struct Surroundings<'w> {
    pub relations: &'w mut Relations,
    pub writers: &'w mut Writers,
    pub fetcher: &'w mut Fetcher,
    pub aside: &'w Aside,
    pub subscription: &'w str,
    pub provider: NodeId,
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
    clashed: Clashed,
    /// Tables on which nobody else may be at work in the next try.
    alone: BTreeSet<RelId>,
    /// Of removals that were committed on the way.
    removals: Vec<ConflictType>,
    rounds: u32,
    retries: u32,
    /// After errors that don't pass by themselves.
    tries: u32,
    /// The change in hand, from 1; none at the commit.
    at: Option<u64>,
    /// Changes that are left out, and why.
    left_out: LeftOut,
    /// Where it is parked.
    parked: Option<i64>,
}

/// How far a call has brought the transaction.
pub enum Ran {
    /// What has come so far is applied.
    Applied,
    Committed,
    /// There was nothing to commit.
    Empty,
    /// It failed for good, and has been aborted.
    GaveUp(Cause),
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
            clashed: Clashed::default(),
            alone: BTreeSet::new(),
            removals: Vec::new(),
            rounds: 0,
            retries: 0,
            tries: 0,
            at: None,
            left_out: LeftOut::default(),
            parked: None,
        }
    }

    /// One that was parked, and is not any more when this is committed.
    pub fn replayed(begin: Begin, parked: i64) -> RemoteTransaction {
        RemoteTransaction { parked: Some(parked), ..RemoteTransaction::new(begin) }
    }

    fn remote(&self) -> RemoteContext {
        let stamp = Stamp { commit_ts: self.begin.commit_ts, node: self.begin.origin };
        RemoteContext { stamp, commit_lsn: self.begin.commit_lsn, xid: self.begin.xid }
    }

    /// Applies the next change.
    pub fn apply(&mut self, message: Message, around: &mut Surroundings<'_>) -> Result<Ran> {
        let limit_bytes = settings::APPLY_QUEUE_SIZE_KB.get() as usize * 1024;
        let from = self.kept.push(message, limit_bytes);
        self.run(from, None, around)
    }

    /// Commits under the remote's timestamp and position.
    pub fn commit(&mut self, commit: &Commit, around: &mut Surroundings<'_>) -> Result<Ran> {
        self.run(usize::MAX, Some(commit), around)
    }

    /// What has come, from the first message, if it is all there.
    pub fn kept(&self) -> Option<&[Message]> {
        (!self.kept.is_cut()).then(|| self.kept.from(0))
    }

    /// Applies what has come from a place on, and commits it if that is all; from the start again if it must be.
    fn run(&mut self, mut from: usize, commit: Option<&Commit>, around: &mut Surroundings<'_>) -> Result<Ran> {
        loop {
            let outcome = trap(|| self.attempt(from, commit, around));
            let failure = match outcome {
                Ok(Try::Done) => return Ok(Ran::Applied),
                Ok(Try::Empty) => return Ok(Ran::Empty),
                Ok(Try::Committed) => {
                    self.counts.conflicts.append(&mut self.removals);
                    return Ok(Ran::Committed);
                }
                Ok(Try::First(first)) => {
                    self.abort();
                    self.carry_out(&first, around).err()
                }
                Ok(Try::Busy(tables)) => {
                    self.abort();
                    self.alone.extend(tables);
                    None
                }
                Err(failure) => {
                    // it was aborted with the error
                    self.tables = None;
                    Some(failure)
                }
            };
            self.begin_again(around);
            if let Some(failure) = failure
                && let Some(failure) = self.pause_or_give_up(failure)?
            {
                return Ok(Ran::GaveUp(Cause { failure, failed: self.at }));
            }
            from = 0;
            self.rounds += 1;
            if self.kept.is_cut() || self.rounds > ROUNDS {
                return Err(again());
            }
        }
    }

    fn begin_again(&mut self, around: &mut Surroundings<'_>) {
        self.counts = Counts::default();
        while let Some((relation, before)) = self.redescribed.pop() {
            around.relations.insert(relation, before);
        }
    }

    fn attempt(&mut self, from: usize, commit: Option<&Commit>, around: &mut Surroundings<'_>) -> Result<Try> {
        let remote = self.remote();
        let mut place = self.kept.changes_before(from);
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
            place += u64::from(is_change(message));
            self.at = Some(place);
            if self.left_out.takes(place, message, around.relations) {
                if self.left_out.has_grown() {
                    return Ok(Try::Busy(BTreeSet::new()));
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
                clashed: &mut self.clashed,
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
        self.at = None;
        let remote = self.remote();
        let is_more_to_do = !self.left_out.is_empty() || self.parked.is_some();
        if is_more_to_do && self.tables.is_none() {
            self.tables = Some(Tables::begin(&self.alone));
        }
        let Some(tables) = &mut self.tables else { return Ok(Try::Empty) };
        if !tables.dangling.is_empty() {
            let (fetched, clashed) = (&mut self.fetched, &mut self.clashed);
            let (counts, doing) = (&mut self.counts, &mut self.doing);
            let mut step = step::Step { tables, around, fetched, clashed, remote, counts, doing };
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
            if is_more_to_do {
                xact.with_snapshot(|| self.settle_exceptions(commit, around))?;
            }
            origin::stamp_transaction(&xact, commit.end_lsn, commit.commit_ts);
            xact.commit();
        }
        Ok(Try::Committed)
    }

    fn carry_out(&mut self, first: &[First<Row>], around: &mut Surroundings<'_>) -> Result<()> {
        let mut conflicts = Vec::new();
        let remote = self.remote();
        if !own::carry_out(first, remote, &mut self.fetched, &mut self.clashed, around, &mut conflicts)? {
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

    /// An operator asks for a replay when the cause is gone, and is told at once if it is not.
    fn tries_allowed(&self) -> u32 {
        if self.parked.is_some() { 0 } else { settings::EXCEPTION_RETRIES.get().unsigned_abs() }
    }

    /// After an error: nothing if the transaction is to be tried again, or the error back if it has failed for good.
    fn pause_or_give_up(&mut self, failure: Failure) -> Result<Option<Failure>> {
        let sqlstate = failure.sqlstate();
        let class = class_of(&sqlstate);
        // others were in the way, and are gone soon
        let may_pass = class == FailureClass::Contended || sqlstate.starts_with("40") || sqlstate == "55P03";
        let pause = if may_pass && self.retries < RETRIES {
            self.retries += 1;
            FIRST_PAUSE * 2_u32.pow(self.retries - 1)
        } else if class == FailureClass::Transient {
            return Err(failure);
        } else if self.tries < self.tries_allowed() && !self.kept.is_cut() {
            self.tries += 1;
            let delay_ms = u64::from(settings::EXCEPTION_RETRY_DELAY_MS.get().unsigned_abs());
            Duration::from_millis(delay_ms.saturating_mul(1 << (self.tries - 1).min(10))).min(LONGEST_PAUSE)
        } else {
            return Ok(Some(failure));
        };
        let is_asked_to_end = worker::shutdown_requested() || worker::wait(None, Some(pause)).shutdown;
        if is_asked_to_end { Err(failure) } else { Ok(None) }
    }
}

impl Surroundings<'_> {
    /// A transaction of the stream, as the tables of exceptions name it.
    pub fn name_of(&self, begin: &Begin) -> RemoteName {
        RemoteName { subscription: self.subscription.to_owned(), provider: self.provider, begin: begin.clone() }
    }
}

fn again() -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "transaction has to be received again to be applied again",
    )
    .detail("A conflict was resolved by a removal that had to be committed first, and the transaction is too large to be kept in memory meanwhile.")
    .hint("This comes to an end by itself. A larger meld.apply_queue_size avoids it.")
}
