//! The replay worker: applies again what was parked, as `meld.parked_replay` asks.
//!
//! ```text
//! start -> read which transactions are parked -> for each, in the order of their commits:
//!   a local transaction of its own, by the same rule as ever, with the remote's own stamp;
//!   its parked row goes in that same local transaction
//!     applied -> next
//!     failed  -> it stays parked, with the new error -> next
//! -> again, for those that failed, as long as a pass applies any
//! ```
//!
//! It runs beside the apply workers, each of which keeps its origin to itself, so it has origins of its own, which stand for
//! the same nodes. That it is late does it no harm: a stamp decides the same whenever a change comes, what was counted
//! already cannot come again since the parked row goes with the changes, and the horizon of this node was held before the
//! oldest parked transaction, so nothing was forgotten that it has to meet. A change that names no version is not believed
//! behind an earlier transaction of its origin that is still parked (`aside`).
//!
//! A crash leaves each transaction either applied and gone, or parked as it was. One replay runs at a time: the next one
//! cannot take the origin and says so.

use std::collections::HashMap;
use std::rc::Rc;

use meld_core::ids::NodeId;
use meld_core::time::Timestamp;
use meld_core::wire::{FrameReader, Message};
use pgrx::prelude::PgSqlErrorCode;

use super::aside::Aside;
use super::fetch::Fetcher;
use super::transaction::{Ran, Relations, RemoteTransaction, Surroundings};
use crate::catalog;
use crate::catalog::parked::{self, ToReplay};
use crate::catalog::subscription::Subscription;
use crate::conflict::Writers;
use crate::log::{Failure, Result};
use crate::pg::origin::{self, WithoutOrigin};
use crate::pg::trap::trap;
use crate::pg::worker as process;
use crate::pg::xact::{Xact, in_transaction};
use crate::pg::{Oid, session};
use crate::sequence::peers;

crate::worker_entry!(meld_replay_main => run);

/// How often a transaction that is too large to be kept in memory is read again in one replay.
const ROUNDS: u32 = 100;

fn run(argument: i32) {
    process::start(Oid::from(argument.cast_unsigned()));
    let wanted = process::launch_extra().parse().ok().map(NodeId).filter(|node| node.0 != 0);
    let outcome = trap(|| {
        process::set_application_name("meld_replay");
        session::prepare_for_apply();
        match Replay::start()? {
            Some(mut replay) => replay.work(wanted),
            None => Ok(()),
        }
    });
    if let Err(failure) = outcome
        && !process::shutdown_requested()
    {
        failure.raise();
    }
}

struct Replay {
    writers: Writers,
    subscriptions: Vec<Subscription>,
    fetchers: HashMap<i32, Fetcher>,
    aside: Aside,
    /// The node whose origin this session has.
    origin: Option<NodeId>,
}

impl Replay {
    fn start() -> Result<Option<Replay>> {
        let Some((replay, local, dsns)) = in_transaction(|_| {
            let Some(local) = catalog::node::local()? else { return Ok(None) };
            let replay = Replay {
                writers: Writers::read(&local)?,
                subscriptions: catalog::subscription::all()?,
                fetchers: HashMap::new(),
                aside: Aside::of(parked::set_aside()?),
                origin: None,
            };
            let dsns = catalog::node::dsns(local.identity.id)?;
            Ok(Some((replay, local, dsns)))
        })?
        else {
            return Ok(None);
        };
        // what a copy of a member would commit as that node's, the member knows nothing of
        peers::check_not_a_copy(&local.identity, &dsns, &mut process::answer_interrupts)?;
        Ok(Some(replay))
    }

    /// One transaction may wait for another that was committed later, a row for its parent: as long as any can be applied,
    /// those that fail are tried again.
    fn work(&mut self, wanted: Option<NodeId>) -> Result<()> {
        loop {
            let parked = in_transaction(|_| parked::to_replay(wanted))?;
            let total = parked.len();
            let applied = self.pass(parked)?;
            if applied == 0 || applied == total || process::shutdown_requested() {
                break;
            }
        }
        origin::flush_last_commit();
        process::report_statistics(true);
        Ok(())
    }

    /// Tries each of them once; how many could be applied.
    fn pass(&mut self, parked: Vec<ToReplay>) -> Result<usize> {
        let (total, mut applied) = (parked.len(), 0);
        for (number, transaction) in parked.into_iter().enumerate() {
            if process::shutdown_requested() {
                break;
            }
            process::answer_interrupts();
            process::reload_if_requested();
            process::report_activity(Some(&format!("parked transaction {} of {total}", number + 1)));
            self.take_origin(transaction.origin)?;
            match self.replay(&transaction) {
                Ok(()) => {
                    self.aside.remove(transaction.stamp);
                    applied += 1;
                }
                Err(failure) if process::shutdown_requested() => return Err(failure),
                Err(failure) => self.note_failure(&transaction, &failure)?,
            }
        }
        Ok(applied)
    }

    /// Makes what is committed from here on that node's.
    fn take_origin(&mut self, node: NodeId) -> Result<()> {
        if self.origin == Some(node) {
            return Ok(());
        }
        if self.origin.take().is_some() {
            origin::leave_session();
        }
        let name = format!("meld_replay_{}_{node}", process::my_database().to_u32());
        let roident = in_transaction(|xact| catalog::origin::ensure(xact, &name, node))?;
        in_transaction(|xact| {
            origin::setup_session(xact, roident);
            Ok(())
        })?;
        self.origin = Some(node);
        Ok(())
    }

    /// Applies one transaction, or leaves it as it was.
    fn replay(&mut self, parked: &ToReplay) -> Result<()> {
        for _ in 0..ROUNDS {
            match self.one_round(parked) {
                // something had to come first, and not all of the transaction was kept in memory
                Err(failure) if failure.sqlstate() == "40001" && !process::shutdown_requested() => {}
                outcome => return outcome,
            }
        }
        self.one_round(parked)
    }

    fn one_round(&mut self, parked: &ToReplay) -> Result<()> {
        let is_its = |subscription: &&Subscription| subscription.provider.id == parked.provider;
        let subscription = self.subscriptions.iter().find(is_its).ok_or_else(|| no_link(parked))?;
        let fetcher = self.fetchers.entry(subscription.id).or_insert_with(|| Fetcher::new(subscription));
        let mut relations = Relations::new();
        let mut around = Surroundings {
            relations: &mut relations,
            writers: &mut self.writers,
            fetcher,
            aside: &self.aside,
            subscription: &subscription.name,
            provider: parked.provider,
            // nothing is known of it any more
            seen_by_origin: Timestamp::MIN,
        };
        let mut reader = FrameReader::new();
        let mut transaction = None;
        for chunk in 0.. {
            let Some(frame) = read_chunk(parked.id, chunk)? else { return Err(broken(parked)) };
            let messages = reader.read(&frame).map_err(|_| broken(parked))?;
            for message in messages {
                if feed(message, parked, &mut transaction, &mut around)? {
                    return Ok(());
                }
            }
        }
        Err(broken(parked))
    }

    fn note_failure(&self, parked: &ToReplay, failure: &Failure) -> Result<()> {
        if let Some(open) = Xact::current() {
            open.abort();
        }
        let without_origin = WithoutOrigin::begin();
        let noted = in_transaction(|_| parked::note_replay(parked.id, &failure.sqlstate(), &failure.message));
        drop(without_origin);
        noted?;
        let message = format!("parked transaction {} could not be applied: {}", parked.id, failure.message);
        Failure { message, ..failure.clone() }.log();
        Ok(())
    }
}

/// Hands the next message on; true if that was the end.
fn feed(
    message: Message,
    parked: &ToReplay,
    transaction: &mut Option<RemoteTransaction>,
    around: &mut Surroundings<'_>,
) -> Result<bool> {
    let ran = match (message, &mut *transaction) {
        (Message::Begin(begin), None) => {
            *transaction = Some(RemoteTransaction::replayed(begin, parked.id));
            return Ok(false);
        }
        (Message::Relation(description), Some(_)) if !around.relations.contains_key(&description.id) => {
            around.relations.insert(description.id, Rc::new(description));
            return Ok(false);
        }
        (Message::Commit(commit), Some(transaction)) => transaction.commit(&commit, around)?,
        (message, Some(transaction)) => transaction.apply(message, around)?,
        (_, None) => return Err(broken(parked)),
    };
    match ran {
        Ran::Applied => Ok(false),
        Ran::Committed | Ran::Empty => Ok(true),
        Ran::GaveUp(cause) => Err(cause.failure),
    }
}

/// A chunk of the body, read in the transaction that is open, if any is.
fn read_chunk(id: i64, chunk: i32) -> Result<Option<Vec<u8>>> {
    trap(|| match Xact::current() {
        Some(xact) => xact.briefly(|| parked::chunk(id, chunk)),
        None => in_transaction(|_| parked::chunk(id, chunk)),
    })
}

fn no_link(parked: &ToReplay) -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        format!("no subscription to node {} exists, from which the transaction came", parked.provider),
    )
    .hint("Subscribe to that node again, or give the transaction up with meld.parked_discard.")
}

fn broken(parked: &ToReplay) -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        format!("the body of parked transaction {} cannot be read", parked.id),
    )
}
