//! The pruner: keeps the history of conflicts to the age of `meld.resolutions_retention`, a piece at a time.
//!
//! Runs in the manager, behind each heartbeat. Each piece is a transaction of its own, and a go ends soon, so that neither
//! a storm of conflicts that has come of age nor a long history, for which the setting was made shorter, keeps the manager
//! from its other work.

use std::time::{Duration, Instant};

use crate::catalog::resolution;
use crate::log::Result;
use crate::pg::{worker, xact};
use crate::settings;

/// Entries in one transaction.
const PIECE_ROWS: i64 = 1000;
/// How long one go takes.
const GO: Duration = Duration::from_millis(200);
/// Between two looks, when the history has no entry that is due.
const REST: Duration = Duration::from_secs(10);

pub struct Pruner {
    next_go: Instant,
    /// The setting at the last look.
    retention_s: i32,
}

impl Pruner {
    pub fn new() -> Pruner {
        Pruner { next_go: Instant::now(), retention_s: settings::RESOLUTIONS_RETENTION_S.get() }
    }

    /// Removes what is due, for a moment.
    pub fn go(&mut self) -> Result<()> {
        let started = Instant::now();
        let retention_s = settings::RESOLUTIONS_RETENTION_S.get();
        let is_new = std::mem::replace(&mut self.retention_s, retention_s) != retention_s;
        if retention_s < 0 || started < self.next_go && !is_new {
            return Ok(());
        }
        // in case that it fails, so that it does not fail every second
        self.next_go = started + REST;
        loop {
            if xact::in_transaction(|_| resolution::prune(retention_s, PIECE_ROWS))? < PIECE_ROWS {
                return Ok(());
            }
            if started.elapsed() >= GO || worker::shutdown_requested() {
                self.next_go = started;
                return Ok(());
            }
        }
    }
}
