//! Clock rules: apply waits for the clock, and a node's own commits never go back.
//!
//! Together they make every local write later than all that was seen before it, whatever the clocks say (causality). The
//! functions are given the time; they read no clock.

mod offset;
mod record;

use crate::time::Timestamp;

pub use offset::{Offset, Offsets, Sample};
pub use record::{Record, Recovery};

/// `meld.max_clock_skew_action`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SkewAction {
    Wait,
    Warn,
    Error,
}

/// What an apply worker does before it commits a remote transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApplyWait {
    Commit,
    /// Until the local clock reads this.
    WaitUntil(Timestamp),
    /// The peer's clock is further ahead than `max_clock_skew`. Report it, and then:
    Skewed {
        ahead_us: i64,
        then: Skewed,
    },
}

/// What follows the report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Skewed {
    WaitUntil(Timestamp),
    /// Later local writes may carry an earlier stamp than what they saw.
    CommitAnyway,
    /// Keep the link in retry.
    Refuse,
}

/// Before the commit of a remote transaction: the local clock has to pass its timestamp, and those of the rows that it
/// fetched (`latest` is the largest of them).
pub fn apply_wait(now: Timestamp, latest: Timestamp, max_skew_ms: u32, action: SkewAction) -> ApplyWait {
    if now > latest {
        return ApplyWait::Commit;
    }
    let ahead_us = latest.0.saturating_sub(now.0);
    let until = Timestamp(latest.0.saturating_add(1));
    if ahead_us <= i64::from(max_skew_ms) * 1000 {
        return ApplyWait::WaitUntil(until);
    }
    let then = match action {
        SkewAction::Wait => Skewed::WaitUntil(until),
        SkewAction::Warn => Skewed::CommitAnyway,
        SkewAction::Error => Skewed::Refuse,
    };
    ApplyWait::Skewed { ahead_us, then }
}

/// What a local commit does when the clock was stepped back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocalWait {
    Commit,
    WaitUntil(Timestamp),
    /// The clock is further behind than `commit_wait_limit`; `behind_us` says how far.
    Fail {
        behind_us: i64,
    },
}

/// Before a local commit. `high_water` is the largest timestamp committed or applied here, ever; `waited_ms` the time this
/// commit has waited already.
pub fn local_wait(now: Timestamp, high_water: Timestamp, waited_ms: u32, limit_ms: u32) -> LocalWait {
    if now > high_water {
        return LocalWait::Commit;
    }
    let behind_us = high_water.0.saturating_sub(now.0);
    let left_ms = limit_ms.saturating_sub(waited_ms);
    if behind_us >= i64::from(left_ms) * 1000 {
        return LocalWait::Fail { behind_us };
    }
    LocalWait::WaitUntil(earliest_commit(now, high_water))
}

/// The timestamp of a local commit that has waited for as long as it must.
pub fn earliest_commit(now: Timestamp, high_water: Timestamp) -> Timestamp {
    now.max(Timestamp(high_water.0.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: i64) -> Timestamp {
        Timestamp(ms * 1000)
    }

    #[test]
    fn with_clocks_in_step_nobody_waits() {
        assert_eq!(apply_wait(ms(11), ms(10), 2000, SkewAction::Wait), ApplyWait::Commit);
        assert_eq!(local_wait(ms(11), ms(10), 0, 10_000), LocalWait::Commit);
    }

    #[test]
    fn a_small_skew_is_waited_out_under_every_action() {
        for action in [SkewAction::Wait, SkewAction::Warn, SkewAction::Error] {
            let until = Timestamp(ms(12).0 + 1);
            assert_eq!(apply_wait(ms(11), ms(12), 2000, action), ApplyWait::WaitUntil(until));
            assert_eq!(apply_wait(ms(12), ms(12), 0, action), ApplyWait::WaitUntil(until), "equal is not passed");
            assert_eq!(apply_wait(until, ms(12), 0, action), ApplyWait::Commit);
        }
    }

    #[test]
    fn a_large_skew_is_reported_and_handled_as_set() {
        let at = |action| match apply_wait(ms(0), ms(5000), 2000, action) {
            ApplyWait::Skewed { ahead_us: 5_000_000, then } => then,
            other => panic!("{other:?}"),
        };
        assert_eq!(at(SkewAction::Wait), Skewed::WaitUntil(Timestamp(5_000_001)));
        assert_eq!(at(SkewAction::Warn), Skewed::CommitAnyway);
        assert_eq!(at(SkewAction::Error), Skewed::Refuse);
    }

    #[test]
    fn a_clock_stepped_back_is_waited_for_up_to_the_limit() {
        let until = Timestamp(ms(20).0 + 1);
        assert_eq!(local_wait(ms(11), ms(20), 0, 10), LocalWait::WaitUntil(until));
        assert_eq!(local_wait(ms(15), ms(20), 4, 10), LocalWait::WaitUntil(until));
        assert_eq!(local_wait(ms(11), ms(20), 2, 10), LocalWait::Fail { behind_us: 9000 });
        assert_eq!(local_wait(ms(11), ms(20), 0, 0), LocalWait::Fail { behind_us: 9000 });
        assert_eq!(earliest_commit(ms(11), ms(20)), until);
        assert_eq!(earliest_commit(ms(30), ms(20)), ms(30));
    }
}
