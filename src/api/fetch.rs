//! What a subscriber asks for when the stream left a value or a row out: `fetch_row`.

use meld_core::ids::Xid;
use meld_core::value::Value;
use meld_core::version::LocalStamp;
use pgrx::prelude::*;

use super::args;
use crate::catalog::node;
use crate::conflict::known::live_stamp;
use crate::conflict::writers::Writers;
use crate::log::{Failure, Result, or_raise};
use crate::pg::message::flush_all;
use crate::pg::present_row::{KeyColumn, PresentTable, user_table};
use crate::pg::server::{may_replicate, wait_until_ended};
use crate::pg::types::Name;

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
    if !may_replicate() {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied to fetch rows for a subscriber",
        )
        .hint("Must be superuser or have the attribute REPLICATION."));
    }
    let (schema, name) = (args::name(nspname, "nspname")?, args::name(relname, "relname")?);
    let columns = args::list(key_columns, "key_columns")?;
    let values = args::given(key_values, "key_values")?.into_iter().collect::<Option<Vec<Vec<u8>>>>();
    let key: Vec<KeyColumn> = match values {
        Some(values) if values.len() == columns.len() && !values.is_empty() => {
            columns.into_iter().zip(values).collect()
        }
        _ => {
            return Err(Failure::new(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                "\"key_columns\" and \"key_values\" must be of one length, without nulls, and not empty",
            ));
        }
    };
    let local = node::require_local()?;
    if let Some(xid) = behind_xid {
        let xid = u32::try_from(xid).map_err(|_| {
            Failure::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "\"behind_xid\" is no transaction id")
        })?;
        wait_until_ended(Xid(xid));
    }
    let mut table = PresentTable::open(user_table(&schema, &name)?, &key)?;
    let stamp = live_stamp(&mut table, &mut Writers::read(&local)?)?;
    // a commit can be seen before it is on disk, and be lost again with a crash: the stream never tells of such a one
    flush_all();
    let Some(stamp) = stamp else {
        table.close();
        return Ok(Vec::new());
    };
    let (stamp, is_known) = match stamp {
        LocalStamp::Known(stamp) => (stamp, true),
        LocalStamp::Before(bound) => (bound, false),
        LocalStamp::ThisTransaction => {
            return Err(Failure::new(
                PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
                "a row that this transaction has written has no stamp yet",
            ));
        }
    };
    let (columns, values) = table.print();
    table.close();
    let owned = |value: Value| (value != Value::Null).then(|| value.bytes().to_vec());
    let values = values.values().map(owned);
    let one = |(column, value)| (column, value, stamp.commit_ts.0, i32::from(stamp.node.0), is_known);
    Ok(columns.into_iter().zip(values).map(one).collect())
}
