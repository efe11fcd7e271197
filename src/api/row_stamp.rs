//! `row_stamp`: when and where a row was last written, or deleted, as this node knows it.

use meld_core::time::Timestamp;
use meld_core::version::LocalStamp;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

use super::args;
use super::repset_table::require_relation;
use crate::catalog::node;
use crate::catalog::relation::Relation;
use crate::catalog::row_keys;
use crate::conflict::known::{Known, known};
use crate::conflict::writers::Writers;
use crate::log::{Failure, Result, or_raise};
use crate::pg::present_row::{PresentTable, key_names};
use crate::pg::types::{JsonbText, Regclass};

type StampRow = (Option<TimestampWithTimeZone>, Option<i32>, bool);

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn row_stamp(
    relation: Option<Regclass>,
    key: Option<JsonbText>,
) -> TableIterator<
    'static,
    (name!(commit_ts, Option<TimestampWithTimeZone>), name!(node_id, Option<i32>), name!(is_tombstone, bool)),
> {
    TableIterator::new(or_raise(stamp(relation, key)))
}

fn stamp(regclass: Option<Regclass>, key: Option<JsonbText>) -> Result<Option<StampRow>> {
    let Regclass(oid) = args::given(regclass, "relation")?;
    let JsonbText(key) = args::given(key, "key")?;
    let local = node::require_local()?;
    let relation = require_relation(oid)?;
    require_rights(&relation)?;
    let key = row_keys::read(&key)?;
    let table = match relation.kind {
        'p' => {
            check_names(&relation, &row_keys::partition_columns(oid)?, &key, false)?;
            match row_keys::partition(oid, &key)? {
                Some(leaf) => leaf,
                None => return Ok(None),
            }
        }
        _ => oid,
    };
    check_names(&relation, &key_names(table)?, &key, true)?;
    let key: Vec<_> = key.into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
    let mut table = PresentTable::open(table, &key)?;
    let mut writers = Writers::read(&local)?;
    let known = known(&mut table, &mut writers)?;
    table.close();
    let node = |node: meld_core::ids::NodeId| Some(i32::from(node.0));
    Ok(match known {
        Known::Nothing => None,
        Known::Live(LocalStamp::Known(stamp)) => Some((time(stamp.commit_ts)?, node(stamp.node), false)),
        // it gets its timestamp at the commit
        Known::Live(LocalStamp::ThisTransaction) => Some((None, node(writers.local_node), false)),
        Known::Live(LocalStamp::Before(_)) => Some((None, None, false)),
        Known::Dead(Some(stamp)) => Some((time(stamp.commit_ts)?, node(stamp.node), true)),
        Known::Dead(None) => Some((None, node(writers.local_node), true)),
    })
}

fn time(time: Timestamp) -> Result<Option<TimestampWithTimeZone>> {
    let out_of_range = |_| Failure::new(PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW, "timestamp out of range");
    TimestampWithTimeZone::try_from(time.0).map(Some).map_err(out_of_range)
}

/// Who may read the table may ask, but for rows that a policy may hide from him.
fn require_rights(relation: &Relation) -> Result<()> {
    let denied = |what: String| Failure::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, what);
    let name = format!("\"{}.{}\"", relation.schema, relation.name);
    let rights = row_keys::rights(relation.oid)?;
    if !rights.may_select {
        return Err(denied(format!("permission denied for table {name}")));
    }
    if rights.is_row_security_active {
        return Err(denied(format!("row-level security may hide rows of {name}"))
            .hint("Ask as the table's owner, or as a role with BYPASSRLS."));
    }
    Ok(())
}

/// The key has to name these columns, and, if it is all of it, no others.
fn check_names(relation: &Relation, columns: &[String], key: &[(String, String)], is_all: bool) -> Result<()> {
    if columns.is_empty() {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table \"{}.{}\" has no key by which a row could be told", relation.schema, relation.name),
        ));
    }
    let has_all = columns.iter().all(|column| key.iter().any(|(name, _)| name == column));
    if has_all && (!is_all || key.len() == columns.len()) {
        return Ok(());
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("argument \"key\" does not name the key columns of \"{}.{}\"", relation.schema, relation.name),
    )
    .detail(format!("These are \"{}\".", columns.join("\", \"")))
    .hint("Give them as an object, like {\"id\": 1}, with values that are not null."))
}
