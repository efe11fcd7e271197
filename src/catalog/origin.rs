//! Which node a replication origin of this server stands for: `meld.origin`.

use meld_core::ids::NodeId;
use pgrx::prelude::PgSqlErrorCode;

use super::query;
use crate::log::{Failure, Result};
use crate::pg::xact::Xact;

/// The number of the origin of that name, which stands for `node`. Origin and row are made if they are not there, and
/// stay for good: the stamps of the rows that came by it are read through them.
pub fn ensure(xact: &Xact, origin_name: &str, node: NodeId) -> Result<u16> {
    let roident = crate::pg::origin::ensure(xact, origin_name);
    let args = [i64::from(roident).into(), i32::from(node.0).into(), origin_name.into()];
    let known = query::first(
        "SELECT node_id FROM meld.origin WHERE roident = $1::oid AND node_id = $2 AND origin_name = $3",
        &args,
        |row| row.get::<i32>(1),
    )?;
    if known.is_some() {
        return Ok(roident);
    }
    // an origin that was dropped by hand may have left its number or its name behind
    let other = query::first(
        "SELECT node_id FROM meld.origin WHERE (roident = $1::oid OR origin_name = $3) AND node_id <> $2",
        &args,
        |row| row.get::<i32>(1),
    )?;
    if let Some(other) = other {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("replication origin \"{origin_name}\" stood for node {other} before"),
        )
        .detail(format!("It is to stand for node {node} now; the stamps of old rows would change with it."))
        .hint("Give the subscription another name."));
    }
    query::execute(
        "DELETE FROM meld.origin WHERE roident = $1::oid OR origin_name = $2",
        &[i64::from(roident).into(), origin_name.into()],
    )?;
    query::execute("INSERT INTO meld.origin (roident, node_id, origin_name) VALUES ($1::oid, $2, $3)", &args)?;
    Ok(roident)
}
