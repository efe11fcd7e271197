//! Waiting: poll until something holds, with a deadline, and say what was last seen when it never did.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Enough for anything on a busy machine; a scenario that needs it all has failed anyway.
pub const DEADLINE: Duration = Duration::from_secs(60);

const POLL_EVERY: Duration = Duration::from_millis(20);

/// What one look saw.
pub enum Look<T> {
    Done(T),
    /// Not yet, and what was there instead.
    Seen(String),
}

/// Looks again and again until it is done. Panics at the deadline with what was seen last.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Look<T>) -> T {
    let start = Instant::now();
    loop {
        let seen = match look() {
            Look::Done(value) => return value,
            Look::Seen(seen) => seen,
        };
        if start.elapsed() > limit {
            panic!("waited {:.1} s for {what}; last seen: {seen}", start.elapsed().as_secs_f32());
        }
        pause();
    }
}

/// The rest between two looks, for loops that have an end of their own.
pub fn pause() {
    std::thread::sleep(POLL_EVERY);
}

/// Waits until `look` gives a value for which `holds` is true.
#[track_caller]
pub fn until_value<T: Debug>(what: &str, mut look: impl FnMut() -> T, holds: impl Fn(&T) -> bool) -> T {
    until(what, DEADLINE, || {
        let value = look();
        if holds(&value) { Look::Done(value) } else { Look::Seen(format!("{value:?}")) }
    })
}

/// Waits until `look` gives `expected`.
#[track_caller]
pub fn until_equal<T: Debug + PartialEq>(what: &str, expected: T, look: impl FnMut() -> T) {
    until_value(&format!("{what} = {expected:?}"), look, |value| *value == expected);
}
