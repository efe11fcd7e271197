//! The manager: one worker per database with a node, which keeps an apply worker running for each enabled subscription.
//!
//! It compares the catalog with what runs, whenever it is woken (a change of the catalog was committed, a worker
//! started or ended) or a back-off is over. A worker is stopped when its subscription is gone, disabled or held, and
//! started again when what it was started with has changed. One that ends by itself is started again after 200 ms,
//! doubling to 5 s, back to 200 ms after it ran for a minute.
//!
//! At each look it also puts right the row triggers of replicated tables that somebody switched off. Between the looks it
//! lets the node's heartbeats go (`heartbeat`), removes what they show to be needed no more (`collector`), and what is too
//! old in the history of conflicts (`pruner`).
//!
//! It ends with its node: `node_drop` and DROP EXTENSION wake it through the catalog, so that the database can be
//! dropped. Its look at the catalog gives up soon when a table is locked, so that it is never the reason why DROP
//! EXTENSION runs into a deadlock.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use meld_core::ids::NodeIdentity;
use pgrx::prelude::PgSqlErrorCode;

use super::collector::Collector;
use super::heartbeat::{self, Heart};
use super::pruner::Pruner;
use super::registry::{self, Entry};
use super::supervisor::no_place;
use crate::catalog::{self, Subscription};
use crate::log::{Failure, Result};
use crate::pg::trap::trap;
use crate::pg::worker::{self, LaunchStatus, Launched, WorkerKind};
use crate::pg::{Oid, promise, xact};
use crate::sequence::keeper::KEEPER;
use crate::sequence::peers;
use crate::settings;
use crate::trigger::{self, Upkeep};

const APPLY: WorkerKind = WorkerKind { type_name: "meld apply", function: "meld_apply_main" };

/// How long the manager sleeps when nothing happens.
const IDLE: Duration = Duration::from_secs(10);
/// Before another look at a catalog that could not be read.
const RETRY: Duration = Duration::from_millis(500);
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A worker that ran this long was healthy.
const HEALTHY: Duration = Duration::from_secs(60);

crate::worker_entry!(meld_manager_main => run);

fn run(argument: i32) {
    let database = Oid::from(argument as u32);
    worker::start(database);
    worker::set_for_session(c"lock_timeout", c"500ms");
    worker::set_for_session(c"search_path", c"");
    worker::set_for_session(c"default_transaction_isolation", c"read committed");
    let mut manager: Option<Manager> = None;
    let mut next_look = Instant::now();
    let mut next_beat = Instant::now();
    while !worker::shutdown_requested() {
        worker::reload_if_requested();
        if Instant::now() >= next_look {
            let pause = match look(database, &mut manager) {
                Some(pause) => pause,
                None => return,
            };
            next_look = Instant::now() + pause;
        }
        if let Some(manager) = &mut manager
            && Instant::now() >= next_beat
        {
            manager.beat();
            next_beat = Instant::now() + heartbeat::INTERVAL;
        }
        let next = if manager.is_some() { next_look.min(next_beat) } else { next_look };
        // at least a millisecond, the unit of the server's waits
        let pause = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        if worker::wait(None, Some(pause)).latch {
            next_look = Instant::now();
        }
    }
    manager.and_then(|manager| manager.keeper).into_iter().for_each(Launched::terminate);
    stop_all(database);
}

/// Compares the catalog with what runs. Gives how long there is nothing more to do, or `None` if this manager is to end.
fn look(database: Oid, manager: &mut Option<Manager>) -> Option<Duration> {
    match trap(|| xact::in_transaction(|_| read_catalog())) {
        Ok(None) => {
            manager.take().and_then(|manager| manager.keeper).into_iter().for_each(Launched::terminate);
            stop_all(database);
            registry::retire_manager(database);
            promise::forget(database);
            let _ = peers::publish(database, None);
            None
        }
        Ok(Some((local, subscriptions))) => {
            if manager.is_none() && !registry::attach_manager(database) {
                return None;
            }
            let manager = manager.get_or_insert_with(|| Manager::new(database));
            manager.keep_keeper();
            let pause = manager.step(&local, subscriptions);
            Some(match trigger::repair() {
                Upkeep::Done => pause,
                Upkeep::Busy => pause.min(RETRY),
            })
        }
        Err(failure) => {
            if !is_drop_under_way(&failure) && !worker::shutdown_requested() {
                failure.warn();
            }
            Some(RETRY)
        }
    }
}

/// What DROP EXTENSION does to a look at the catalog: it holds a lock, or a table has just gone.
fn is_drop_under_way(failure: &Failure) -> bool {
    use PgSqlErrorCode::{ERRCODE_LOCK_NOT_AVAILABLE, ERRCODE_UNDEFINED_TABLE};
    matches!(failure.code, ERRCODE_LOCK_NOT_AVAILABLE | ERRCODE_UNDEFINED_TABLE)
}

/// Who this node is and its subscriptions, or `None` if this database has no node.
fn read_catalog() -> Result<Option<(NodeIdentity, Vec<Subscription>)>> {
    if !catalog::node::installed()? {
        return Ok(None);
    }
    let Some(local) = catalog::node::local()? else { return Ok(None) };
    peers::publish(worker::my_database(), Some(&local.identity))?;
    Ok(Some((local.identity, catalog::subscription::all()?)))
}

/// Asks all workers of the database to end, and waits for a while until they have.
fn stop_all(database: Oid) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let alive: Vec<Entry> = registry::entries(database).into_iter().filter(Entry::is_alive).collect();
        if alive.is_empty() || Instant::now() >= deadline {
            return;
        }
        alive.iter().for_each(|entry| worker::terminate(entry.pid));
        if worker::wait(None, Some(Duration::from_millis(50))).shutdown {
            return;
        }
    }
}

struct Manager {
    database: Oid,
    /// As the catalog had them at the last look.
    subscriptions: Vec<Subscription>,
    heart: Heart,
    collector: Collector,
    pruner: Pruner,
    links: HashMap<i32, Link>,
    /// The worker that looks at other servers from time to time.
    keeper: Option<Launched>,
    /// It was said that there is no place for another worker.
    full: bool,
}

/// What the manager knows of a subscription's worker.
struct Link {
    launched: Option<Launched>,
    /// Who this node was then: its snowflake number is a setting, and peers compare it when they connect.
    started_as: NodeIdentity,
    /// What the worker was started with.
    started_with: Subscription,
    started_at: Instant,
    not_before: Instant,
    failures: u32,
    /// The manager has asked the worker to end, so its end is no failure.
    stopping: bool,
}

impl Manager {
    fn new(database: Oid) -> Manager {
        Manager {
            database,
            subscriptions: Vec::new(),
            heart: Heart::new(database),
            collector: Collector::new(database),
            pruner: Pruner::new(),
            links: HashMap::new(),
            keeper: None,
            full: false,
        }
    }

    /// Starts the keeper if it is not there; without a place for it the next look tries again.
    fn keep_keeper(&mut self) {
        if self.keeper.as_ref().is_none_or(|keeper| keeper.status() == LaunchStatus::Ended) {
            let name = format!("meld keeper of database {}", self.database.to_u32());
            self.keeper = worker::launch(KEEPER, &name, self.database.to_u32() as i32, "");
        }
    }

    /// Tells the others what they can count on. What went wrong is tried again with the next heartbeat.
    fn beat(&mut self) {
        let retention = Duration::from_secs(settings::TOMBSTONE_RETENTION_S.get().unsigned_abs().into());
        worker::report_statistics(false);
        let outcome = trap(|| match self.heart.beat(&self.subscriptions, retention)? {
            Some(beat) => self.collector.go(&beat, &self.subscriptions),
            None => Ok(()),
        });
        for failure in [outcome, trap(|| self.pruner.go())].into_iter().filter_map(Result::err) {
            if !is_drop_under_way(&failure) && !worker::shutdown_requested() {
                failure.warn();
            }
        }
    }

    /// Makes what runs like the catalog; gives how long there is nothing more to do.
    fn step(&mut self, local: &NodeIdentity, subscriptions: Vec<Subscription>) -> Duration {
        let now = Instant::now();
        let entries: HashMap<i32, Entry> =
            registry::entries(self.database).into_iter().map(|entry| (entry.subscription_id, entry)).collect();
        for entry in entries.values().filter(|entry| !subscriptions.iter().any(|s| s.id == entry.subscription_id)) {
            self.forget(entry);
        }
        let mut pause = IDLE;
        self.subscriptions.clone_from(&subscriptions);
        for subscription in subscriptions {
            let entry = entries.get(&subscription.id);
            pause = pause.min(self.look_after(local, subscription, entry, now));
        }
        pause
    }

    fn forget(&mut self, entry: &Entry) {
        if entry.is_alive() {
            worker::terminate(entry.pid);
        }
        if let Some(launched) = self.links.remove(&entry.subscription_id).and_then(|link| link.launched) {
            launched.terminate();
        }
        registry::release(entry.slot);
    }

    fn look_after(
        &mut self,
        local: &NodeIdentity,
        subscription: Subscription,
        entry: Option<&Entry>,
        now: Instant,
    ) -> Duration {
        let wanted = subscription.enabled && !entry.is_some_and(Entry::is_held);
        let link = self.links.entry(subscription.id).or_insert_with(|| Link::new(local, &subscription, now));
        let alive = entry.is_some_and(Entry::is_alive);
        let starting = link.launched.as_ref().is_some_and(|launched| launched.status() != LaunchStatus::Ended);
        if alive || starting {
            let outdated = !is_same_work(&link.started_with, &subscription) || link.started_as != *local;
            if !wanted || outdated {
                link.stopping = true;
                match entry {
                    Some(entry) if alive => worker::terminate(entry.pid),
                    _ => link.launched = link.launched.take().and_then(|launched| launched.cancel()),
                }
            }
            return IDLE;
        }
        if link.launched.take().is_some() {
            // one that is not wanted any more may have seen so itself
            link.stopping |= !wanted;
            link.note_end(now);
        }
        if !wanted {
            return if subscription.enabled { RETRY } else { IDLE };
        }
        if now < link.not_before {
            return link.not_before - now;
        }
        match start_worker(self.database, &subscription) {
            Some(launched) => {
                self.full = false;
                *link =
                    Link { failures: link.failures, launched: Some(launched), ..Link::new(local, &subscription, now) };
                IDLE
            }
            None => {
                link.not_before = now + BACKOFF_MAX;
                if !std::mem::replace(&mut self.full, true) {
                    no_place(&format!("the worker of subscription \"{}\"", subscription.name)).warn();
                }
                BACKOFF_MAX
            }
        }
    }
}

impl Link {
    fn new(local: &NodeIdentity, subscription: &Subscription, now: Instant) -> Link {
        Link {
            launched: None,
            started_as: local.clone(),
            started_with: subscription.clone(),
            started_at: now,
            not_before: now,
            failures: 0,
            stopping: false,
        }
    }

    /// The worker has ended.
    fn note_end(&mut self, now: Instant) {
        if std::mem::take(&mut self.stopping) {
            self.failures = 0;
            self.not_before = now;
            return;
        }
        if now.duration_since(self.started_at) >= HEALTHY {
            self.failures = 0;
        }
        self.not_before = now + backoff(self.failures);
        self.failures = self.failures.saturating_add(1);
    }
}

fn backoff(failures: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << failures.min(10)).min(BACKOFF_MAX)
}

/// Whether a worker that was started with `old` need not be started again for `new`.
fn is_same_work(old: &Subscription, new: &Subscription) -> bool {
    // `ready` is set by the worker itself
    Subscription { ready: new.ready, ..old.clone() } == *new
}

fn start_worker(database: Oid, subscription: &Subscription) -> Option<Launched> {
    let (slot, launch_text) = registry::prepare_launch(database, subscription.id)?;
    worker::launch(APPLY, &subscription.slot_name, slot as i32, &launch_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_up_to_its_bound() {
        let delays: Vec<u128> = (0..7).map(|failures| backoff(failures).as_millis()).collect();
        assert_eq!(delays, [200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
    }
}
