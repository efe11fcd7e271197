//! The tables of replication sets: `repset_add_table`, `repset_remove_table`, `repset_add_all_tables`.

use pgrx::prelude::*;

use super::args;
use super::repset::require_set;
use super::repset_seq::warn_of_plain_key;
use crate::catalog::node;
use crate::catalog::relation::{self, Relation};
use crate::catalog::repset::{self, ReplicationSet};
use crate::log::{Failure, Result, or_raise};
use crate::pg::key_bytes::column_without_bytes;
use crate::pg::server::{invalidate_relation, lock_out_writers};
use crate::pg::types::{Name, Regclass};
use crate::trigger;

#[pg_extern(sql = false)]
fn repset_add_table(
    set_name: Option<Name>,
    relation: Option<Regclass>,
    synchronize_data: Option<bool>,
    columns: Option<Vec<Option<String>>>,
    row_filter: Option<String>,
    include_partitions: Option<bool>,
) -> bool {
    let asked_for = [
        (synchronize_data == Some(true), SYNCHRONIZE),
        (columns.is_some(), COLUMNS),
        (row_filter.is_some(), ROW_FILTER),
    ];
    or_raise(add_table(set_name, relation, synchronize_data, &asked_for, include_partitions))
}

const SYNCHRONIZE: &str = "copying data (synchronize_data)";
const COLUMNS: &str = "replicating a choice of columns (columns)";
const ROW_FILTER: &str = "filtering rows (row_filter)";

fn add_table(
    set_name: Option<Name>,
    regclass: Option<Regclass>,
    synchronize_data: Option<bool>,
    asked_for: &[(bool, &str)],
    include_partitions: Option<bool>,
) -> Result<bool> {
    let name = args::name(set_name, "set_name")?;
    let Regclass(oid) = args::given(regclass, "relation")?;
    args::given(synchronize_data, "synchronize_data")?;
    let include_partitions = args::given(include_partitions, "include_partitions")?;
    for &(asked_for, what) in asked_for {
        args::refuse_if(asked_for, what)?;
    }
    node::require_local()?;
    if require_relation(oid)?.kind == 'p' {
        // no new partitions from here on
        lock_out_writers(oid);
    }
    repset::lock()?;
    let set = require_set(&name)?;
    let relation = require_relation(oid)?;
    if relation.kind == 'p' {
        if !include_partitions {
            return Err(wrong_kind(&relation, "is partitioned, and only its partitions hold rows")
                .hint("Add it with include_partitions, or add the partitions that are wanted."));
        }
        return add_leaves(&set, &relation);
    }
    check_table(&set, &relation)?;
    repset::forget(set.id, oid)?;
    if !repset::add_table(set.id, oid)? {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("table \"{}.{}\" is in replication set \"{name}\" already", relation.schema, relation.name),
        ));
    }
    announce(oid)?;
    warn_of_plain_key(oid)?;
    Ok(true)
}

/// The table's sets have changed: its trigger follows, and whoever knows them forgets.
pub(super) fn announce(table: crate::pg::Oid) -> Result<()> {
    trigger::follow_sets(table)?;
    invalidate_relation(table);
    Ok(())
}

pub(super) fn require_relation(oid: crate::pg::Oid) -> Result<Relation> {
    relation::by_oid(oid)?.ok_or_else(|| {
        Failure::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            format!("relation with OID {} does not exist", oid.to_u32()),
        )
    })
}

fn add_leaves(set: &ReplicationSet, parent: &Relation) -> Result<bool> {
    let leaves = relation::leaves(parent.oid)?;
    if leaves.is_empty() {
        return Err(wrong_kind(parent, "has no partitions"));
    }
    for leaf in &leaves {
        check_table(set, leaf)?;
    }
    repset::remember(set.id, parent.oid, true)?;
    for leaf in leaves {
        repset::forget(set.id, leaf.oid)?;
        repset::add_table(set.id, leaf.oid)?;
        announce(leaf.oid)?;
    }
    warn_of_plain_key(parent.oid)?;
    Ok(true)
}

/// Refuses what can't be replicated, or not in this set.
pub(super) fn check_table(set: &ReplicationSet, relation: &Relation) -> Result<()> {
    if relation.belongs_to_system {
        return Err(wrong_kind(relation, "belongs to the server or to meld"));
    }
    let complaint = match (relation.kind, relation.persistence) {
        ('r', 'p') => None,
        ('r', 't') => Some("is temporary"),
        ('r', _) => Some("is unlogged"),
        ('f', _) => Some("is a foreign table"),
        ('S', _) => Some("is a sequence"),
        ('p', _) => Some("is partitioned"),
        _ => Some("is not a table"),
    };
    if let Some(complaint) = complaint {
        return Err(wrong_kind(relation, complaint));
    }
    match obstacle(set, relation) {
        None => Ok(()),
        Some(obstacle) => Err(obstacle),
    }
}

/// Why an ordinary table can't be in this set.
fn obstacle(set: &ReplicationSet, relation: &Relation) -> Option<Failure> {
    let table = format!("table \"{}.{}\"", relation.schema, relation.name);
    if set.actions.need_key() && !relation.has_key {
        let failure = Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("{table} has no key, so its rows can't be found at a subscriber"),
        );
        let detail = format!("Replication set \"{}\" replicates updates or deletes.", set.name);
        return Some(failure.detail(detail).hint(
            "Give the table a primary key, or a replica identity index, \
             or add it to a set for inserts only, like \"default_insert_only\".",
        ));
    }
    if set.actions.need_key()
        && let Some(failure) = key_obstacle(relation)
    {
        return Some(failure);
    }
    let constraint = relation.lenient_constraint.as_ref()?;
    let failure = Failure::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("{table} can't be replicated with constraint \"{constraint}\""),
    );
    let detail = "It is an exclusion constraint or deferrable. When rows of two nodes clash, one has to go; which one can \
                  be told for unique constraints that are checked at once.";
    Some(failure.detail(detail).hint("Make it a unique constraint that is not deferrable, or drop it."))
}

/// Why the table's key can't serve to find its rows.
pub(super) fn key_obstacle(relation: &Relation) -> Option<Failure> {
    let column = column_without_bytes(relation.oid)?;
    let failure = Failure::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!(
            "table \"{}.{}\" can't be replicated with column \"{column}\" in its key",
            relation.schema, relation.name
        ),
    );
    let detail = "Values of its type, or under its collation, can be equal and yet differ in their bytes, by which \
                  deleted rows are known.";
    Some(failure.detail(detail).hint(
        "Make a unique index over columns of other types the table's replica identity, \
         or add the table to a set for inserts only.",
    ))
}

fn wrong_kind(relation: &Relation, complaint: &str) -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
        format!("\"{}.{}\" {complaint}, so it can't be replicated", relation.schema, relation.name),
    )
}

#[pg_extern(sql = false)]
fn repset_remove_table(set_name: Option<Name>, relation: Option<Regclass>, include_partitions: Option<bool>) -> bool {
    or_raise(remove_table(set_name, relation, include_partitions))
}

fn remove_table(set_name: Option<Name>, regclass: Option<Regclass>, include_partitions: Option<bool>) -> Result<bool> {
    let name = args::name(set_name, "set_name")?;
    let Regclass(oid) = args::given(regclass, "relation")?;
    let include_partitions = args::given(include_partitions, "include_partitions")?;
    node::require_local()?;
    repset::lock()?;
    let set = require_set(&name)?;
    let mut removed = repset::remove_table(set.id, oid)?;
    let relation = relation::by_oid(oid)?;
    if removed && relation.as_ref().is_some_and(|relation| relation.is_partition) {
        repset::remember(set.id, oid, false)?;
    } else {
        removed |= repset::forget(set.id, oid)?;
    }
    if include_partitions && relation.as_ref().is_some_and(|relation| relation.kind == 'p') {
        for leaf in relation::leaves(oid)? {
            if repset::remove_table(set.id, leaf.oid)? {
                removed = true;
                announce(leaf.oid)?;
            }
        }
    }
    if !removed {
        let shown = relation.map_or(oid.to_u32().to_string(), |table| format!("{}.{}", table.schema, table.name));
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("table \"{shown}\" is not in replication set \"{name}\""),
        ));
    }
    announce(oid)?;
    Ok(true)
}

#[pg_extern(sql = false)]
fn repset_add_all_tables(
    set_name: Option<Name>,
    schema_names: Option<Vec<Option<String>>>,
    synchronize_data: Option<bool>,
) -> bool {
    or_raise(add_all_tables(set_name, schema_names, synchronize_data))
}

fn add_all_tables(
    set_name: Option<Name>,
    schema_names: Option<Vec<Option<String>>>,
    synchronize_data: Option<bool>,
) -> Result<bool> {
    let name = args::name(set_name, "set_name")?;
    let schemas = args::list(schema_names, "schema_names")?;
    args::refuse_if(args::given(synchronize_data, "synchronize_data")?, SYNCHRONIZE)?;
    node::require_local()?;
    repset::lock()?;
    let set = require_set(&name)?;
    for schema in schemas {
        if !relation::schema_exists(&schema)? {
            return Err(Failure::new(
                PgSqlErrorCode::ERRCODE_INVALID_SCHEMA_NAME,
                format!("schema \"{schema}\" does not exist"),
            ));
        }
        for table in relation::ordinary_tables(&schema)? {
            if table.belongs_to_system {
                continue;
            }
            if let Some(obstacle) = obstacle(&set, &table) {
                let message = format!("table \"{}.{}\" is left out", table.schema, table.name);
                Failure::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, message).detail(obstacle.message).notice();
            } else if repset::add_table(set.id, table.oid)? {
                announce(table.oid)?;
                warn_of_plain_key(table.oid)?;
            }
        }
    }
    Ok(true)
}
