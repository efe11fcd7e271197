//! What a subscriber asks for when the stream left a value or a row out: `fetch_row`, by key, and `fetch_parent`, by what
//! another row refers to it by.

use meld_core::ids::Xid;
use meld_core::time::Stamp;
use meld_core::value::Value;
use meld_core::version::LocalStamp;
use meld_core::wire::Column;
use pgrx::prelude::*;

use super::args;
use crate::catalog::{node, reference};
use crate::conflict::known::live_stamp;
use crate::conflict::writers::Writers;
use crate::log::{Failure, Result, or_raise};
use crate::pg::decoding_session::TextFormats;
use crate::pg::message::flush_all;
use crate::pg::present_row::{KeyColumn, PresentTable, user_table};
use crate::pg::server::{may_replicate, wait_until_ended};
use crate::pg::types::Name;

/// How often a row that others move about is looked for.
const PARENT_ROUNDS: usize = 20;

type ColumnRow = (String, Option<Vec<u8>>, i64, i32, bool);

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn fetch_row(
    nspname: Option<Name>,
    relname: Option<Name>,
    key_columns: Option<Vec<Option<String>>>,
    key_values: Option<pgrx::Array<'_, &[u8]>>,
    behind_xid: Option<i64>,
) -> TableIterator<
    'static,
    (
        name!(column_name, String),
        name!(column_value, Option<Vec<u8>>),
        name!(commit_us, i64),
        name!(node_id, i32),
        name!(is_known, bool),
    ),
> {
    let values = key_values.map(|values| values.iter().map(|value| value.map(<[u8]>::to_vec)).collect());
    TableIterator::new(or_raise(fetch(nspname, relname, key_columns, values, behind_xid)))
}

fn fetch(
    nspname: Option<Name>,
    relname: Option<Name>,
    key_columns: Option<Vec<Option<String>>>,
    key_values: Option<Vec<Option<Vec<u8>>>>,
    behind_xid: Option<i64>,
) -> Result<Vec<ColumnRow>> {
    check_right()?;
    let (schema, name) = (args::name(nspname, "nspname")?, args::name(relname, "relname")?);
    let columns = args::list(key_columns, "key_columns")?;
    let values = args::given(key_values, "key_values")?.into_iter().collect::<Option<Vec<Vec<u8>>>>();
    let key: Vec<KeyColumn> = match values {
        Some(values) if values.len() == columns.len() && !values.is_empty() => {
            columns.into_iter().zip(values).collect()
        }
        _ => return Err(not_a_key()),
    };
    let local = node::require_local()?;
    wait_behind(behind_xid)?;
    let mut table = PresentTable::open(user_table(&schema, &name)?, &key)?;
    let stamp = live_stamp(&mut table, &mut Writers::read(&local)?)?;
    // a commit can be seen before it is on disk, and be lost again with a crash: the stream never tells of such a one
    flush_all();
    let Some(stamp) = stamp else {
        table.close();
        return Ok(Vec::new());
    };
    let (stamp, is_known) = told(stamp)?;
    let (columns, values) = table.print();
    table.close();
    let owned = |value: Value| (value != Value::Null).then(|| value.bytes().to_vec());
    let values = values.values().map(owned);
    let one = |(column, value)| (column, value, stamp.commit_ts.0, i32::from(stamp.node.0), is_known);
    Ok(columns.into_iter().zip(values).map(one).collect())
}

type ParentColumnRow = (String, String, String, bool, bool, Option<Vec<u8>>, i64, i32, bool);

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn fetch_parent(
    nspname: Option<Name>,
    relname: Option<Name>,
    ref_columns: Option<Vec<Option<String>>>,
    ref_values: Option<pgrx::Array<'_, &[u8]>>,
    behind_xid: Option<i64>,
) -> TableIterator<
    'static,
    (
        name!(part_nspname, String),
        name!(part_relname, String),
        name!(column_name, String),
        name!(is_key, bool),
        name!(is_delta, bool),
        name!(column_value, Option<Vec<u8>>),
        name!(commit_us, i64),
        name!(node_id, i32),
        name!(is_known, bool),
    ),
> {
    let values = ref_values.map(|values| values.iter().map(|value| value.map(<[u8]>::to_vec)).collect());
    TableIterator::new(or_raise(parent(nspname, relname, ref_columns, values, behind_xid)))
}

/// The row that another one refers to. It is looked for by the values first and then by its key, both twice: only then
/// was it the same version that had the values.
fn parent(
    nspname: Option<Name>,
    relname: Option<Name>,
    ref_columns: Option<Vec<Option<String>>>,
    ref_values: Option<Vec<Option<Vec<u8>>>>,
    behind_xid: Option<i64>,
) -> Result<Vec<ParentColumnRow>> {
    check_right()?;
    let (schema, name) = (args::name(nspname, "nspname")?, args::name(relname, "relname")?);
    let columns = args::list(ref_columns, "ref_columns")?;
    let text = |value: Option<Vec<u8>>| value.map(|value| String::from_utf8_lossy(&value).into_owned());
    let values = args::given(ref_values, "ref_values")?.into_iter().map(text).collect::<Option<Vec<String>>>();
    let values = values.filter(|values| values.len() == columns.len() && !values.is_empty()).ok_or_else(not_a_key)?;
    let local = node::require_local()?;
    wait_behind(behind_xid)?;
    let whole = reference::table(&schema, &name)?.ok_or_else(|| {
        Failure::new(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, format!("table \"{schema}.{name}\" does not exist"))
    })?;
    let find = || {
        let mut formats = TextFormats::set();
        let place = reference::find(whole, &columns, &values);
        formats.restore();
        place
    };
    for _ in 0..PARENT_ROUNDS {
        let Some(place) = find()? else {
            flush_all();
            return Ok(Vec::new());
        };
        let key: Vec<KeyColumn> = place.key.iter().map(|(name, text)| (name.clone(), text.clone().into())).collect();
        let mut table = PresentTable::open(place.table, &key)?;
        let before = table.look();
        let is_it = before.is_some() && find()?.as_ref() == Some(&place);
        let stamp = live_stamp(&mut table, &mut Writers::read(&local)?)?;
        let same = is_it && table.look() == before;
        flush_all();
        let (Some(stamp), true) = (stamp, same) else {
            table.close();
            continue;
        };
        let (stamp, is_known) = told(stamp)?;
        let described = table.columns()?;
        let (_, printed) = table.print();
        table.close();
        let owned = |value: Value| (value != Value::Null).then(|| value.bytes().to_vec());
        let (ts, node) = (stamp.commit_ts.0, i32::from(stamp.node.0));
        let row = |(column, value): (Column, Value)| {
            let (schema, table) = (place.schema.clone(), place.name.clone());
            (schema, table, column.name, column.is_key, column.is_delta, owned(value), ts, node, is_known)
        };
        return Ok(described.into_iter().zip(printed.values()).map(row).collect());
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "row changed too often while it was looked for",
    ))
}

fn check_right() -> Result<()> {
    if may_replicate() {
        return Ok(());
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "permission denied to fetch rows for a subscriber",
    )
    .hint("Must be superuser or have the attribute REPLICATION."))
}

fn not_a_key() -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        "columns and values must be of one length, without nulls, and not empty",
    )
}

fn wait_behind(xid: Option<i64>) -> Result<()> {
    if let Some(xid) = xid {
        let xid = u32::try_from(xid).map_err(|_| {
            Failure::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "\"behind_xid\" is no transaction id")
        })?;
        wait_until_ended(Xid(xid));
    }
    Ok(())
}

/// A stamp, or the bound below which it was, and whether it is known.
fn told(stamp: LocalStamp) -> Result<(Stamp, bool)> {
    match stamp {
        LocalStamp::Known(stamp) => Ok((stamp, true)),
        LocalStamp::Before(bound) => Ok((bound, false)),
        LocalStamp::ThisTransaction => Err(Failure::new(
            PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            "a row that this transaction has written has no stamp yet",
        )),
    }
}
