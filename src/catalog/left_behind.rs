//! Members that were away for too long: `meld.left_behind`.
//!
//! A row is written before the first deleted row is forgotten without the member, and stays until the subscription to it
//! is dropped, or the node. Until then neither stream between the two nodes starts.

use meld_core::horizon::must_resynchronize;
use meld_core::ids::NodeId;
use meld_core::time::Timestamp;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::PgSqlErrorCode;

use super::query;
use crate::log::{Failure, Result};

/// What a member had announced when it was left behind, and what was forgotten since.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeftBehind {
    pub promise: Timestamp,
    pub forgotten: Timestamp,
}

impl LeftBehind {
    /// Whether the member, which says that it has this horizon now, can't be let in.
    pub fn is_refused(&self, horizon: Timestamp) -> bool {
        must_resynchronize(self.promise.min(horizon), self.forgotten)
    }
}

pub fn of(node: NodeId) -> Result<Option<LeftBehind>> {
    let sql = "SELECT pg_catalog.timestamptz_send(promise), pg_catalog.timestamptz_send(forgotten) \
               FROM meld.left_behind WHERE node_id = $1";
    query::first(sql, &[i32::from(node.0).into()], |row| {
        Ok(LeftBehind { promise: query::time(row, 1)?, forgotten: query::time(row, 2)? })
    })
}

/// Notes that rows deleted up to `forgotten` are forgotten without a member that had announced a promise and a horizon.
pub fn note(node: NodeId, promise: Timestamp, horizon: Timestamp, forgotten: Timestamp) -> Result<()> {
    let time = |time: Timestamp| TimestampWithTimeZone::try_from(time.0).ok();
    let finite = |of: Timestamp| time(of).filter(|_| of != Timestamp::MIN);
    let args = [i32::from(node.0).into(), finite(promise).into(), finite(horizon).into(), time(forgotten).into()];
    // a catalog table takes no ON CONFLICT; the manager of the database is the only one that writes
    let insert = "INSERT INTO meld.left_behind (node_id, promise, horizon, forgotten) \
                  SELECT $1, coalesce($2, '-infinity'), coalesce($3, '-infinity'), $4 \
                  WHERE NOT EXISTS (SELECT FROM meld.left_behind WHERE node_id = $1)";
    query::execute(insert, &args)?;
    let raise = "UPDATE meld.left_behind SET forgotten = $2 WHERE node_id = $1 AND forgotten < $2";
    query::execute(raise, &[i32::from(node.0).into(), time(forgotten).into()])
}

/// The member is to be set up anew.
pub fn forget(node: NodeId) -> Result<()> {
    query::execute("DELETE FROM meld.left_behind WHERE node_id = $1", &[i32::from(node.0).into()])
}

/// What both ends of a link say to a node that was away for too long.
pub fn refusal(away: &str, present: &str) -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("node \"{away}\" was away for so long that node \"{present}\" has forgotten deleted rows without it"),
    )
    .detail(format!("What \"{away}\" missed could bring rows back that were deleted everywhere else."))
    .hint(format!(
        "Resynchronize: drop the subscriptions between \"{away}\" and all other nodes, and set \"{away}\" up anew from a \
         copy of one of them. A longer meld.tombstone_retention lets nodes be away for longer."
    ))
}
