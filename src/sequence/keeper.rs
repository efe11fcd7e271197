//! The keeper: a worker beside each database's manager, for what needs a look at other servers from time to time.
//!
//! * Is this server still the one that the node's connection string leads to, or a copy (`peers`)?
//! * How far have the providers drawn from the sequences that this node keeps up with (`positions`)?
//!
//! It is apart from the manager because it waits for other servers, and the manager's heartbeats must not wait with it.
//! The manager starts it, and ends it with the node. A provider that does not answer is no matter here: its link says so.

use std::collections::HashSet;
use std::time::Duration;

use meld_core::ids::NodeIdentity;
use pgrx::prelude::PgSqlErrorCode;

use super::{peers, positions};
use crate::catalog::{self, Subscription};
use crate::log::{Failure, Result};
use crate::pg::Oid;
use crate::pg::trap::trap;
use crate::pg::worker::{self, WorkerKind};
use crate::pg::xact::in_transaction;
use crate::settings;

pub const KEEPER: WorkerKind = WorkerKind { type_name: "meld keeper", function: "meld_keeper_main" };

crate::worker_entry!(meld_keeper_main => run);

struct Keeper {
    before: positions::Before,
    /// What was said once: sequences that can't be followed, and that this is a copy.
    said: HashSet<String>,
}

fn run(argument: i32) {
    worker::start(Oid::from(argument as u32));
    worker::set_for_session(c"lock_timeout", c"500ms");
    worker::set_for_session(c"search_path", c"");
    worker::set_for_session(c"default_transaction_isolation", c"read committed");
    let mut keeper = Keeper { before: positions::Before::new(), said: HashSet::new() };
    while !worker::shutdown_requested() {
        worker::reload_if_requested();
        match trap(|| keeper.go_round()) {
            Ok(true) => {}
            Ok(false) => return,
            // the extension is being dropped, or this is to end; the next round tells
            Err(_) => {}
        }
        worker::report_statistics(true);
        let interval = settings::SEQUENCE_SYNC_INTERVAL_MS.get().unsigned_abs();
        worker::wait(None, Some(Duration::from_millis(interval.into())));
    }
}

impl Keeper {
    /// False if the database has no node any more.
    fn go_round(&mut self) -> Result<bool> {
        let Some((local, dsns, subscriptions)) = in_transaction(|_| read_catalog())? else { return Ok(false) };
        if let Err(failure) = peers::check_not_a_copy(&local, &dsns, &mut interrupted) {
            self.say_once(failure);
            return Ok(true);
        }
        for subscription in subscriptions.iter().filter(|subscription| subscription.enabled && subscription.ready) {
            let Ok(found) = positions::ask(subscription, &mut interrupted) else { continue };
            for position in &found {
                let follow = || in_transaction(|_| positions::follow(subscription.id, position, &mut self.before));
                if let Err(failure) = trap(follow) {
                    self.say_once(failure);
                }
            }
        }
        Ok(true)
    }

    fn say_once(&mut self, failure: Failure) {
        if !worker::shutdown_requested() && self.said.insert(failure.message.clone()) {
            failure.warn();
        }
    }
}

type Known = (NodeIdentity, Vec<String>, Vec<Subscription>);

fn read_catalog() -> Result<Option<Known>> {
    if !catalog::node::installed()? {
        return Ok(None);
    }
    let Some(local) = catalog::node::local()? else { return Ok(None) };
    let dsns = catalog::node::dsns(local.identity.id)?;
    Ok(Some((local.identity, dsns, catalog::subscription::all()?)))
}

/// While another server is waited for.
fn interrupted() {
    worker::answer_interrupts();
    if worker::shutdown_requested() {
        Failure::new(PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN, "the keeper of meld is to end").raise();
    }
}
