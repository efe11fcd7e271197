//! What the worker does with a remote transaction that has failed for good: what `meld.exception_behaviour` says.
//!
//! A transaction that is too large to be kept in memory cannot be tried again, or parked, from what came: the failure is
//! written down, the worker ends, and the transaction comes again. When it has come often enough, it is parked from its
//! first message on, without being tried.

use std::sync::atomic::Ordering::Relaxed;

use meld_core::time::Stamp;
use meld_core::wire::{Begin, Commit, Message};

use super::Worker;
use crate::apply::parking::{Cause, Parking, Way, standing};
use crate::apply::transaction::{Ran, RemoteTransaction, Surroundings};
use crate::catalog::parked::{self, RemoteName};
use crate::log::{Failure, Result};
use crate::pg::origin::{WithoutOrigin, last_commit_end};
use crate::pg::worker as process;
use crate::pg::xact::in_transaction;
use crate::settings::{self, ExceptionBehaviour};
use crate::workers::registry;

impl Worker {
    fn name_of(&self, begin: &Begin) -> RemoteName {
        RemoteName {
            subscription: self.subscription.name.clone(),
            provider: self.subscription.provider.id,
            begin: begin.clone(),
        }
    }

    /// A transaction begins: whether it is one to be set aside without a try.
    pub(super) fn begin_aside(&mut self, begin: &Begin) -> Result<bool> {
        let Some(standing) = &self.standing else { return Ok(false) };
        if standing.end_lsn != begin.end_lsn {
            return Ok(false);
        }
        let retries = settings::EXCEPTION_RETRIES.get();
        let behaviour = settings::EXCEPTION_BEHAVIOUR.get();
        let way = match behaviour {
            _ if self.skip_lsn == Some(begin.end_lsn) => Way::Skip,
            // the operator has enabled the subscription again: it is tried once more
            _ if standing.tries == i32::MAX || standing.tries <= retries => return Ok(false),
            ExceptionBehaviour::Retry => return Ok(false),
            ExceptionBehaviour::Transdiscard | ExceptionBehaviour::Discard => Way::Park,
            ExceptionBehaviour::SubDisable => Way::Pause,
        };
        let failure = Failure::with_sqlstate(&standing.sqlstate, standing.message.clone());
        let cause = Cause { failure, failed: standing.failed.map(i64::cast_unsigned) };
        self.parking = Some(Parking::begin(way, self.name_of(begin), self.subscription.id, behaviour, cause)?);
        Ok(true)
    }

    /// The open transaction has failed for good. `commit`: all of it has come.
    pub(super) fn gave_up(&mut self, cause: Cause, commit: Option<&Commit>) -> Result<()> {
        let behaviour = settings::EXCEPTION_BEHAVIOUR.get();
        let mut cause = cause;
        while let Some(transaction) = &self.transaction
            && behaviour == ExceptionBehaviour::Discard
            && transaction.may_leave_out(&cause)
        {
            let leave_out = |transaction: &mut RemoteTransaction, around: &mut Surroundings<'_>| {
                transaction.leave_out(cause, commit, around)
            };
            match self.with_transaction("a change that failed", leave_out)? {
                Ran::GaveUp(next) => cause = next,
                ran => return self.ran(ran, commit),
            }
        }
        let Some(transaction) = &self.transaction else { return Err(cause.failure) };
        let begin = transaction.begin.clone();
        let way = match behaviour {
            // where it stands is written down, so that an operator can have it skipped
            ExceptionBehaviour::Retry => return Err(self.receive_again(&begin, cause)?),
            ExceptionBehaviour::Transdiscard | ExceptionBehaviour::Discard => Way::Park,
            ExceptionBehaviour::SubDisable => Way::Pause,
        };
        if transaction.kept().is_none() {
            return Err(self.receive_again(&begin, cause)?);
        }
        let cause = Cause { failure: self.explain(cause.failure), ..cause };
        let mut parking = Parking::begin(way, self.name_of(&begin), self.subscription.id, behaviour, cause)?;
        if let Some(kept) = self.transaction.as_ref().and_then(|transaction| transaction.kept()) {
            kept.iter().try_for_each(|message| parking.take(message, &mut self.relations))?;
        }
        self.transaction = None;
        self.parking = Some(parking);
        match commit {
            Some(commit) => self.finish_parking(commit),
            None => Ok(()),
        }
    }

    /// Behind a transaction that was applied: the subscription does not stand there any more, and what was left out of it
    /// is told.
    pub(super) fn note_applied(&mut self, transaction: &RemoteTransaction) -> Result<()> {
        let begin = &transaction.begin;
        if let Some((count, failure)) = transaction.left_out() {
            let stamp = Stamp { commit_ts: begin.commit_ts, node: begin.origin };
            self.aside.add(stamp);
            let message = format!(
                "{count} changes of remote transaction {} of node {} could not be applied and were parked",
                begin.xid.0, begin.origin
            );
            Failure { message, ..failure.clone() }
                .detail(format!("The first of them failed: {}.", failure.message))
                .hint("Remove the cause, then: SELECT * FROM meld.parked_replay(); See meld.exception_log.")
                .warn();
        }
        if self.standing.as_ref().is_some_and(|standing| standing.end_lsn == begin.end_lsn) {
            let id = self.subscription.id;
            let without_origin = WithoutOrigin::begin();
            let cleared = in_transaction(|_| parked::clear_standing(id));
            drop(without_origin);
            cleared?;
            self.standing = None;
        }
        Ok(())
    }

    /// Writes down that a large transaction has failed; the error ends the worker.
    fn receive_again(&mut self, begin: &Begin, cause: Cause) -> Result<Failure> {
        let before = self.standing.as_ref().filter(|standing| standing.end_lsn == begin.end_lsn);
        let tries = before.map_or(1, |before| before.tries.saturating_add(1)).min(i32::MAX - 1);
        let now = standing(&cause, begin.end_lsn, tries);
        let remote = self.name_of(begin);
        let without_origin = WithoutOrigin::begin();
        let written = in_transaction(|_| parked::set_standing(self.subscription.id, &remote, &now));
        drop(without_origin);
        written?;
        Ok(cause.failure)
    }

    /// A message of a transaction that is being set aside; `None` if there is none.
    pub(super) fn take_aside(&mut self, message: &Message) -> Option<Result<()>> {
        let parking = self.parking.as_mut()?;
        match message {
            Message::Commit(commit) => Some(self.finish_parking(commit)),
            message => Some(parking.take(message, &mut self.relations)),
        }
    }

    fn finish_parking(&mut self, commit: &Commit) -> Result<()> {
        let Some(parking) = self.parking.take() else { return Ok(()) };
        let stamp = parking.stamp();
        let failure = parking.failure().clone();
        let ended = parking.finish(commit)?;
        match ended.way {
            Way::Park | Way::Skip => {
                self.aside.add(stamp);
                self.standing = None;
                self.feedback.committed(ended.end_lsn, last_commit_end());
                registry::progress(self.slot).applying_commit_ts.store(0, Relaxed);
                Ok(())
            }
            Way::Pause => {
                registry::wake_manager(process::my_database());
                Err(failure)
            }
        }
    }
}
