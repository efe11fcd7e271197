//! Delta columns: `delta_add_column`, `delta_remove_column`.
//!
//! Both wait for those who write to the table, so that no transaction has some of its changes counted and others not, and
//! the change of the table's trigger finds nobody in its way.

use pgrx::prelude::*;

use super::args;
use super::repset_table::{announce, require_relation};
use crate::catalog::delta::{self, Column};
use crate::catalog::relation::{self, Relation};
use crate::catalog::{node, repset};
use crate::log::{Failure, Result, or_raise};
use crate::pg::counter::CounterType;
use crate::pg::server::lock_out_writers;
use crate::pg::types::{Name, Regclass};

#[pg_extern(sql = false)]
fn delta_add_column(relation: Option<Regclass>, column_name: Option<Name>) -> bool {
    or_raise(add_column(relation, column_name))
}

fn add_column(regclass: Option<Regclass>, column_name: Option<Name>) -> Result<bool> {
    let (relation, name) = subject(regclass, column_name)?;
    let tables = tables(&relation)?;
    let mut columns = Vec::with_capacity(tables.len());
    for table in &tables {
        lock_out_writers(table.oid);
        let column = require_column(table, &name)?;
        check(table, &name, &column)?;
        columns.push(column);
    }
    if columns.iter().all(|column| column.is_delta) {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("column \"{name}\" of table \"{}.{}\" is a delta column already", relation.schema, relation.name),
        ));
    }
    for (table, column) in tables.iter().zip(columns).filter(|(_, column)| !column.is_delta) {
        delta::add(table.oid, column.number)?;
        announce(table.oid)?;
    }
    Ok(true)
}

#[pg_extern(sql = false)]
fn delta_remove_column(relation: Option<Regclass>, column_name: Option<Name>) -> bool {
    or_raise(remove_column(relation, column_name))
}

fn remove_column(regclass: Option<Regclass>, column_name: Option<Name>) -> Result<bool> {
    let (relation, name) = subject(regclass, column_name)?;
    let mut removed = false;
    for table in tables(&relation)? {
        lock_out_writers(table.oid);
        let column = require_column(&table, &name)?;
        if column.is_delta {
            delta::remove(table.oid, column.number)?;
            announce(table.oid)?;
            removed = true;
        }
    }
    if removed {
        return Ok(true);
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        format!("column \"{name}\" of table \"{}.{}\" is not a delta column", relation.schema, relation.name),
    ))
}

/// The arguments, with the sets locked against change: they decide which triggers a table has.
fn subject(regclass: Option<Regclass>, column_name: Option<Name>) -> Result<(Relation, String)> {
    let Regclass(oid) = args::given(regclass, "relation")?;
    let name = args::name(column_name, "column_name")?;
    node::require_local()?;
    repset::lock()?;
    Ok((require_relation(oid)?, name))
}

/// The tables that hold the rows.
fn tables(relation: &Relation) -> Result<Vec<Relation>> {
    let wrong = |complaint: &str| {
        Failure::new(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("\"{}.{}\" {complaint}, so it can't have delta columns", relation.schema, relation.name),
        )
    };
    if relation.belongs_to_system {
        return Err(wrong("belongs to the server or to meld"));
    }
    match (relation.kind, relation.persistence) {
        ('r', 'p') => Ok(vec![relation.clone()]),
        ('p', _) => {
            let leaves = relation::leaves(relation.oid)?;
            if leaves.is_empty() { Err(wrong("has no partitions")) } else { Ok(leaves) }
        }
        ('r', _) => Err(wrong("is temporary or unlogged")),
        _ => Err(wrong("is not a table")),
    }
}

fn require_column(table: &Relation, name: &str) -> Result<Column> {
    delta::column(table.oid, name)?.ok_or_else(|| {
        Failure::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            format!("column \"{name}\" of table \"{}.{}\" does not exist", table.schema, table.name),
        )
    })
}

/// Makes a column of a new partition the counter that it is in those beside it.
pub(super) fn mark_counter(table: &Relation, name: &str) -> Result<()> {
    let column = require_column(table, name)?;
    if !column.is_delta {
        check(table, name, &column)?;
        delta::add(table.oid, column.number)?;
    }
    Ok(())
}

/// Refuses a column that can't be a counter.
fn check(table: &Relation, name: &str, column: &Column) -> Result<()> {
    let refuse = |code, complaint: &str| {
        Failure::new(code, format!("column \"{name}\" of table \"{}.{}\" {complaint}", table.schema, table.name))
    };
    use PgSqlErrorCode::{ERRCODE_DATATYPE_MISMATCH, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE};
    if CounterType::of(column.type_oid).is_none() {
        return Err(refuse(
            ERRCODE_DATATYPE_MISMATCH,
            &format!("has type {}, whose values can't be added up", column.type_name),
        )
        .hint("A delta column has type smallint, integer, bigint, real, double precision, numeric or money."));
    }
    let state = |complaint: &str| refuse(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, complaint);
    if column.is_generated {
        return Err(state("is generated").detail("Each node computes it by itself."));
    }
    if let Some(index) = &column.unique_index {
        return Err(state(&format!("is used by unique index \"{index}\""))
            .detail("What the nodes add up is not known when a row is written, so it can't be unique."));
    }
    if let Some(constraint) = &column.foreign_key {
        return Err(state(&format!("is part of foreign key \"{constraint}\"")));
    }
    if column.is_partition_key {
        return Err(state("is part of a partition key").detail("A row would have to move when a peer adds to it."));
    }
    if !column.is_not_null {
        return Err(state("may be null").hint(format!(
            "Execute ALTER TABLE \"{}\".\"{}\" ALTER COLUMN \"{name}\" SET NOT NULL first.",
            table.schema, table.name
        )));
    }
    Ok(())
}
