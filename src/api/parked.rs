//! What an operator does about transactions that could not be applied: `parked_replay`, `parked_discard`,
//! `sub_alter_skiplsn`.

use meld_core::ids::{NodeId, RelId};
use meld_core::wire::{FrameReader, Message};
use pgrx::prelude::*;
use std::collections::HashSet;

use super::args;
use super::subscription::require_subscription;
use crate::catalog::{node, parked};
use crate::log::{Failure, Result, or_raise};
use crate::pg::server::in_transaction_block;
use crate::pg::types::{Name, PgLsn};
use crate::workers::{self, replay};

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn parked_replay(
    origin: Option<Name>,
) -> TableIterator<'static, (name!(replayed, i64), name!(still_parked, i64), name!(first_error, Option<String>))> {
    TableIterator::once(or_raise(replay_parked(origin)))
}

fn replay_parked(origin: Option<Name>) -> Result<(i64, i64, Option<String>)> {
    args::require_superuser("replay parked transactions")?;
    // the worker would wait for what this transaction has locked, and this for the worker
    if in_transaction_block() {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            "meld.parked_replay cannot run inside a transaction block",
        ));
    }
    let origin = origin.map(|name| node_of(&name.0)).transpose()?;
    if !parked::try_lock_replay()? {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            "parked transactions are being replayed already",
        )
        .hint("Wait until the other call has ended."));
    }
    let asked: HashSet<i64> = parked::to_replay(origin)?.into_iter().map(|parked| parked.id).collect();
    if asked.is_empty() {
        return Ok((0, 0, None));
    }
    replay::run(origin)?;
    let left: Vec<(i64, Option<String>)> =
        parked::still_parked(origin)?.into_iter().filter(|(id, _)| asked.contains(id)).collect();
    let still_parked = left.len();
    let error = left.into_iter().find_map(|(_, error)| error);
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    Ok((count(asked.len() - still_parked), count(still_parked), error))
}

fn node_of(name: &str) -> Result<NodeId> {
    let found = node::by_name(name)?;
    found.map(|node| node.identity.id).ok_or_else(|| {
        Failure::new(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("node \"{name}\" does not exist"))
    })
}

#[pg_extern(sql = false)]
fn parked_discard(id: Option<i64>, force: Option<bool>) -> bool {
    or_raise(discard(id, force))
}

fn discard(id: Option<i64>, force: Option<bool>) -> Result<bool> {
    args::require_superuser("discard parked transactions")?;
    let id = args::given(id, "id")?;
    let force = args::given(force, "force")?;
    if !force && touches_a_counter(id)? {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("parked transaction {id} adds to delta columns"),
        )
        .detail("Without it, counters on this node would differ from those on the others for ever.")
        .hint("Replay it with meld.parked_replay, or discard it with force => true."));
    }
    if !parked::discard(id)? {
        return Err(parked::no_longer_parked(id));
    }
    Failure::new(
        PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        format!("parked transaction {id} was discarded, and its changes are lost on this node"),
    )
    .log();
    Ok(true)
}

/// Whether a counter would be different without the transaction.
fn touches_a_counter(id: i64) -> Result<bool> {
    let mut reader = FrameReader::new();
    let mut with_counters: HashSet<RelId> = HashSet::new();
    for chunk in 0.. {
        let Some(frame) = parked::chunk(id, chunk)? else { break };
        let messages = reader.read(&frame).map_err(|error| {
            Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, error.to_string())
                .hint("Discard it with force => true.")
        })?;
        for message in messages {
            match message {
                Message::Relation(relation) if relation.columns.iter().any(|column| column.is_delta) => {
                    with_counters.insert(relation.id);
                }
                Message::Insert(change) if with_counters.contains(&change.relation) => return Ok(true),
                Message::Update(change) if with_counters.contains(&change.relation) => return Ok(true),
                Message::Contribution(_) | Message::Void(_) => return Ok(true),
                _ => {}
            }
        }
    }
    Ok(false)
}

#[pg_extern(sql = false)]
fn sub_alter_skiplsn(subscription_name: Option<Name>, lsn: Option<PgLsn>) -> bool {
    or_raise(skip(subscription_name, lsn))
}

fn skip(subscription_name: Option<Name>, lsn: Option<PgLsn>) -> Result<bool> {
    args::require_superuser("skip a transaction")?;
    let name = args::name(subscription_name, "subscription_name")?;
    let PgLsn(lsn) = args::given(lsn, "lsn")?;
    node::lock()?;
    let subscription = require_subscription(&name)?;
    if !parked::set_skip_lsn(subscription.id, lsn)? {
        let failure = Failure::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("subscription \"{name}\" does not stand at a transaction that ends at {lsn}"),
        );
        return Err(match parked::standing(subscription.id)? {
            Some(standing) => failure.detail(format!("It stands at the one that ends at {}.", standing.end_lsn)),
            None => failure.detail("It stands at none."),
        });
    }
    workers::wake_at_commit();
    Ok(true)
}
