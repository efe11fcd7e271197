//! Subscriptions: `sub_create`, `sub_drop`, `sub_enable`, `sub_disable`, and what of one can be altered.

use std::time::Duration;

use meld_core::names::LinkNames;
use pgrx::datum::Interval;
use pgrx::prelude::*;

use super::args;
use super::peer;
use super::repset_seq::warn_of_plain_keys_in_sets;
use crate::catalog::{Subscription, left_behind, node, subscription};
use crate::log::{Failure, Result, or_raise};
use crate::monitor::requirements;
use crate::pg::server::in_transaction_block;
use crate::pg::types::Name;
use crate::workers;

/// How long a worker may take to end before the caller is told.
const STOP_LIMIT: Duration = Duration::from_secs(20);

#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn sub_create(
    subscription_name: Option<Name>,
    provider_dsn: Option<String>,
    replication_sets: Option<Vec<Option<String>>>,
    synchronize_structure: Option<bool>,
    synchronize_data: Option<bool>,
    forward_origins: Option<Vec<Option<String>>>,
    apply_delay: Option<Interval>,
    force_text_transfer: Option<bool>,
    enabled: Option<bool>,
    skip_schema: Option<Vec<Option<String>>>,
) -> i32 {
    let check_options = || {
        let structure = args::given(synchronize_structure, "synchronize_structure")?;
        args::refuse_if(structure, "copying table definitions (synchronize_structure)")?;
        args::refuse_if(args::given(synchronize_data, "synchronize_data")?, "copying data (synchronize_data)")?;
        let forwarded = args::list(forward_origins, "forward_origins")?;
        args::refuse_if(!forwarded.is_empty(), "forwarding of other nodes' changes (forward_origins)")?;
        let delay_us = args::given(apply_delay, "apply_delay")?.as_micros();
        args::refuse_if(delay_us != 0, "delayed apply (apply_delay)")?;
        let force_text = args::given(force_text_transfer, "force_text_transfer")?;
        args::refuse_if(force_text, "forcing values to travel as text (force_text_transfer)")?;
        let skipped = args::list(skip_schema, "skip_schema")?;
        args::refuse_if(!skipped.is_empty(), "leaving out schemas (skip_schema)")
    };
    or_raise(create(subscription_name, provider_dsn, replication_sets, enabled, check_options))
}

fn create(
    subscription_name: Option<Name>,
    provider_dsn: Option<String>,
    replication_sets: Option<Vec<Option<String>>>,
    enabled: Option<bool>,
    check_options: impl FnOnce() -> Result<()>,
) -> Result<i32> {
    args::require_superuser("create a subscription")?;
    let name = args::new_name(subscription_name, "subscription_name")?;
    let dsn = args::dsn(provider_dsn, "provider_dsn")?;
    let sets = without_repeats(args::list(replication_sets, "replication_sets")?);
    let enabled = args::given(enabled, "enabled")?;
    check_options()?;
    let local = node::require_local()?;
    requirements::check()?;
    refuse_taken_name(&name)?;
    // the peer is asked before anything is locked: it may take a while
    let provider = peer::identity(&dsn)?;
    peer::check_copies(&local.identity, &provider, &dsn)?;
    peer::check_sets(&dsn, &provider.name, &sets)?;
    node::lock()?;
    refuse_taken_name(&name)?;
    peer::check_provider(&local.identity, &provider)?;
    refuse_overlap(&provider.name, &sets)?;
    let interface = register_provider(&provider, &dsn, &name)?;
    let link_name = LinkNames {
        database: &local.identity.database,
        subscriber: &local.identity.name,
        provider: &provider.name,
        subscription: &name,
    }
    .slot_name();
    let new = subscription::NewSubscription {
        name: &name,
        provider: provider.id,
        interface,
        enabled,
        link_name: &link_name,
        replication_sets: sets,
    };
    let id = subscription::insert(new)?;
    workers::wake_at_commit();
    warn_of_plain_keys_in_sets()?;
    Ok(id)
}

fn without_repeats(mut names: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

fn refuse_taken_name(name: &str) -> Result<()> {
    match subscription::by_name(name)? {
        None => Ok(()),
        Some(_) => Err(Failure::new(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("subscription \"{name}\" exists already"),
        )),
    }
}

/// A table that is in sets of two subscriptions would get each change twice.
fn refuse_overlap(provider: &str, sets: &[String]) -> Result<()> {
    for other in subscription::all()?.iter().filter(|other| other.provider.name == provider) {
        if let Some(set) = sets.iter().find(|set| other.replication_sets.contains(set)) {
            return Err(Failure::new(
                PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
                format!("subscription \"{}\" to node \"{provider}\" has replication set \"{set}\" already", other.name),
            ));
        }
    }
    Ok(())
}

/// Makes sure that the provider and this way to it are in the catalog; gives the interface's id.
fn register_provider(provider: &meld_core::ids::NodeIdentity, dsn: &str, subscription: &str) -> Result<i32> {
    if node::by_id(provider.id)?.is_none() {
        node::insert(provider, None, None, None)?;
    } else {
        node::update_identity(provider)?;
    }
    for interface_name in [provider.name.as_str(), subscription] {
        match node::interface(provider.id, interface_name)? {
            None => return node::add_interface(provider.id, interface_name, dsn),
            Some(interface) if interface.dsn == dsn => return Ok(interface.id),
            Some(interface) if node::interface_users(interface.id)?.is_empty() => {
                node::set_interface_dsn(interface.id, dsn)?;
                return Ok(interface.id);
            }
            Some(_) => {}
        }
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
        format!("node \"{}\" has interfaces \"{}\" and \"{subscription}\" already", provider.name, provider.name),
    )
    .hint("Choose another name for the subscription."))
}

pub(super) fn require_subscription(name: &str) -> Result<Subscription> {
    subscription::by_name(name)?.ok_or_else(|| no_such_subscription(name))
}

pub(super) fn no_such_subscription(name: &str) -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("subscription \"{name}\" does not exist"))
}

#[pg_extern(sql = false)]
fn sub_drop(subscription_name: Option<Name>, ifexists: Option<bool>) -> bool {
    or_raise(drop_subscription(subscription_name, ifexists))
}

fn drop_subscription(subscription_name: Option<Name>, ifexists: Option<bool>) -> Result<bool> {
    let name = args::name(subscription_name, "subscription_name")?;
    let ifexists = args::given(ifexists, "ifexists")?;
    node::lock()?;
    let Some(dropped) = subscription::by_name(&name)? else {
        return if ifexists { Ok(false) } else { Err(no_such_subscription(&name)) };
    };
    if in_transaction_block() {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            "meld.sub_drop cannot run inside a transaction block",
        )
        .detail("It drops the replication slot on the provider, which can't be undone."));
    }
    stop_now(&dropped)?;
    subscription::delete(dropped.id)?;
    left_behind::forget(dropped.provider.id)?;
    if let Err(failure) = peer::drop_slot(&dropped.dsn, &dropped.slot_name) {
        let cause = failure.message;
        Failure::new(
            PgSqlErrorCode::ERRCODE_WARNING,
            format!("could not drop replication slot \"{}\" on node \"{}\"", dropped.slot_name, dropped.provider.name),
        )
        .detail(format!("{cause}. The slot keeps write-ahead log there until it is dropped."))
        .hint(format!("Execute there: SELECT pg_drop_replication_slot('{}');", dropped.slot_name))
        .warn();
    }
    Ok(true)
}

/// Ends the subscription's worker, for as long as this transaction lasts.
fn stop_now(subscription: &Subscription) -> Result<()> {
    if workers::stop_until_end_of_transaction(subscription.id, STOP_LIMIT) {
        return Ok(());
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
        format!("the worker of subscription \"{}\" did not end in time", subscription.name),
    )
    .hint("Try again, or look for it in pg_stat_activity."))
}

#[pg_extern(sql = false)]
fn sub_enable(subscription_name: Option<Name>, immediate: Option<bool>) -> bool {
    or_raise(switch(subscription_name, immediate, true))
}

#[pg_extern(sql = false)]
fn sub_disable(subscription_name: Option<Name>, immediate: Option<bool>) -> bool {
    or_raise(switch(subscription_name, immediate, false))
}

/// A worker can be started only after the commit; `immediate` makes a difference to stopping it.
fn switch(subscription_name: Option<Name>, immediate: Option<bool>, enabled: bool) -> Result<bool> {
    let name = args::name(subscription_name, "subscription_name")?;
    let immediate = args::given(immediate, "immediate")?;
    if enabled {
        requirements::check()?;
    }
    node::lock()?;
    let switched = require_subscription(&name)?;
    if immediate && !enabled {
        stop_now(&switched)?;
    }
    subscription::set_enabled(switched.id, enabled)?;
    workers::wake_at_commit();
    Ok(true)
}

#[pg_extern(sql = false)]
fn sub_alter_interface(subscription_name: Option<Name>, interface_name: Option<Name>) -> bool {
    or_raise(alter_interface(subscription_name, interface_name))
}

fn alter_interface(subscription_name: Option<Name>, interface_name: Option<Name>) -> Result<bool> {
    args::require_superuser("change a subscription's interface")?;
    let name = args::name(subscription_name, "subscription_name")?;
    let interface_name = args::name(interface_name, "interface_name")?;
    node::lock()?;
    let altered = require_subscription(&name)?;
    let interface = node::interface(altered.provider.id, &interface_name)?.ok_or_else(|| {
        Failure::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("node \"{}\" has no interface \"{interface_name}\"", altered.provider.name),
        )
        .hint("Add it with meld.node_add_interface.")
    })?;
    subscription::set_interface(altered.id, interface.id)?;
    workers::wake_at_commit();
    Ok(true)
}

#[pg_extern(sql = false)]
fn sub_add_repset(subscription_name: Option<Name>, replication_set: Option<Name>) -> bool {
    or_raise(add_repset(subscription_name, replication_set))
}

fn add_repset(subscription_name: Option<Name>, replication_set: Option<Name>) -> Result<bool> {
    let name = args::name(subscription_name, "subscription_name")?;
    let set = args::name(replication_set, "replication_set")?;
    let asked = require_subscription(&name)?;
    peer::check_sets(&asked.dsn, &asked.provider.name, std::slice::from_ref(&set))?;
    node::lock()?;
    let altered = require_subscription(&name)?;
    refuse_overlap(&altered.provider.name, std::slice::from_ref(&set))?;
    let mut sets = altered.replication_sets;
    sets.push(set);
    subscription::set_replication_sets(altered.id, sets)?;
    workers::wake_at_commit();
    Ok(true)
}

#[pg_extern(sql = false)]
fn sub_remove_repset(subscription_name: Option<Name>, replication_set: Option<Name>) -> bool {
    or_raise(remove_repset(subscription_name, replication_set))
}

fn remove_repset(subscription_name: Option<Name>, replication_set: Option<Name>) -> Result<bool> {
    let name = args::name(subscription_name, "subscription_name")?;
    let set = args::name(replication_set, "replication_set")?;
    node::lock()?;
    let altered = require_subscription(&name)?;
    let mut sets = altered.replication_sets;
    let before = sets.len();
    sets.retain(|other| *other != set);
    if sets.len() == before {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("subscription \"{name}\" does not have replication set \"{set}\""),
        ));
    }
    subscription::set_replication_sets(altered.id, sets)?;
    workers::wake_at_commit();
    Ok(true)
}
