//! Waiting: `sync_event`, `wait_for_sync_event`, `sub_wait_for_sync`, `wait_slot_confirm_lsn`.
//!
//! All poll, since what they wait for is another process's shared memory, and can be cancelled at any time.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use meld_core::lsn::Lsn;
use pgrx::prelude::*;

use super::args;
use super::subscription::no_such_subscription;
use crate::catalog::{node, slot, subscription};
use crate::log::{Failure, Result, or_raise};
use crate::monitor::status::is_replicating;
use crate::pg::server::{give_up_snapshots, with_latest_snapshot};
use crate::pg::types::{Call, Name, PgLsn};
use crate::pg::{message, worker};
use crate::workers::registry;

const PAUSE: Duration = Duration::from_millis(20);
/// How often the catalog is read again while waiting.
const LOOK: Duration = Duration::from_millis(500);

#[pg_extern(sql = false)]
fn sync_event() -> PgLsn {
    PgLsn(or_raise(emit_sync_event()))
}

/// Every transaction of this node that is committed by now ends before the position that is returned. The message
/// behind it makes sure that the subscribers pass that position soon, also on an idle node.
fn emit_sync_event() -> Result<Lsn> {
    node::require_local()?;
    let lsn = message::insert_position();
    message::emit_sync_event(lsn)?;
    Ok(lsn)
}

#[pg_extern(sql = false)]
fn wait_for_sync_event(origin: Option<Name>, lsn: Option<PgLsn>, timeout: Option<i32>, call: Call) {
    or_raise(wait_for_event(origin, lsn, timeout, call));
}

fn wait_for_event(origin: Option<Name>, lsn: Option<PgLsn>, timeout: Option<i32>, call: Call) -> Result<()> {
    let origin = args::name(origin, "origin")?;
    let PgLsn(lsn) = args::given(lsn, "lsn")?;
    let timeout_s = args::given(timeout, "timeout")?;
    let timeout_s = u64::try_from(timeout_s).map_err(|_| {
        Failure::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "argument \"timeout\" must not be negative")
            .hint("Use 0 to wait without a limit.")
    })?;
    let deadline = (timeout_s > 0).then(|| Instant::now() + Duration::from_secs(timeout_s));
    let database = worker::my_database();
    loop {
        let ids = with_latest_snapshot(|| subscriptions_to(&origin))?;
        give_up_snapshots(call);
        let next_look = Instant::now() + LOOK;
        while Instant::now() < next_look {
            let entries = registry::entries(database);
            let applied = |id: &i32| {
                let entry = entries.iter().find(|entry| entry.subscription_id == *id);
                entry.map_or(Lsn::ZERO, |entry| Lsn(registry::progress(entry.slot).applied_lsn.load(Ordering::Acquire)))
            };
            let reached = ids.iter().map(applied).min().unwrap_or_default();
            if reached >= lsn {
                return Ok(());
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(Failure::new(
                    PgSqlErrorCode::ERRCODE_QUERY_CANCELED,
                    format!(
                        "timed out after {timeout_s} s while waiting for node \"{origin}\" to be applied up to {lsn}"
                    ),
                )
                .detail(format!("Applied up to {reached}."))
                .hint("See meld.sub_show_status() for the state of the subscription."));
            }
            worker::pause(PAUSE);
        }
    }
}

/// The enabled subscriptions to a node, at least one.
fn subscriptions_to(origin: &str) -> Result<Vec<i32>> {
    node::require_local()?;
    let all: Vec<_> = subscription::all()?.into_iter().filter(|s| s.provider.name == origin).collect();
    if all.is_empty() {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("this node has no subscription to a node \"{origin}\""),
        ));
    }
    let enabled: Vec<i32> = all.iter().filter(|s| s.enabled).map(|s| s.id).collect();
    if enabled.is_empty() {
        return Err(disabled(&all[0].name));
    }
    Ok(enabled)
}

fn disabled(name: &str) -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("subscription \"{name}\" is disabled"),
    )
    .hint("Enable it with meld.sub_enable.")
}

#[pg_extern(sql = false)]
fn sub_wait_for_sync(subscription_name: Option<Name>) {
    or_raise(wait_for_sync(subscription_name));
}

fn wait_for_sync(subscription_name: Option<Name>) -> Result<()> {
    let name = args::name(subscription_name, "subscription_name")?;
    let database = worker::my_database();
    loop {
        let waited_for = with_latest_snapshot(|| subscription::by_name(&name))?;
        let waited_for = waited_for.ok_or_else(|| no_such_subscription(&name))?;
        if !waited_for.enabled {
            return Err(disabled(&name));
        }
        let next_look = Instant::now() + LOOK;
        while Instant::now() < next_look {
            if registry::find(database, waited_for.id).is_some_and(|entry| is_replicating(&entry)) {
                return Ok(());
            }
            worker::pause(PAUSE);
        }
    }
}

/// NULL stands for all slots of meld in this database, and for the end of the WAL, as in Spock.
#[pg_extern(sql = false)]
fn wait_slot_confirm_lsn(slot_name: Option<Name>, target: Option<PgLsn>) {
    or_raise(wait_slot(slot_name, target));
}

fn wait_slot(slot_name: Option<Name>, target: Option<PgLsn>) -> Result<()> {
    let name = slot_name.map(|name| args::name(Some(name), "slot_name")).transpose()?;
    let target = target.map_or_else(message::insert_position, |PgLsn(lsn)| lsn);
    loop {
        let positions = with_latest_snapshot(|| slot::confirmed(name.as_deref()))?;
        if let (true, Some(name)) = (positions.is_empty(), &name) {
            return Err(Failure::new(
                PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                format!("logical replication slot \"{name}\" does not exist in this database"),
            ));
        }
        if positions.into_iter().all(|confirmed| confirmed >= target) {
            return Ok(());
        }
        worker::pause(Duration::from_millis(100));
    }
}
