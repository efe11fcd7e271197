//! The supervisor's part: the record on disk follows the marks.

use std::time::{Duration, Instant};

use meld_core::ids::Xid;
use meld_core::time::Timestamp;

use super::high_water;
use crate::log::Result;
use crate::pg::trap::trap;
use crate::pg::{commit_ts, worker, xact};

/// While there is a node on this server.
const PERIOD: Duration = Duration::from_secs(1);
/// While there is none, so that the scan at the next start is short.
const IDLE_PERIOD: Duration = Duration::from_secs(300);

/// Writes the record from time to time.
#[derive(Default)]
pub struct Keeper {
    due: Option<Instant>,
    written: Option<(Timestamp, Xid)>,
    /// It was said that the record could not be written.
    failing: bool,
}

impl Keeper {
    /// Writes the record if it is time and there is something new. How long until the next call.
    pub fn keep(&mut self, has_node: bool) -> Duration {
        let now = Instant::now();
        let period = if has_node { PERIOD } else { IDLE_PERIOD };
        let due = self.due.unwrap_or(now).min(now + period);
        if now < due {
            return due - now;
        }
        self.due = Some(now + period);
        match self.write() {
            Ok(()) => self.failing = false,
            Err(_) if worker::shutdown_requested() => {}
            Err(failure) => {
                if !std::mem::replace(&mut self.failing, true) {
                    failure.warn();
                }
            }
        }
        period
    }

    fn write(&mut self) -> Result<()> {
        let high_water = trap(high_water::get)?;
        let is_new =
            |(written, next): (Timestamp, Xid)| high_water > Some(written) || next != Xid(commit_ts::next() as u32);
        if self.written.is_none_or(is_new) {
            self.written = Some(trap(|| xact::in_transaction(high_water::record))?);
        }
        Ok(())
    }
}
