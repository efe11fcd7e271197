//! The wait that keeps stamps in the order of cause and effect, and word of a peer whose clock is ahead.
//!
//! A remote transaction is committed here only after this node's clock has passed its commit timestamp: whoever sees
//! its rows and writes to them gets a later one, so the write wins everywhere, as it should. With clocks in step the
//! wait is over before it begins.
//!
//! A clock that is ahead by more than `meld.max_clock_skew` is reported when it is first seen, by a transaction or by the
//! measured offset, and again when it has come back; what happens meanwhile is `meld.max_clock_skew_action`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use meld_core::clock::{ApplyWait, Offset, SkewAction, Skewed, apply_wait};
use meld_core::ids::NodeId;
use meld_core::time::Timestamp;
use pgrx::prelude::PgSqlErrorCode;

use crate::log::{Failure, Result};
use crate::pg::{clock, worker};
use crate::settings;

const LONGEST_NAP: Duration = Duration::from_secs(1);
/// A node is no longer reported as ahead when it was not seen to be for this long: transactions that queued up while one
/// had to wait are not ahead any more when their turn comes.
const CALM: Duration = Duration::from_secs(10);

thread_local! {
    /// Nodes that were reported as ahead, and when each was last seen to be.
    static AHEAD: RefCell<BTreeMap<NodeId, Instant>> = const { RefCell::new(BTreeMap::new()) };
}

/// Returns once the local clock is past `latest`, the largest of a transaction's commit timestamp and the stamps of what
/// was fetched for it. Fails if the worker is to end meanwhile, or if such a transaction of `origin` is to be refused.
pub fn wait_until_past(latest: Timestamp, origin: NodeId) -> Result<()> {
    let mut is_first_look = true;
    loop {
        let now = clock::now();
        let until = match apply_wait(now, latest, max_skew_ms(), action()) {
            ApplyWait::Commit => {
                if is_first_look {
                    note_in_step(origin);
                }
                return Ok(());
            }
            ApplyWait::WaitUntil(until) => until,
            ApplyWait::Skewed { ahead_us, then } => {
                note_ahead(origin, ahead_us);
                match then {
                    Skewed::WaitUntil(until) => until,
                    Skewed::CommitAnyway => return Ok(()),
                    Skewed::Refuse => return Err(ahead(origin, ahead_us)),
                }
            }
        };
        is_first_look = false;
        // the server's waits count whole milliseconds
        let nap = Duration::from_micros(until.0.saturating_sub(now.0).unsigned_abs());
        if worker::wait(None, Some(nap.clamp(Duration::from_millis(1), LONGEST_NAP))).shutdown {
            return Err(Failure::new(PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN, "apply worker was asked to end"));
        }
        worker::reload_if_requested();
    }
}

/// The provider's clock was measured. Fails if its transactions are to be refused.
pub fn note_offset(provider: NodeId, offset: Offset) -> Result<()> {
    let ahead_us = offset.at_least_us();
    if ahead_us <= i64::from(max_skew_ms()) * 1000 {
        note_in_step(provider);
        return Ok(());
    }
    note_ahead(provider, ahead_us);
    if action() == SkewAction::Error { Err(ahead(provider, ahead_us)) } else { Ok(()) }
}

fn max_skew_ms() -> u32 {
    settings::MAX_CLOCK_SKEW_MS.get().unsigned_abs()
}

fn action() -> SkewAction {
    settings::MAX_CLOCK_SKEW_ACTION.get().into()
}

fn note_ahead(node: NodeId, ahead_us: i64) {
    let is_known = AHEAD.with_borrow_mut(|all| all.insert(node, Instant::now()).is_some());
    // a refusal is reported as the error that ends the worker
    if !is_known && action() != SkewAction::Error {
        ahead(node, ahead_us).warn();
    }
}

fn note_in_step(node: NodeId) {
    let has_come_back = AHEAD.with_borrow_mut(|all| {
        let calm = all.get(&node).is_some_and(|seen| seen.elapsed() >= CALM);
        calm && all.remove(&node).is_some()
    });
    if has_come_back {
        Failure::new(
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            format!("clock of node {node} is no longer ahead of this node's by more than meld.max_clock_skew"),
        )
        .log();
    }
}

fn ahead(node: NodeId, ahead_us: i64) -> Failure {
    let what = match action() {
        SkewAction::Wait => {
            "Its transactions are applied when the clock here has passed their commit timestamps \
             (meld.max_clock_skew_action is \"wait\")."
        }
        SkewAction::Warn => {
            "Its transactions are applied at once (meld.max_clock_skew_action is \"warn\"): a write here after one of \
             them may get an earlier stamp and lose against it."
        }
        SkewAction::Error => {
            "Its transactions are not applied (meld.max_clock_skew_action is \"error\"); the link is tried again."
        }
    };
    Failure::new(
        PgSqlErrorCode::ERRCODE_SYSTEM_ERROR,
        format!("clock of node {node} is {} ms ahead of this node's", ahead_us / 1000),
    )
    .detail(what)
    .hint("Synchronize the clocks of both servers.")
}
