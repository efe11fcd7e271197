//! The apply worker: one process for each enabled subscription.
//!
//! ```text
//! start -> make or find the origin -> link -> [slot created: position and readiness committed] -> apply ... -> end
//! ```
//!
//! The main thread takes events from the receiver's queue in the order of the stream and applies them; it is woken by
//! the queue's descriptor. After each event it tells the receiver what is durable here. Any error ends the process:
//! the open transaction aborts, the cause goes into the registry (for `sub_show_status`) and the log, and the manager
//! starts a new worker, which the provider sends everything again that was not durable. SIGTERM ends it at the next
//! event.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use meld_core::horizon::Without;
use meld_core::lsn::Lsn;
use meld_core::time::Timestamp;
use meld_core::wire::{Commit, LogicalMessage, Message};
use pgrx::prelude::PgSqlErrorCode;

mod exceptions;
mod link;

use super::aside::Aside;
use super::clock;
use super::feedback::Feedback;
use super::fetch::Fetcher;
use super::heard::HeardHeartbeats;
use super::parking::Parking;
use super::transaction::{Counts, Ran, Relations, RemoteTransaction, Surroundings};
use crate::catalog;
use crate::catalog::node::Node;
use crate::catalog::parked::{self, Standing};
use crate::catalog::subscription::Subscription;
use crate::conflict::writers::Writers;
use crate::log::{Failure, Result};
use crate::pg::trap::trap;
use crate::pg::worker as process;
use crate::pg::xact::{Xact, in_transaction};
use crate::pg::{origin, session};
use crate::receiver::{Event, Link, Positions};
use crate::sequence::peers;
use crate::workers::registry::{self, Announcement, WorkerState};

crate::worker_entry!(meld_apply_main => run);

/// How often the worker looks whether its commits became durable.
const FLUSH_POLL: Duration = Duration::from_millis(100);
/// How often it looks around when nothing happens.
const IDLE_POLL: Duration = Duration::from_secs(10);

/// What the process knows while it applies.
struct Worker {
    slot: usize,
    subscription: Subscription,
    local: Node,
    writers: Writers,
    relations: Relations,
    fetcher: Fetcher,
    transaction: Option<RemoteTransaction>,
    /// A transaction that failed for good, until it is whole.
    parking: Option<Parking>,
    aside: Aside,
    /// Where the subscription stood when this worker started.
    standing: Option<Standing>,
    /// End of a transaction that is to be skipped.
    skip_lsn: Option<Lsn>,
    feedback: Feedback,
    heartbeats: HeardHeartbeats,
    link: Link,
}

/// Runs the worker of a registry slot until it is stopped or fails.
fn run(slot: i32) {
    let Ok(slot) = usize::try_from(slot) else { return };
    let assignment = registry::attach(slot);
    process::start(assignment.database);
    let mut worker = None;
    let outcome = trap(|| {
        let started = match Worker::start(slot, assignment.subscription_id)? {
            Some(started) => worker.insert(started),
            None => return Ok(()),
        };
        started.work()
    });
    if let Err(failure) = outcome {
        if process::shutdown_requested() {
            return;
        }
        let failure = match &worker {
            Some(worker) => worker.explain(failure),
            None => failure,
        };
        registry::set_error(slot, &failure.sqlstate(), &failure.message);
        // the receiver's thread ends before the process does
        drop(worker);
        failure.raise();
    }
}

impl Worker {
    /// Reads the subscription and connects; `None` if it was dropped or disabled meanwhile.
    fn start(slot: usize, subscription_id: i32) -> Result<Option<Worker>> {
        let read =
            |_: &Xact| -> Result<_> { Ok((catalog::subscription::by_id(subscription_id)?, catalog::node::local()?)) };
        let (Some(subscription), Some(local)) = in_transaction(read)? else { return Ok(None) };
        if !subscription.enabled {
            return Ok(None);
        }
        process::set_application_name(&subscription.slot_name);
        let dsns = in_transaction(|_| catalog::node::dsns(local.identity.id))?;
        peers::check_not_a_copy(&local.identity, &dsns, &mut process::answer_interrupts)?;
        session::prepare_for_apply();
        process::report_activity(None);
        registry::set_state(slot, if subscription.ready { WorkerState::Starting } else { WorkerState::Initializing });
        let mut from = Lsn::ZERO;
        if subscription.ready {
            let roident = in_transaction(|xact| {
                catalog::origin::ensure(xact, &subscription.origin_name, subscription.provider.id)
            })?;
            from = in_transaction(|xact| {
                origin::setup_session(xact, roident);
                Ok(origin::durable_session_progress())
            })?;
        }
        let link = Link::start(link::options(&subscription, &local, from)).map_err(Failure::from)?;
        let (writers, aside, standing, skip_lsn) = in_transaction(|_| {
            let aside = Aside::of(parked::set_aside()?);
            Ok((Writers::read(&local)?, aside, parked::standing(subscription_id)?, parked::skip_lsn(subscription_id)?))
        })?;
        Ok(Some(Worker {
            slot,
            local,
            writers,
            relations: Relations::new(),
            fetcher: Fetcher::new(&subscription),
            transaction: None,
            parking: None,
            aside,
            standing,
            skip_lsn,
            feedback: Feedback::new(from),
            heartbeats: HeardHeartbeats::new(slot, !subscription.forward_origins.is_empty()),
            link,
            subscription,
        }))
    }

    fn work(&mut self) -> Result<()> {
        loop {
            while let Some(event) = self.link.try_next() {
                process::answer_interrupts();
                if process::shutdown_requested() {
                    return Ok(());
                }
                self.handle(event)?;
                self.report();
            }
            self.report();
            // a keepalive that brings no position is no event
            self.note_clock()?;
            if self.transaction.is_none() {
                process::report_statistics(false);
            }
            let is_waiting = self.feedback.is_waiting() || self.heartbeats.is_waiting();
            let timeout = if is_waiting { FLUSH_POLL } else { IDLE_POLL };
            let woken = process::wait(Some(self.link.wake_fd()), Some(timeout));
            if woken.shutdown {
                return Ok(());
            }
            process::reload_if_requested();
        }
    }

    /// Tells the receiver, and whoever looks at the registry, how far this is.
    fn report(&mut self) {
        let before = self.feedback.flushed();
        let local_flush = origin::local_flush_position();
        self.feedback.flushed_here(local_flush);
        self.heartbeats.durable_up_to(local_flush);
        let (applied, flushed, received) = (self.feedback.applied(), self.feedback.flushed(), self.link.received());
        self.link.report(Positions { written: received, flushed, applied }, false);
        let progress = registry::progress(self.slot);
        progress.received_lsn.store(received.0.max(applied.0), Relaxed);
        progress.applied_lsn.store(applied.0, Relaxed);
        progress.flushed_lsn.store(flushed.0, Relaxed);
        if flushed != before && !self.feedback.is_waiting() {
            self.link.report(Positions { written: received, flushed, applied }, true);
        }
    }

    fn handle(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Connected { provider, .. } => {
                in_transaction(|_| peers::met(&provider))?;
                if self.subscription.ready {
                    registry::set_state(self.slot, WorkerState::Replicating);
                }
            }
            Event::SlotCreated { consistent } => self.slot_created(consistent)?,
            Event::Frame { messages, .. } => {
                for message in messages {
                    self.message(message)?;
                }
            }
            Event::Keepalive { end } => {
                self.feedback.passed(end);
                self.note_clock()?;
            }
            Event::Closed(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// How far the provider's clock is ahead, as its last answers tell.
    fn note_clock(&self) -> Result<()> {
        let Some(offset) = self.link.clock_offset() else { return Ok(()) };
        let progress = registry::progress(self.slot);
        progress.clock_offset_us.store(offset.offset_us, Relaxed);
        progress.clock_round_trip_us.store(offset.round_trip_us, Relaxed);
        clock::note_offset(self.subscription.provider.id, offset)
    }

    /// The slot is there: from now on nothing that the provider commits can be missed.
    fn slot_created(&mut self, consistent: Lsn) -> Result<()> {
        let (name, provider) = (self.subscription.origin_name.clone(), self.subscription.provider.id);
        let roident = in_transaction(|xact| {
            let roident = catalog::origin::ensure(xact, &name, provider)?;
            origin::set_position(xact, roident, consistent);
            catalog::subscription::mark_ready(self.subscription.id)?;
            Ok(roident)
        })?;
        // a crash must not take the subscription back to before its slot, once anybody was told that it is ready
        origin::flush_last_commit();
        in_transaction(|xact| {
            origin::setup_session(xact, roident);
            Ok(())
        })?;
        self.writers = in_transaction(|_| Writers::read(&self.local))?;
        self.subscription.ready = true;
        self.feedback = Feedback::new(consistent);
        registry::set_state(self.slot, WorkerState::Replicating);
        Ok(())
    }

    fn message(&mut self, message: Message) -> Result<()> {
        let is_apart = matches!(message, Message::Startup(_) | Message::Logical(_));
        if !is_apart && let Some(taken) = self.take_aside(&message) {
            return taken;
        }
        match message {
            Message::Startup(startup) => self.check_startup(&startup),
            Message::Begin(begin) => {
                // noted before it is applied, so that the lag shows while apply stands still
                let progress = registry::progress(self.slot);
                progress.received_lsn.fetch_max(begin.commit_lsn.0, Relaxed);
                progress.applying_commit_ts.store(begin.commit_ts.0, Relaxed);
                if !self.begin_aside(&begin)? {
                    self.transaction = Some(RemoteTransaction::new(begin));
                }
                Ok(())
            }
            Message::Relation(description) if self.transaction.is_none() => {
                self.relations.insert(description.id, Rc::new(description));
                Ok(())
            }
            Message::Relation(_)
            | Message::Insert(_)
            | Message::Update(_)
            | Message::Delete(_)
            | Message::Truncate(_)
            | Message::Removal(_)
            | Message::Void(_)
            | Message::Contribution(_) => {
                let ran =
                    self.with_transaction("a change", |transaction, around| transaction.apply(message, around))?;
                self.ran(ran, None)
            }
            Message::Commit(commit) => {
                let ran =
                    self.with_transaction("a commit", |transaction, around| transaction.commit(&commit, around))?;
                self.ran(ran, Some(&commit))?;
                process::report_statistics(false);
                Ok(())
            }
            Message::Logical(LogicalMessage::SyncEvent { lsn }) => {
                self.feedback.passed(lsn);
                Ok(())
            }
            Message::Logical(LogicalMessage::Heartbeat { promise, horizon, beyond, without }) => {
                let without = Without::from_word(without);
                self.heartbeats.hear(Announcement { promise, horizon, beyond, without });
                // once a second
                if self.transaction.is_none() {
                    process::report_statistics(true);
                }
                Ok(())
            }
            // the provider makes something else of them
            Message::Logical(LogicalMessage::Version(_)) => Err(outside("a replaced version")),
            Message::Logical(LogicalMessage::Removal(_)) => Err(outside("the note of a removal")),
            Message::Logical(LogicalMessage::Void(_)) => Err(outside("the note of a void")),
            Message::Logical(LogicalMessage::Contribution(_)) => Err(outside("the note of a contribution")),
        }
    }

    fn ran(&mut self, ran: Ran, commit: Option<&Commit>) -> Result<()> {
        match (ran, commit) {
            (Ran::Applied, _) => return Ok(()),
            (Ran::GaveUp(cause), commit) => return self.gave_up(cause, commit),
            (Ran::Committed, Some(commit)) => self.feedback.committed(commit.end_lsn, origin::last_commit_end()),
            (Ran::Empty, Some(commit)) => self.feedback.passed(commit.end_lsn),
            (Ran::Committed | Ran::Empty, None) => {}
        }
        if let (Some(transaction), Some(commit)) = (self.transaction.take(), commit) {
            self.note_applied(&transaction)?;
            self.count(&transaction.counts, commit.commit_ts);
        }
        Ok(())
    }

    fn with_transaction<T>(
        &mut self,
        what: &str,
        work: impl FnOnce(&mut RemoteTransaction, &mut Surroundings<'_>) -> Result<T>,
    ) -> Result<T> {
        let Some(transaction) = &mut self.transaction else { return Err(outside(what)) };
        let mut around = Surroundings {
            relations: &mut self.relations,
            writers: &mut self.writers,
            fetcher: &mut self.fetcher,
            aside: &self.aside,
            subscription: &self.subscription.name,
            provider: self.subscription.provider.id,
            seen_by_origin: registry::heard_horizon(self.slot),
        };
        work(transaction, &mut around)
    }

    fn count(&self, counts: &Counts, commit_ts: Timestamp) {
        let progress = registry::progress(self.slot);
        progress.last_commit_ts.store(commit_ts.0, Relaxed);
        progress.applying_commit_ts.store(0, Relaxed);
        progress.transactions.fetch_add(1, Relaxed);
        progress.inserts.fetch_add(counts.inserts, Relaxed);
        progress.updates.fetch_add(counts.updates, Relaxed);
        progress.deletes.fetch_add(counts.deletes, Relaxed);
        for kind in &counts.conflicts {
            progress.conflicts[*kind as usize].fetch_add(1, Relaxed);
        }
    }

    /// The failure with what was being done added.
    fn explain(&self, failure: Failure) -> Failure {
        let Some(transaction) = &self.transaction else { return failure };
        let begin = &transaction.begin;
        let mut context = String::new();
        if let Some((operation, relation)) = transaction.doing
            && let Some(table) = self.relations.get(&relation)
        {
            context = format!("{operation:?} of \"{}.{}\" in ", table.schema, table.name).to_lowercase();
        }
        let context = format!(
            "Subscription \"{}\" was applying {context}remote transaction {} of node {}, committed at {}.",
            self.subscription.name, begin.xid.0, begin.origin, begin.commit_lsn
        );
        let detail = match &failure.detail {
            Some(detail) => format!("{detail} {context}"),
            None => context,
        };
        failure.detail(detail)
    }
}

fn outside(what: &str) -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION, format!("{what} arrived outside of a transaction"))
}
