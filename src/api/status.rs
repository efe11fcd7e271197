//! Rows for people and views: `sub_show_status`, and the functions behind `progress`, `worker_status`, `conflict_stats`.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use meld_core::conflict::ConflictType;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

use super::args;
use super::subscription::no_such_subscription;
use crate::catalog::parked::{self, Standing};
use crate::catalog::{Subscription, subscription};
use crate::log::{Result, or_raise};
use crate::monitor::status::{self, position};
use crate::pg::types::{Name, PgLsn};
use crate::pg::worker;
use crate::pg::{Oid, ignored};
use crate::receiver::shown_dsn;
use crate::workers::registry::{self, Entry, WorkerState};

type StatusRow = (
    Name,
    String,
    Name,
    String,
    Name,
    Vec<String>,
    Vec<String>,
    Option<PgLsn>,
    Option<PgLsn>,
    Option<i32>,
    Option<String>,
    Option<String>,
    Option<PgLsn>,
    Option<String>,
);

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn sub_show_status(
    subscription_name: Option<Name>,
) -> TableIterator<
    'static,
    (
        name!(subscription_name, Name),
        name!(status, String),
        name!(provider_node, Name),
        name!(provider_dsn, String),
        name!(slot_name, Name),
        name!(replication_sets, Vec<String>),
        name!(forward_origins, Vec<String>),
        name!(received_lsn, Option<PgLsn>),
        name!(applied_lsn, Option<PgLsn>),
        name!(worker_pid, Option<i32>),
        name!(last_sqlstate, Option<String>),
        name!(last_error, Option<String>),
        name!(stands_at, Option<PgLsn>),
        name!(way_out, Option<String>),
    ),
> {
    TableIterator::new(or_raise(show_status(subscription_name)))
}

fn show_status(subscription_name: Option<Name>) -> Result<Vec<StatusRow>> {
    let shown = match subscription_name {
        None => subscription::all()?,
        Some(name) => {
            let name = args::name(Some(name), "subscription_name")?;
            vec![subscription::by_name(&name)?.ok_or_else(|| no_such_subscription(&name))?]
        }
    };
    let entries = registry::entries(worker::my_database());
    let row = |subscription: Subscription| {
        let entry = entries.iter().find(|entry| entry.subscription_id == subscription.id);
        let standing = parked::standing(subscription.id)?;
        Ok(status_row(subscription, entry, standing))
    };
    shown.into_iter().map(row).collect()
}

/// What is known of a transaction at which the subscription stands outlives the worker and the server.
fn status_row(subscription: Subscription, entry: Option<&Entry>, standing: Option<Standing>) -> StatusRow {
    let stands_at = standing.as_ref().map(|standing| PgLsn(standing.end_lsn));
    let way_out = standing.as_ref().map(|standing| {
        let name = subscription.name.replace('\'', "''");
        format!(
            "remove the cause, or SELECT meld.sub_alter_skiplsn('{name}', '{}'); then SELECT meld.sub_enable('{name}')",
            standing.end_lsn
        )
    });
    let (sqlstate, error) = match standing {
        Some(standing) => (Some(standing.sqlstate), Some(standing.message)),
        None => (entry.and_then(|entry| entry.sqlstate.clone()), entry.and_then(|entry| entry.error.clone())),
    };
    let progress = entry.map(|entry| registry::progress(entry.slot));
    (
        Name(subscription.name.clone()),
        status::subscription_status(&subscription, entry).to_owned(),
        Name(subscription.provider.name),
        shown_dsn(&subscription.dsn),
        Name(subscription.slot_name),
        subscription.replication_sets,
        subscription.forward_origins,
        progress.and_then(|progress| position(&progress.received_lsn)).map(PgLsn),
        progress.and_then(|progress| position(&progress.applied_lsn)).map(PgLsn),
        entry.filter(|entry| entry.is_alive()).map(|entry| entry.pid),
        sqlstate,
        error,
        stands_at,
        way_out,
    )
}

/// Of the running workers that have measured it.
#[pg_extern(sql = false)]
fn worker_clocks()
-> TableIterator<'static, (name!(subscription_id, i32), name!(offset_us, i64), name!(round_trip_us, i64))> {
    let measured = status::progress().into_iter().filter(|(entry, _)| entry.is_alive()).map(|(entry, progress)| {
        let get = |cell: &AtomicI64| cell.load(Ordering::Relaxed);
        (entry.subscription_id, get(&progress.clock_offset_us), get(&progress.clock_round_trip_us))
    });
    TableIterator::new(measured.filter(|&(_, _, round_trip_us)| round_trip_us >= 0))
}

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn worker_progress() -> TableIterator<
    'static,
    (
        name!(subscription_id, i32),
        name!(is_replicating, bool),
        name!(received_lsn, Option<PgLsn>),
        name!(applied_lsn, Option<PgLsn>),
        name!(flushed_lsn, Option<PgLsn>),
        name!(last_commit_ts, Option<TimestampWithTimeZone>),
        name!(applying_commit_ts, Option<TimestampWithTimeZone>),
        name!(transactions, i64),
        name!(inserts, i64),
        name!(updates, i64),
        name!(deletes, i64),
    ),
> {
    TableIterator::new(status::progress().into_iter().map(|(entry, progress)| {
        let count = |cell: &AtomicU64| cell.load(Ordering::Relaxed) as i64;
        let time = |cell: &AtomicI64| {
            Some(cell.load(Ordering::Relaxed))
                .filter(|&ts| ts != 0)
                .and_then(|ts| TimestampWithTimeZone::try_from(ts).ok())
        };
        (
            entry.subscription_id,
            entry.state == WorkerState::Replicating && entry.is_alive(),
            position(&progress.received_lsn).map(PgLsn),
            position(&progress.applied_lsn).map(PgLsn),
            position(&progress.flushed_lsn).map(PgLsn),
            time(&progress.last_commit_ts),
            time(&progress.applying_commit_ts),
            count(&progress.transactions),
            count(&progress.inserts),
            count(&progress.updates),
            count(&progress.deletes),
        )
    }))
}

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn worker_list() -> TableIterator<
    'static,
    (
        name!(worker_kind, String),
        name!(pid, i32),
        name!(database, Option<Oid>),
        name!(subscription_id, Option<i32>),
        name!(state, String),
    ),
> {
    TableIterator::new(
        status::workers()
            .into_iter()
            .map(|row| (row.kind.to_owned(), row.pid, row.database, row.subscription_id, row.state.to_owned())),
    )
}

#[pg_extern(sql = false)]
fn conflict_counts()
-> TableIterator<'static, (name!(subscription_id, i32), name!(conflict_type, String), name!(conflicts, i64))> {
    TableIterator::new(status::progress().into_iter().flat_map(|(entry, progress)| {
        let counts = ConflictType::ALL.into_iter().zip(&progress.conflicts);
        counts
            .map(|(kind, count)| (entry.subscription_id, kind.name().to_owned(), count.load(Ordering::Relaxed) as i64))
            .collect::<Vec<_>>()
    }))
}

/// Since the start of the server, in all of its databases; each stream counts what it meets.
#[pg_extern(sql = false)]
fn ignored_messages() -> i64 {
    i64::try_from(ignored::counted()).unwrap_or(i64::MAX)
}
