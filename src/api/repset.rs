//! Replication sets: `repset_create`, `repset_alter`, `repset_drop`.

use pgrx::prelude::*;

use super::args;
use super::repset_table::{announce, key_obstacle};
use crate::catalog::repset::{self, Actions, BUILT_IN, ReplicationSet};
use crate::catalog::{node, relation};
use crate::log::{Failure, Result, or_raise};
use crate::pg::server::invalidate_relation;
use crate::pg::types::Name;

/// Before PostgreSQL's own errors would name a table instead of the set.
pub(super) fn require_set(name: &str) -> Result<ReplicationSet> {
    repset::by_name(name)?.ok_or_else(|| {
        Failure::new(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("replication set \"{name}\" does not exist"))
    })
}

#[pg_extern(sql = false)]
fn repset_create(
    set_name: Option<Name>,
    replicate_insert: Option<bool>,
    replicate_update: Option<bool>,
    replicate_delete: Option<bool>,
    replicate_truncate: Option<bool>,
) -> i32 {
    or_raise(create(set_name, [replicate_insert, replicate_update, replicate_delete, replicate_truncate]))
}

const ACTION_ARGUMENTS: [&str; 4] = ["replicate_insert", "replicate_update", "replicate_delete", "replicate_truncate"];

fn create(set_name: Option<Name>, actions: [Option<bool>; 4]) -> Result<i32> {
    let name = args::new_name(set_name, "set_name")?;
    for (action, argument) in actions.into_iter().zip(ACTION_ARGUMENTS) {
        args::given(action, argument)?;
    }
    node::require_local()?;
    repset::lock()?;
    if repset::by_name(&name)?.is_some() {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("replication set \"{name}\" exists already"),
        ));
    }
    let [insert, update, delete, truncate] = actions.map(Option::unwrap_or_default);
    repset::insert(&name, Actions { insert, update, delete, truncate })
}

/// An action that is NULL stays as it is, as in Spock.
#[pg_extern(sql = false)]
fn repset_alter(
    set_name: Option<Name>,
    replicate_insert: Option<bool>,
    replicate_update: Option<bool>,
    replicate_delete: Option<bool>,
    replicate_truncate: Option<bool>,
) -> i32 {
    or_raise(alter(set_name, [replicate_insert, replicate_update, replicate_delete, replicate_truncate]))
}

fn alter(set_name: Option<Name>, actions: [Option<bool>; 4]) -> Result<i32> {
    let name = args::name(set_name, "set_name")?;
    node::require_local()?;
    repset::lock()?;
    let set = require_set(&name)?;
    let [insert, update, delete, truncate] = actions;
    let actions = Actions {
        insert: insert.unwrap_or(set.actions.insert),
        update: update.unwrap_or(set.actions.update),
        delete: delete.unwrap_or(set.actions.delete),
        truncate: truncate.unwrap_or(set.actions.truncate),
    };
    let tables = repset::tables(set.id)?;
    if actions.need_key() && !set.actions.need_key() {
        refuse_keyless(&name, &tables)?;
    }
    repset::set_actions(set.id, actions)?;
    tables.into_iter().for_each(invalidate_relation);
    Ok(set.id)
}

fn refuse_keyless(set_name: &str, tables: &[crate::pg::Oid]) -> Result<()> {
    let mut keyless = Vec::new();
    for &table in tables {
        let Some(relation) = relation::by_oid(table)? else { continue };
        if !relation.has_key {
            keyless.push(format!("\"{}.{}\"", relation.schema, relation.name));
        } else if let Some(failure) = key_obstacle(&relation) {
            return Err(failure);
        }
    }
    if keyless.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("replication set \"{set_name}\" has tables without a key, so it can't replicate updates or deletes"),
    )
    .detail(format!("Tables: {}.", keyless.join(", ")))
    .hint("Give them primary keys, or remove them from the set."))
}

#[pg_extern(sql = false)]
fn repset_drop(set_name: Option<Name>, ifexists: Option<bool>) -> bool {
    or_raise(drop_set(set_name, ifexists))
}

fn drop_set(set_name: Option<Name>, ifexists: Option<bool>) -> Result<bool> {
    let name = args::name(set_name, "set_name")?;
    let ifexists = args::given(ifexists, "ifexists")?;
    node::require_local()?;
    repset::lock()?;
    let Some(set) = repset::by_name(&name)? else {
        return if ifexists { Ok(false) } else { require_set(&name).map(|_| false) };
    };
    if BUILT_IN.contains(&name.as_str()) {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
            format!("cannot drop replication set \"{name}\", which every node has"),
        ));
    }
    let tables = repset::tables(set.id)?;
    repset::delete(set.id)?;
    tables.into_iter().try_for_each(announce)?;
    Ok(true)
}
