//! How far a peer's stream is durable here.
//!
//! Transactions are committed asynchronously: the commit returns before its WAL is on disk. Each commit is noted with
//! its end in both logs; once the local WAL is flushed past the local end, the remote end may be reported, and the
//! provider may forget everything before it. Pure: the worker brings the positions.

use std::collections::VecDeque;

use meld_core::lsn::Lsn;

/// Commits between two notes that are merged into one, so that a long catch-up holds few of them.
const MERGE_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub struct Feedback {
    /// Commits that may not be durable yet: (end at the provider, end here), both rising.
    pending: VecDeque<(Lsn, Lsn)>,
    /// Everything at the provider up to here has been applied, or was nothing for us.
    applied: Lsn,
    /// The same, and is durable.
    flushed: Lsn,
}

impl Feedback {
    /// `durable`: where the stream starts, so everything before it is durable.
    pub fn new(durable: Lsn) -> Feedback {
        Feedback { pending: VecDeque::new(), applied: durable, flushed: durable }
    }

    /// A remote transaction that ends at `remote_end` was committed, up to `local_end` of the local log.
    pub fn committed(&mut self, remote_end: Lsn, local_end: Lsn) {
        self.applied = self.applied.max(remote_end);
        let count = self.pending.len();
        if count >= 2 {
            // the last note may move forward as long as it stays near the one before it
            let before = self.pending[count - 2];
            if local_end.0.saturating_sub(before.1.0) < MERGE_BYTES {
                self.pending[count - 1] = (remote_end, local_end);
                return;
            }
        }
        self.pending.push_back((remote_end, local_end));
    }

    /// Everything that was committed at the provider before `end` has been received and applied.
    pub fn passed(&mut self, end: Lsn) {
        self.applied = self.applied.max(end);
    }

    /// The local log is on disk up to `local_flush`.
    pub fn flushed_here(&mut self, local_flush: Lsn) {
        while let Some(&(remote_end, local_end)) = self.pending.front()
            && local_end <= local_flush
        {
            self.flushed = self.flushed.max(remote_end);
            self.pending.pop_front();
        }
        if self.pending.is_empty() {
            self.flushed = self.flushed.max(self.applied);
        }
    }

    pub fn applied(&self) -> Lsn {
        self.applied
    }

    pub fn flushed(&self) -> Lsn {
        self.flushed
    }

    /// Whether something is applied and not known to be durable.
    pub fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_reported_when_its_own_wal_is_on_disk() {
        let mut feedback = Feedback::new(Lsn(100));
        feedback.committed(Lsn(200), Lsn(1_000));
        feedback.committed(Lsn(300), Lsn(2_000));
        feedback.flushed_here(Lsn(999));
        assert_eq!((feedback.applied(), feedback.flushed()), (Lsn(300), Lsn(100)));
        feedback.flushed_here(Lsn(1_000));
        assert_eq!(feedback.flushed(), Lsn(200));
        feedback.flushed_here(Lsn(2_000));
        assert_eq!(feedback.flushed(), Lsn(300));
        assert!(!feedback.is_waiting());
    }

    #[test]
    fn what_is_nothing_for_us_is_reported_only_behind_what_is_durable() {
        let mut feedback = Feedback::new(Lsn(100));
        feedback.committed(Lsn(200), Lsn(1_000));
        feedback.passed(Lsn(500));
        feedback.flushed_here(Lsn(0));
        assert_eq!((feedback.applied(), feedback.flushed()), (Lsn(500), Lsn(100)));
        feedback.flushed_here(Lsn(1_000));
        assert_eq!(feedback.flushed(), Lsn(500));
    }

    #[test]
    fn merged_notes_never_report_too_much() {
        let mut feedback = Feedback::new(Lsn(0));
        for i in 1..=10_000 {
            feedback.committed(Lsn(i * 10), Lsn(i * 100));
        }
        assert!(feedback.pending.len() < 10);
        for flush in (0..1_000_000).step_by(777) {
            feedback.flushed_here(Lsn(flush));
            assert!(feedback.flushed().0 <= flush / 10, "{flush}");
        }
    }
}
