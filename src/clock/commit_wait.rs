//! In front of a local commit: it waits for a clock that was stepped back, or fails.
//!
//! In the usual case this is one look at an atomic and one at the clock. Only when the clock has not passed the high
//! water is it asked whether this database is a node at all. Deferred triggers have run by then, and the statement can
//! be cancelled while it waits; it holds its locks.

use std::time::{Duration, Instant};

use meld_core::clock::{LocalWait, local_wait};
use meld_core::time::Timestamp;
use pgrx::prelude::PgSqlErrorCode;

use super::high_water;
use crate::log::{Failure, Result, or_raise};
use crate::pg::{clock, local_node, worker};
use crate::settings;

/// Two commits within one tick of the clock are nothing to talk about.
const TICK_US: i64 = 1000;
/// The clock may be set right while somebody waits.
const LONGEST_NAP: Duration = Duration::from_millis(100);

pub fn before_commit() {
    if let Some(high_water) = or_raise(high_water::get())
        && clock::now() <= high_water
    {
        or_raise(wait());
    }
}

#[cold]
fn wait() -> Result<()> {
    let started = Instant::now();
    let mut is_bound = false;
    loop {
        let (now, Some(high_water)) = (clock::now(), high_water::get()?) else { return Ok(()) };
        let behind_us = high_water.0.saturating_sub(now.0);
        if (0..TICK_US).contains(&behind_us) {
            clock::nap_us(behind_us + 1);
            continue;
        }
        if !is_bound && behind_us >= 0 {
            // VACUUM's rows are the server's own
            if worker::is_autovacuum() || !local_node::is_here() {
                return Ok(());
            }
            is_bound = true;
        }
        let limit_ms = settings::COMMIT_WAIT_LIMIT_MS.get().unsigned_abs();
        let waited_ms = u32::try_from(started.elapsed().as_millis()).unwrap_or(u32::MAX);
        match local_wait(now, high_water, waited_ms, limit_ms) {
            LocalWait::Commit => return Ok(()),
            LocalWait::WaitUntil(Timestamp(until)) => {
                let nap = Duration::from_micros(until.saturating_sub(now.0).unsigned_abs());
                worker::pause(nap.clamp(Duration::from_millis(1), LONGEST_NAP));
            }
            LocalWait::Fail { behind_us } => return Err(too_far(behind_us, limit_ms)),
        }
    }
}

fn too_far(behind_us: i64, limit_ms: u32) -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_SYSTEM_ERROR,
        "cannot commit because the clock of this server was stepped back",
    )
    .detail(format!(
        "The clock is {} ms behind the latest timestamp that was committed or announced here, and a commit waits for it \
         for at most {limit_ms} ms (meld.commit_wait_limit). With an earlier timestamp the transaction would lose \
         against what it has seen.",
        behind_us / 1000
    ))
    .hint("Set the clock of the server right, or try again when it has passed that timestamp.")
}
