//! What happens to a remote transaction that has failed for good, from there to its Commit.
//!
//! ```text
//! failed for good -> begin (a new local transaction) -> take what is kept, then each message that still comes
//!                                                    -> finish at the Commit
//!      park:  the body and the log are committed together with the position: the stream goes on behind it
//!      pause: the log, and where the subscription stands, are committed without the position, and it is disabled
//! ```
//!
//! A crash before the commit leaves nothing: the transaction comes again, fails again and is parked again. After it the
//! position is past the transaction, and its changes are here to be replayed. Runs in the apply worker.

use std::rc::Rc;

use meld_core::lsn::Lsn;
use meld_core::time::Stamp;
use meld_core::wire::{Commit, Message};

use super::parked::{ParkedWriter, is_change};
use super::transaction::Relations;
use crate::catalog::parked::{self, ParkedState, RemoteName, Standing};
use crate::catalog::subscription;
use crate::log::{Failure, Result};
use crate::pg::origin::{self, WithoutOrigin};
use crate::pg::trap::trap;
use crate::pg::xact::Xact;
use crate::settings::ExceptionBehaviour;

/// What is made of the transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Park,
    /// As an operator asked.
    Skip,
    Pause,
}

/// Why it failed, and which of its changes it was, from 1; `None` for the commit.
#[derive(Clone, Debug)]
pub struct Cause {
    pub failure: Failure,
    pub failed: Option<u64>,
}

/// A transaction that is being set aside.
pub struct Parking {
    way: Way,
    remote: RemoteName,
    subscription_id: i32,
    cause: Cause,
    xact: Xact,
    writer: ParkedWriter,
    place: u64,
}

/// How it ended.
pub struct SetAside {
    pub way: Way,
    pub end_lsn: Lsn,
}

impl Parking {
    pub fn begin(
        way: Way,
        remote: RemoteName,
        subscription_id: i32,
        behaviour: ExceptionBehaviour,
        cause: Cause,
    ) -> Result<Parking> {
        trap(|| {
            let state = match way {
                Way::Park => Some(ParkedState::Parked),
                Way::Skip => Some(ParkedState::Skipped),
                Way::Pause => None,
            };
            let xact = Xact::begin();
            let failure = cause.failure.clone();
            let writer = xact.with_snapshot(|| ParkedWriter::begin(remote.clone(), behaviour, state, failure))?;
            Ok(Parking { way, remote, subscription_id, cause, xact, writer, place: 0 })
        })
    }

    pub fn stamp(&self) -> Stamp {
        let begin = &self.remote.begin;
        Stamp { commit_ts: begin.commit_ts, node: begin.origin }
    }

    pub fn failure(&self) -> &Failure {
        &self.cause.failure
    }

    /// Takes the next message of the transaction.
    pub fn take(&mut self, message: &Message, relations: &mut Relations) -> Result<()> {
        if let Message::Relation(description) = message {
            self.writer.redescribed(description.id);
            relations.insert(description.id, Rc::new(description.clone()));
            return Ok(());
        }
        if !is_change(message) {
            return Ok(());
        }
        self.place += 1;
        let failed = (self.cause.failed == Some(self.place)).then_some(&self.cause.failure);
        let (xact, writer, place) = (&self.xact, &mut self.writer, self.place);
        trap(|| xact.briefly(|| writer.take(message, place, failed, relations)))
    }

    /// The transaction is whole.
    pub fn finish(self, commit: &Commit) -> Result<SetAside> {
        let Parking { way, remote, subscription_id, cause, xact, writer, .. } = self;
        let end_lsn = commit.end_lsn;
        trap(|| {
            let commit_failed = cause.failed.is_none() && way != Way::Skip;
            let parked = xact.briefly(|| -> Result<_> {
                let parked = writer.finish(commit, commit_failed)?;
                match way {
                    Way::Park | Way::Skip => parked::clear_standing(subscription_id)?,
                    Way::Pause => {
                        parked::set_standing(subscription_id, &remote, &standing(&cause, end_lsn, i32::MAX))?;
                        subscription::set_enabled(subscription_id, false)?;
                    }
                }
                Ok(parked)
            })?;
            match way {
                Way::Park | Way::Skip => {
                    origin::stamp_transaction(&xact, end_lsn, commit.commit_ts);
                    xact.commit();
                }
                Way::Pause => {
                    // the position stays in front of the transaction
                    let without_origin = WithoutOrigin::begin();
                    xact.commit_durably();
                    drop(without_origin);
                }
            }
            report(way, &remote, &cause, parked);
            Ok(SetAside { way, end_lsn })
        })
    }
}

/// Where a subscription stands after a failure.
pub fn standing(cause: &Cause, end_lsn: Lsn, tries: i32) -> Standing {
    Standing {
        end_lsn,
        tries,
        failed: cause.failed.and_then(|place| i64::try_from(place).ok()),
        sqlstate: cause.failure.sqlstate(),
        message: cause.failure.message.clone(),
    }
}

/// Tells whoever reads the server log what happened, and which call puts it right.
fn report(way: Way, remote: &RemoteName, cause: &Cause, parked: Option<i64>) {
    let RemoteName { subscription, begin, .. } = remote;
    let (xid, node, end) = (begin.xid.0, begin.origin, begin.end_lsn);
    let id = parked.unwrap_or_default();
    let (message, hint) = match way {
        Way::Park => (
            format!("remote transaction {xid} of node {node} could not be applied and was parked as {id}"),
            format!(
                "Remove the cause, then: SELECT * FROM meld.parked_replay(); See meld.exception_log where parked_id = {id}."
            ),
        ),
        Way::Skip => (
            format!("remote transaction {xid} of node {node} was skipped, and is kept as {id}"),
            format!("See meld.exception_log where parked_id = {id}."),
        ),
        Way::Pause => (
            format!("subscription \"{subscription}\" was disabled at remote transaction {xid} of node {node}"),
            format!(
                "Remove the cause, or have it skipped: SELECT meld.sub_alter_skiplsn('{subscription}', '{end}'); \
                 then: SELECT meld.sub_enable('{subscription}');"
            ),
        ),
    };
    let detail = match cause.failed {
        Some(place) => format!("Change {place} failed: {}.", cause.failure.message),
        None => format!("It failed: {}.", cause.failure.message),
    };
    let detail = format!("{detail} Subscription \"{subscription}\", commit record ends at {end}.");
    Failure { code: cause.failure.code, message, detail: Some(detail), hint: Some(hint) }.warn();
}
