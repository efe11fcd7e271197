//! Background workers: who starts whom, and the shared memory that they meet in.
//!
//! `supervisor` (one per server) starts a `manager` in each database that has a node, which starts an apply worker for
//! each of its subscriptions. All know of each other through `registry`. Backends change the catalog and wake the
//! manager when their transaction is committed; they never start or stop a worker by themselves, except that a
//! subscription which is dropped or disabled at once is held while its worker is asked to end.

mod collector;
mod heartbeat;
mod manager;
mod pruner;
pub mod registry;
pub mod replay;
mod supervisor;
mod text;

use std::time::{Duration, Instant};

use pgrx::{PgXactCallbackEvent, register_xact_callback};

use crate::clock;
use crate::conflict::gate;
use crate::pg::{drops, ignored, numbers, promise, shmem, worker};

/// Called when the library is loaded: registers shared memory and the supervisor if that happens in the postmaster.
pub fn init() {
    if worker::preloading() {
        let mut tables = vec![registry::reservation(), ignored::reservation(), gate::reservation()];
        tables.push(promise::reservation());
        tables.push(numbers::reservation());
        tables.extend(clock::reservations());
        shmem::preload(tables);
        worker::register_static(supervisor::SUPERVISOR, Duration::from_secs(1));
        drops::on_drop_extension(wake_at_commit);
    }
}

/// Lets the manager of this database read the catalog again, once the transaction is committed.
pub fn wake_at_commit() {
    let database = worker::my_database();
    register_xact_callback(PgXactCallbackEvent::Commit, move || registry::wake_manager(database));
}

/// Ends the worker of a subscription now, and keeps it from being started again before the transaction ends. False if
/// the worker is still there when the time is over.
pub fn stop_until_end_of_transaction(subscription_id: i32, limit: Duration) -> bool {
    let database = worker::my_database();
    let release = move || {
        registry::let_go(database, subscription_id);
        registry::wake_manager(database);
    };
    register_xact_callback(PgXactCallbackEvent::Commit, release);
    register_xact_callback(PgXactCallbackEvent::Abort, release);
    registry::hold(database, subscription_id);
    let deadline = Instant::now() + limit;
    loop {
        let is_there = |entry: &registry::Entry| entry.is_alive() || entry.is_arriving();
        match registry::find(database, subscription_id).filter(is_there) {
            None => return true,
            Some(_) if Instant::now() >= deadline => return false,
            Some(entry) => worker::terminate(entry.pid),
        }
        worker::pause(Duration::from_millis(20));
    }
}
