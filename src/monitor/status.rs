//! The state of workers and subscriptions, as the views show it. No error text here: it may quote rows.

use std::sync::atomic::Ordering;

use meld_core::lsn::Lsn;

use crate::catalog::Subscription;
use crate::pg::worker;
use crate::workers::registry::{self, Entry, Progress, WorkerState};

/// A subscription's state in one word.
pub fn subscription_status(subscription: &Subscription, entry: Option<&Entry>) -> &'static str {
    if !subscription.enabled {
        return "disabled";
    }
    match entry {
        Some(entry) if entry.is_alive() => match entry.state {
            WorkerState::Replicating => "replicating",
            WorkerState::Starting | WorkerState::Initializing => "initializing",
            WorkerState::Failed => "down",
        },
        Some(entry) if entry.error.is_some() => "down",
        _ if subscription.ready => "down",
        _ => "initializing",
    }
}

/// Whether the subscription's worker streams.
pub fn is_replicating(entry: &Entry) -> bool {
    entry.state == WorkerState::Replicating && entry.is_alive()
}

/// A worker of this server, as `worker_status` shows it.
pub struct WorkerRow {
    pub kind: &'static str,
    pub pid: i32,
    pub database: Option<crate::pg::Oid>,
    pub subscription_id: Option<i32>,
    pub state: &'static str,
}

/// The supervisor, the managers, and the apply workers of this database.
pub fn workers() -> Vec<WorkerRow> {
    let supervisor = registry::supervisor_pid().map(|pid| WorkerRow {
        kind: "supervisor",
        pid,
        database: None,
        subscription_id: None,
        state: "running",
    });
    let managers = registry::managers().into_iter().filter(|&(_, pid)| worker::is_alive(pid)).map(|(database, pid)| {
        WorkerRow { kind: "manager", pid, database: Some(database), subscription_id: None, state: "running" }
    });
    let entries = registry::entries(worker::my_database()).into_iter().filter(Entry::is_alive);
    let apply = entries.map(|entry| WorkerRow {
        kind: "apply",
        pid: entry.pid,
        database: Some(entry.database),
        subscription_id: Some(entry.subscription_id),
        state: match entry.state {
            WorkerState::Starting => "starting",
            WorkerState::Initializing => "initializing",
            WorkerState::Replicating => "replicating",
            WorkerState::Failed => "failed",
        },
    });
    supervisor.into_iter().chain(managers).chain(apply).collect()
}

/// A position that a worker wrote, `None` if it has written none since the server started.
pub fn position(cell: &std::sync::atomic::AtomicU64) -> Option<Lsn> {
    Some(Lsn(cell.load(Ordering::Relaxed))).filter(|&lsn| lsn != Lsn::ZERO)
}

/// The counters of each subscription of this database that has a place in the registry.
pub fn progress() -> Vec<(Entry, &'static Progress)> {
    let entries = registry::entries(worker::my_database());
    entries.into_iter().map(|entry| (entry.clone(), registry::progress(entry.slot))).collect()
}
