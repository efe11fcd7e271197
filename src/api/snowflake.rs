//! Snowflake ids: `currval`, and the conversion of sequences and columns. `nextval` has no part here: the server calls
//! it directly.

use pgrx::prelude::*;

use super::args;
use super::repset_table::require_relation;
use crate::catalog::sequence;
use crate::log::{Failure, Result, or_raise};
use crate::pg::Oid;
use crate::pg::nextval;
use crate::pg::types::{Name, Regclass};
use crate::sequence::convert;

#[pg_extern(sql = false)]
fn snowflake_currval(sequence: Regclass) -> i64 {
    or_raise(current(sequence))
}

fn current(Regclass(oid): Regclass) -> Result<i64> {
    let name = sequence::shown(oid)?;
    if !sequence::may_look(oid)? {
        let message = format!("permission denied for sequence {name}");
        return Err(Failure::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message));
    }
    nextval::drawn(oid).ok_or_else(|| {
        Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("currval of sequence \"{name}\" is not yet defined in this session"),
        )
    })
}

#[pg_extern(sql = false)]
fn convert_sequence_to_snowflake(sequence: Option<Regclass>) -> bool {
    or_raise(args::given(sequence, "sequence").and_then(|Regclass(oid)| convert::to_snowflake(oid)))
}

#[pg_extern(sql = false)]
fn revert_sequence(sequence: Option<Regclass>) -> bool {
    or_raise(args::given(sequence, "sequence").and_then(|Regclass(oid)| convert::to_plain(oid)))
}

#[pg_extern(sql = false)]
fn convert_column_to_snowflake(relation: Option<Regclass>, column_name: Option<Name>) -> bool {
    or_raise(sequence_of(relation, column_name).and_then(convert::to_snowflake))
}

#[pg_extern(sql = false)]
fn revert_column(relation: Option<Regclass>, column_name: Option<Name>) -> bool {
    or_raise(sequence_of(relation, column_name).and_then(convert::to_plain))
}

/// The sequence that feeds a column.
fn sequence_of(relation: Option<Regclass>, column_name: Option<Name>) -> Result<Oid> {
    let Regclass(oid) = args::given(relation, "relation")?;
    let column = args::name(column_name, "column_name")?;
    let table = require_relation(oid)?;
    let shown = format!("column \"{column}\" of table \"{}.{}\"", table.schema, table.name);
    match sequence::of_column(oid, &column)? {
        None => Err(Failure::new(PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN, format!("{shown} does not exist"))),
        Some(None) => Err(Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("{shown} is not fed by a sequence"),
        )
        .detail("It is no identity column, and its default names no sequence as a regclass constant.")
        .hint("Give it the type bigint and the default snowflake.nextval(), which draws from snowflake.id_seq.")),
        Some(Some(sequence)) => Ok(sequence),
    }
}
