//! The sequences of replication sets: `repset_add_seq`, `repset_add_all_seqs`, `repset_remove_seq`, `sync_seq`; and the
//! warning of keys that an ordinary sequence feeds.

use pgrx::prelude::*;

use super::args;
use super::repset::require_set;
use super::repset_table::require_relation;
use crate::catalog::sequence_set::{self, PlainKey};
use crate::catalog::{node, relation, repset, sequence, subscription};
use crate::log::{Failure, Result, or_raise};
use crate::pg::Oid;
use crate::pg::nextval::Trouble;
use crate::pg::types::{Name, Regclass};
use crate::pg::worker::check_for_interrupts;
use crate::sequence::nextval::refusal;
use crate::sequence::positions::{self, Before};

/// Tables that one warning names.
const NAMED: usize = 20;

#[pg_extern(sql = false)]
fn repset_add_seq(set_name: Option<Name>, relation: Option<Regclass>, synchronize_data: Option<bool>) -> bool {
    or_raise(add_sequence(set_name, relation, synchronize_data))
}

fn add_sequence(set_name: Option<Name>, regclass: Option<Regclass>, synchronize_data: Option<bool>) -> Result<bool> {
    let name = args::name(set_name, "set_name")?;
    let Regclass(oid) = args::given(regclass, "relation")?;
    // its subscribers follow it in any case
    args::given(synchronize_data, "synchronize_data")?;
    node::require_local()?;
    repset::lock()?;
    let set = require_set(&name)?;
    let found = require_relation(oid)?;
    let shown = format!("{}.{}", found.schema, found.name);
    if found.belongs_to_system {
        let message = format!("\"{shown}\" belongs to the server or to meld, so it can't be replicated");
        return Err(Failure::new(PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE, message));
    }
    if let Some(obstacle) = obstacle(oid, &shown)? {
        return Err(obstacle);
    }
    if sequence_set::add(set.id, oid)? {
        return Ok(true);
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
        format!("sequence \"{shown}\" is in replication set \"{name}\" already"),
    ))
}

/// Why a sequence can't be in a set.
fn obstacle(oid: Oid, shown: &str) -> Result<Option<Failure>> {
    let Some(found) = sequence::by_oid(oid)? else { return Ok(Some(refusal(Trouble::NotASequence, shown))) };
    if found.persistence != 'p' {
        return Ok(Some(refusal(Trouble::NotPermanent, shown)));
    }
    let state = |complaint: &str| {
        let message = format!("sequence \"{shown}\" {complaint}");
        Some(Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message))
    };
    if sequence_set::is_converted(oid)? {
        let obstacle = state("gives snowflake ids, which no other node gives");
        return Ok(obstacle.map(|obstacle| obstacle.detail("There is nothing to keep up with.")));
    }
    if found.definition.cycle {
        let obstacle = state("begins anew at its end, so its values come again");
        return Ok(obstacle.map(|obstacle| obstacle.hint("Execute ALTER SEQUENCE ... NO CYCLE first.")));
    }
    Ok(None)
}

#[pg_extern(sql = false)]
fn repset_add_all_seqs(
    set_name: Option<Name>,
    schema_names: Option<Vec<Option<String>>>,
    synchronize_data: Option<bool>,
) -> bool {
    or_raise(add_all(set_name, schema_names, synchronize_data))
}

fn add_all(
    set_name: Option<Name>,
    schema_names: Option<Vec<Option<String>>>,
    synchronize_data: Option<bool>,
) -> Result<bool> {
    let name = args::name(set_name, "set_name")?;
    let schemas = args::list(schema_names, "schema_names")?;
    args::given(synchronize_data, "synchronize_data")?;
    node::require_local()?;
    repset::lock()?;
    let set = require_set(&name)?;
    for schema in schemas {
        if !relation::schema_exists(&schema)? {
            let message = format!("schema \"{schema}\" does not exist");
            return Err(Failure::new(PgSqlErrorCode::ERRCODE_INVALID_SCHEMA_NAME, message));
        }
        for oid in sequence_set::of_schema(&schema)? {
            let found = require_relation(oid)?;
            if found.belongs_to_system {
                continue;
            }
            let shown = format!("{}.{}", found.schema, found.name);
            match obstacle(oid, &shown)? {
                None => {
                    sequence_set::add(set.id, oid)?;
                }
                Some(obstacle) => {
                    let message = format!("sequence \"{shown}\" is left out");
                    Failure::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, message)
                        .detail(obstacle.message)
                        .notice();
                }
            }
        }
    }
    Ok(true)
}

#[pg_extern(sql = false)]
fn repset_remove_seq(set_name: Option<Name>, relation: Option<Regclass>) -> bool {
    or_raise(remove_sequence(set_name, relation))
}

fn remove_sequence(set_name: Option<Name>, regclass: Option<Regclass>) -> Result<bool> {
    let name = args::name(set_name, "set_name")?;
    let Regclass(oid) = args::given(regclass, "relation")?;
    node::require_local()?;
    repset::lock()?;
    let set = require_set(&name)?;
    if sequence_set::remove(set.id, oid)? {
        return Ok(true);
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        format!("sequence \"{}\" is not in replication set \"{name}\"", sequence::shown(oid)?),
    ))
}

#[pg_extern(sql = false)]
fn sync_seq(relation: Option<Regclass>) -> bool {
    or_raise(synchronize(relation))
}

fn synchronize(regclass: Option<Regclass>) -> Result<bool> {
    args::require_superuser("synchronize a sequence")?;
    let Regclass(oid) = args::given(regclass, "relation")?;
    node::require_local()?;
    let found = require_relation(oid)?;
    let shown = format!("{}.{}", found.schema, found.name);
    if let Some(obstacle) = obstacle(oid, &shown)? {
        return Err(obstacle);
    }
    let mut has_provider = false;
    for subscription in subscription::all()?.iter().filter(|subscription| subscription.enabled) {
        let doing = format!("could not ask node \"{}\" for its sequences", subscription.provider.name);
        let positions = positions::ask(subscription, &mut check_for_interrupts)
            .map_err(|error| args::link_failure(&error, Some(&doing)))?;
        let of_this = |position: &&positions::Position| {
            (position.schema.as_str(), position.name.as_str()) == (found.schema.as_str(), found.name.as_str())
        };
        if let Some(position) = positions.iter().find(of_this) {
            has_provider = true;
            positions::follow(subscription.id, position, &mut Before::new())?;
        }
    }
    if has_provider {
        return Ok(true);
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("no provider of this node has sequence \"{shown}\" in a replication set that is subscribed to"),
    )
    .hint("Add it there with meld.repset_add_seq."))
}

/// Warns of a table that goes into a set of a node that is subscribed to others, which may draw the same keys.
pub(super) fn warn_of_plain_key(table: Oid) -> Result<()> {
    if !subscription::all()?.is_empty() {
        warn_of(&sequence_set::plain_keys(table)?);
    }
    Ok(())
}

/// The same of all tables that are in a set when a node is subscribed to.
pub(super) fn warn_of_plain_keys_in_sets() -> Result<()> {
    warn_of(&sequence_set::plain_keys_in_sets()?);
    Ok(())
}

fn warn_of(keys: &[PlainKey]) {
    let [first, ..] = keys else { return };
    let message = match keys {
        [PlainKey { schema, table, column, .. }] => {
            format!("key column \"{column}\" of table \"{schema}.{table}\" is fed by an ordinary sequence")
        }
        _ => format!("keys of {} tables in replication sets are fed by ordinary sequences", keys.len()),
    };
    let calls: Vec<&str> = keys.iter().take(NAMED).map(|key| key.conversion.as_str()).collect();
    let lines = if keys.len() == 1 {
        format!("Execute {} on each node.", first.conversion)
    } else {
        format!("Execute on each node:\n{};", calls.join(";\n"))
    };
    Failure::new(PgSqlErrorCode::ERRCODE_WARNING, message)
        .detail("Other nodes draw the same values from sequences of their own, so that one of two rows with one key is lost.")
        .hint(lines)
        .warn();
}
