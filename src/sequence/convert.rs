//! From an ordinary sequence to snowflake ids, and back.
//!
//! A sequence is converted together with all columns that it feeds, in one transaction, or not at all. What can't be is
//! refused before anything is changed, with the reason. The sequence keeps its name: it becomes the place where the last
//! id stands, and the server's own `nextval` finds no next value in it any more (`pg::nextval::MARK`). Columns become
//! bigint and get their default from `snowflake.nextval`; an identity becomes an ordinary default, since the server
//! would go on to draw from its sequence by itself.
//!
//! Undone, a sequence counts on from where it had been, which no id has reached; columns stay bigint, for the ids in them.

use pgrx::prelude::PgSqlErrorCode;

use crate::catalog::sequence::{self, Definition, FedColumn, Feed, Sequence};
use crate::log::{Failure, Result};
use crate::pg::Oid;
use crate::pg::counter::CounterType;
use crate::pg::nextval::{MARK, Trouble};

use super::nextval::refusal;

const SNOWFLAKE: &str = "snowflake.nextval";
/// The extension's own sequence, for those who need no other.
const OWN: &str = "snowflake.id_seq";
const PLAIN: &str = "pg_catalog.nextval";

/// Converts; false if there was nothing left to do.
pub fn to_snowflake(oid: Oid) -> Result<bool> {
    let found = require(oid)?;
    let columns = sequence::fed_columns(oid)?;
    let is_marked = found.definition.increment == MARK;
    let wanted: Vec<FedColumn> = columns.into_iter().filter(|column| column.feed != Feed::Snowflake).collect();
    if is_marked && wanted.is_empty() {
        return Ok(false);
    }
    for column in &wanted {
        check(column, &found)?;
    }
    for column in wanted.iter().filter(|column| is_narrow(column) && !column.is_inherited) {
        let message = format!("column \"{}\" of table {} becomes bigint", column.name, column.quoted_table);
        let detail = format!(
            "It was {}. The table and its indexes are rewritten, and nobody can use it meanwhile.",
            column.type_name
        );
        Failure::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, message).detail(detail).notice();
        sequence::widen(column)?;
    }
    if let Some(left) = sequence::fed_columns(oid)?.iter().find(|column| is_narrow(column)) {
        return Err(cannot(left, "has the type of a column of the table above")
            .hint("Give that one the type bigint first, with ALTER TABLE.")
            .detail(format!("It is {}, and snowflake ids are bigint.", left.type_name)));
    }
    let (sequence, always) = match wanted.iter().find_map(|column| identity(column).map(|always| (column, always))) {
        None => (oid, None),
        Some((column, always)) => {
            if always {
                let message =
                    format!("column \"{}\" of table {} is no identity any more", column.name, column.quoted_table);
                Failure::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, message)
                    .detail("It was GENERATED ALWAYS; now values can be given for it.")
                    .notice();
            }
            (sequence::drop_identity(column, &found)?, Some(always))
        }
    };
    if !is_marked {
        sequence::remember(sequence, &found.definition, always)?;
        sequence::define(&found.quoted, &marked(&found.definition))?;
    }
    for column in &wanted {
        sequence::set_default(column, SNOWFLAKE, &found.quoted)?;
    }
    Ok(true)
}

/// Undoes a conversion; false if the sequence is an ordinary one.
pub fn to_plain(oid: Oid) -> Result<bool> {
    let found = require(oid)?;
    if found.definition.increment != MARK {
        return Ok(false);
    }
    if found.quoted == OWN {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("sequence \"{OWN}\" is there for snowflake ids only"),
        ));
    }
    let (was, always) = sequence::remembered(oid)?.ok_or_else(|| {
        Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("what sequence \"{}\" was before its conversion is not known", found.quoted),
        )
        .detail("It was converted in a database of which this one is a copy or a restored dump.")
        .hint(
            "Execute ALTER SEQUENCE with INCREMENT and RESTART, to where it is to count from, and set the defaults of its \
             columns with ALTER TABLE.",
        )
    })?;
    let columns: Vec<FedColumn> =
        sequence::fed_columns(oid)?.into_iter().filter(|column| column.feed == Feed::Snowflake).collect();
    let owner = columns.iter().find(|column| !column.is_inherited);
    // its columns are bigint by now, and stay that
    let back = Definition { type_name: "bigint".to_owned(), ..was };
    match (always, owner) {
        (Some(always), Some(column)) => {
            for inherited in columns.iter().filter(|other| other.is_inherited) {
                sequence::drop_default(inherited)?;
            }
            sequence::make_identity(column, &found.quoted, always)?;
        }
        _ => {
            for column in &columns {
                sequence::set_default(column, PLAIN, &found.quoted)?;
            }
            sequence::forget(oid)?;
        }
    }
    sequence::define(&found.quoted, &back)?;
    Ok(true)
}

fn require(oid: Oid) -> Result<Sequence> {
    match sequence::by_oid(oid)? {
        Some(found) if found.persistence == 'p' => Ok(found),
        Some(found) => Err(refusal(Trouble::NotPermanent, &found.quoted)),
        None => Err(refusal(Trouble::NotASequence, &sequence::shown(oid)?)),
    }
}

/// What a converted sequence is defined as. The value is one from which the mark leads out of all bounds.
fn marked(was: &Definition) -> Definition {
    Definition {
        type_name: "bigint".to_owned(),
        increment: MARK,
        max: i64::MAX,
        cycle: false,
        last_value: was.last_value.max(was.min).max(1),
        is_called: true,
        ..was.clone()
    }
}

fn identity(column: &FedColumn) -> Option<bool> {
    match column.feed {
        Feed::Identity { always } => Some(always),
        Feed::Plain | Feed::Snowflake | Feed::Expression => None,
    }
}

fn is_narrow(column: &FedColumn) -> bool {
    matches!(CounterType::of(column.type_oid), Some(CounterType::Int2 | CounterType::Int4))
}

/// Refuses a column that can't get snowflake ids.
fn check(column: &FedColumn, sequence: &Sequence) -> Result<()> {
    if column.feed == Feed::Expression {
        return Err(cannot(column, "has a default that does more than draw from the sequence").hint(format!(
            "Write {SNOWFLAKE}('{}') into that default yourself.",
            sequence.quoted.replace('\'', "''")
        )));
    }
    let is_wide = matches!(CounterType::of(column.type_oid), Some(CounterType::Int8 | CounterType::Numeric));
    if !is_narrow(column) && !is_wide {
        return Err(cannot(column, "is of another type")
            .detail(format!("It is {}, and snowflake ids are bigint.", column.type_name))
            .hint("Give it the type bigint first, with ALTER TABLE."));
    }
    let references = sequence::narrow_references(column)?;
    if !references.is_empty() {
        return Err(cannot(column, "is referenced by columns that are too small")
            .detail(format!("Columns: {}.", references.join(", ")))
            .hint("Give them the type bigint first, with ALTER TABLE."));
    }
    let views = sequence::views_of(column)?;
    if is_narrow(column) && !views.is_empty() {
        return Err(cannot(column, "is used by views, so its type can't be changed")
            .detail(format!("Views: {}. It is {}, and snowflake ids are bigint.", views.join(", "), column.type_name))
            .hint("Drop the views, and make them again afterwards."));
    }
    Ok(())
}

fn cannot(column: &FedColumn, complaint: &str) -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("column \"{}\" of table {} {complaint}", column.name, column.quoted_table),
    )
}
