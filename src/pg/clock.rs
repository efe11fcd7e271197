//! The server's clock, which commit timestamps are read from.

use meld_core::time::Timestamp;
use pgrx::pg_sys;

pub fn now() -> Timestamp {
    // SAFETY: reads the system's clock
    Timestamp(unsafe { pg_sys::GetCurrentTimestamp() })
}

/// Sleeps for a moment that is too short to be interrupted.
pub fn nap_us(microseconds: i64) {
    // SAFETY: sleeps
    unsafe { pg_sys::pg_usleep(microseconds) }
}
