//! Waiting for something with a deadline. The only place in this crate that sleeps.

use crate::run;
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Asks `probe` until it gives a value. An error of the probe ends the wait, None means "not yet".
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        run::ensure_not_interrupted()?;
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {} s in vain for {what}", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// One short pause of a loop that has a deadline of its own and must go on when interrupted (clearing up).
pub fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}
