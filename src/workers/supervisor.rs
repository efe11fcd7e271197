//! The supervisor: one static worker per server that starts a manager in every database that has a node.
//!
//! It can't see into a database, so it starts a manager to look: in every database when the server starts and every
//! few minutes, and in one at once when `node_create` asks for it. A manager that finds no node ends. One that found a
//! node has a place in the registry until the node is gone; if it ends while it still has its place, it is started
//! again.
//!
//! It also keeps the record of the server's clock.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pgrx::prelude::PgSqlErrorCode;

use super::registry;
use crate::clock::Keeper;
use crate::log::{Failure, Result};
use crate::pg::trap::trap;
use crate::pg::worker::{self, LaunchStatus, Launched, WorkerKind};
use crate::pg::{Oid, databases, xact};

pub const SUPERVISOR: WorkerKind = WorkerKind { type_name: "meld supervisor", function: "meld_supervisor_main" };
const MANAGER: WorkerKind = WorkerKind { type_name: "meld manager", function: "meld_manager_main" };

/// How often all databases are looked at, for nodes that came with a copied database.
const RESCAN: Duration = Duration::from_secs(300);
/// Before a manager that failed is started again, and before another try when the server has no place for a worker.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Supervisor {
    /// Databases where a manager is to be started, and not before when.
    wanted: HashMap<Oid, Instant>,
    running: HashMap<Oid, Launched>,
    /// It was said that the server has no place for another worker.
    full: bool,
}

crate::worker_entry!(meld_supervisor_main => run);

fn run(_argument: i32) {
    worker::start_without_database();
    registry::register_supervisor();
    let mut supervisor = Supervisor::default();
    let mut next_scan = Instant::now();
    let mut keeper = Keeper::default();
    while !worker::shutdown_requested() {
        worker::reload_if_requested();
        let now = Instant::now();
        let requests = registry::take_requests();
        if requests.rescan || now >= next_scan {
            next_scan = now + RESCAN;
            match all_databases() {
                Ok(all) => all.into_iter().for_each(|database| supervisor.want(database, now)),
                // a request to end cancels what it was doing
                Err(_) if worker::shutdown_requested() => {}
                Err(failure) => failure.warn(),
            }
        }
        requests.databases.into_iter().for_each(|database| supervisor.want(database, now));
        supervisor.collect_ended(now);
        supervisor.start_wanted(now);
        let until_record = keeper.keep(!registry::managers().is_empty());
        worker::wait(None, Some(supervisor.pause(now, next_scan).min(until_record)));
    }
    // with exit code 0 the postmaster would not start it again
    worker::exit(1);
}

fn all_databases() -> Result<Vec<Oid>> {
    trap(|| xact::in_transaction(|xact| Ok(databases::connectable(xact))))
}

impl Supervisor {
    fn want(&mut self, database: Oid, when: Instant) {
        self.wanted.entry(database).or_insert(when);
    }

    /// Managers that ended though their database has a node are wanted again.
    fn collect_ended(&mut self, now: Instant) {
        self.running.retain(|_, launched| launched.status() != LaunchStatus::Ended);
        let ended = registry::managers().into_iter().filter(|&(_, pid)| !worker::is_alive(pid));
        let ended: Vec<Oid> = ended.map(|(database, _)| database).collect();
        if ended.is_empty() {
            return;
        }
        // the database of one may be gone
        let Ok(all) = all_databases() else { return };
        for database in ended {
            if !all.contains(&database) {
                registry::retire_manager(database);
            } else if !self.running.contains_key(&database) {
                self.want(database, now + RETRY);
            }
        }
    }

    fn start_wanted(&mut self, now: Instant) {
        let due: Vec<Oid> =
            self.wanted.iter().filter(|(_, when)| **when <= now).map(|(&database, _)| database).collect();
        if due.is_empty() {
            return;
        }
        let managed = registry::managers();
        // one may have been dropped since it was asked for
        let Ok(all) = all_databases() else { return };
        for database in due {
            if !all.contains(&database) {
                self.wanted.remove(&database);
                continue;
            }
            let is_managed = managed.iter().any(|&(d, pid)| d == database && worker::is_alive(pid));
            if is_managed || self.running.contains_key(&database) {
                self.wanted.remove(&database);
                continue;
            }
            let name = format!("meld manager of database {}", database.to_u32());
            match worker::launch(MANAGER, &name, database.to_u32() as i32, "") {
                Some(launched) => {
                    self.full = false;
                    self.wanted.remove(&database);
                    self.running.insert(database, launched);
                }
                None => {
                    self.wanted.insert(database, now + RETRY);
                    if !std::mem::replace(&mut self.full, true) {
                        no_place("a manager").warn();
                    }
                }
            }
        }
    }

    fn pause(&self, now: Instant, next_scan: Instant) -> Duration {
        let next = self.wanted.values().copied().min().unwrap_or(next_scan).min(next_scan);
        next.saturating_duration_since(now).max(Duration::from_millis(10))
    }
}

/// The server can't start another worker.
pub(super) fn no_place(what: &str) -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        format!("could not start {what}: out of background worker slots"),
    )
    .hint("Raise max_worker_processes and restart the server.")
}
