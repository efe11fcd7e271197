//! The wait that keeps stamps in the order of cause and effect.
//!
//! A remote transaction is committed here only after this node's clock has passed its commit timestamp: whoever sees
//! its rows and writes to them gets a later one, so the write wins everywhere, as it should. With clocks in step the
//! wait is over before it begins.

use std::time::Duration;

use meld_core::ids::NodeId;
use meld_core::time::Timestamp;
use pgrx::prelude::PgSqlErrorCode;

use crate::log::{Failure, Result};
use crate::pg::{clock, worker};

/// A peer that is ahead by more is reported.
const REPORTED_SKEW_US: i64 = 2_000_000;
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// Returns once the local clock is past `commit_ts`, or fails if the worker is to end meanwhile.
pub fn wait_until_past(commit_ts: Timestamp, origin: NodeId) -> Result<()> {
    let mut ahead_us = commit_ts.0 - clock::now().0;
    if ahead_us >= REPORTED_SKEW_US {
        Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("clock of node {origin} is {} ms ahead of this node's", ahead_us / 1000),
        )
        .detail("Its transaction is applied when the clock here has passed the transaction's commit timestamp.")
        .hint("Synchronize the clocks of both servers.")
        .warn();
    }
    while ahead_us >= 0 {
        let nap = Duration::from_micros(ahead_us.unsigned_abs() + 1).min(LONGEST_NAP);
        // the server's waits count whole milliseconds
        if worker::wait(None, Some(nap.max(Duration::from_millis(1)))).shutdown {
            return Err(Failure::new(PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN, "apply worker was asked to end"));
        }
        ahead_us = commit_ts.0 - clock::now().0;
    }
    Ok(())
}
