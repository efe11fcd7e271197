//! Heartbeats of the provider, until they count.
//!
//! A promise and a horizon count here only when everything that the provider sent before them is durable here. So nothing
//! that this node tells others, who forget tombstones for it, is taken back by a crash: the heartbeat has to come again
//! then, behind the changes before it. The manager of the database reads what counts from the registry.

use std::collections::VecDeque;

use meld_core::lsn::Lsn;

use crate::pg::{clock, origin};
use crate::workers::registry::{self, Announcement};

/// A heartbeat and the end of the last commit here before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Waiting {
    commit_end: Lsn,
    says: Announcement,
}

/// Heartbeats that may not count yet.
#[derive(Debug)]
pub struct HeardHeartbeats {
    slot: usize,
    /// Changes of other nodes come by the same stream, so that it promises no more than the provider has heard.
    is_forwarded: bool,
    waiting: VecDeque<Waiting>,
}

impl HeardHeartbeats {
    pub fn new(slot: usize, is_forwarded: bool) -> HeardHeartbeats {
        HeardHeartbeats { slot, is_forwarded, waiting: VecDeque::new() }
    }

    /// One was read from the stream; everything before it is applied.
    pub fn hear(&mut self, mut says: Announcement) {
        registry::progress(self.slot).heard.streamed(says.horizon);
        if self.is_forwarded {
            says.promise = says.promise.min(says.horizon);
        }
        self.push(Waiting { commit_end: origin::last_commit_end(), says });
        self.durable_up_to(origin::local_flush_position());
    }

    fn push(&mut self, heard: Waiting) {
        match self.waiting.back_mut() {
            Some(last) if last.commit_end == heard.commit_end => *last = heard,
            _ => self.waiting.push_back(heard),
        }
    }

    /// The local log is on disk up to `local_flush`.
    pub fn durable_up_to(&mut self, local_flush: Lsn) {
        if let Some(heard) = self.take(local_flush) {
            registry::progress(self.slot).heard.counts(heard.says, clock::now());
        }
    }

    fn take(&mut self, local_flush: Lsn) -> Option<Waiting> {
        let mut counts = None;
        while let Some(first) = self.waiting.front()
            && first.commit_end <= local_flush
        {
            counts = self.waiting.pop_front();
        }
        counts
    }

    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use meld_core::horizon::Without;
    use meld_core::time::Timestamp;

    use super::*;

    fn heard(commit_end: u64, promise: i64) -> Waiting {
        let promise = Timestamp(promise);
        let says = Announcement { promise, horizon: promise, beyond: promise, without: Without::default() };
        Waiting { commit_end: Lsn(commit_end), says }
    }

    #[test]
    fn counts_when_what_came_before_is_durable() {
        let mut heartbeats = HeardHeartbeats::new(0, false);
        for one in [heard(10, 1), heard(20, 2), heard(20, 3), heard(30, 4)] {
            heartbeats.push(one);
        }
        assert_eq!(heartbeats.waiting.len(), 3);
        assert_eq!(heartbeats.take(Lsn(9)), None);
        assert_eq!(heartbeats.take(Lsn(25)), Some(heard(20, 3)));
        assert!(heartbeats.is_waiting());
        assert_eq!(heartbeats.take(Lsn(30)), Some(heard(30, 4)));
        assert!(!heartbeats.is_waiting());
    }
}
