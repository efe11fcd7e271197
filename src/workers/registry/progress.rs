//! How far a subscription's worker is, and its counters in shared memory.
//!
//! The counters are atomics and need no lock: the apply worker writes each of them alone, and readers take what is there. A
//! reader may see the counters of one moment beside those of the next, which a view on progress can bear.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicI64, AtomicU64};

use meld_core::conflict::ConflictType;
use meld_core::horizon::Without;
use meld_core::time::Timestamp;

use super::SUBSCRIPTIONS;

/// One for each subscription's place.
pub(super) struct Counters(pub(super) [Progress; SUBSCRIPTIONS]);

impl Default for Counters {
    fn default() -> Counters {
        Counters(std::array::from_fn(|_| Progress::default()))
    }
}

/// How far a subscription's worker has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WorkerState {
    /// Started, not connected yet.
    #[default]
    Starting,
    /// Makes the slot and the origin.
    Initializing,
    Replicating,
    /// Ended with an error.
    Failed,
}

/// What a subscription's worker has done since the server started. Written by the worker, read by everybody.
#[derive(Debug)]
pub struct Progress {
    /// End of the provider's WAL of which this worker knows.
    pub received_lsn: AtomicU64,
    /// Everything at the provider before it is applied here.
    pub applied_lsn: AtomicU64,
    /// The same, and durable here.
    pub flushed_lsn: AtomicU64,
    /// Commit timestamp of the last transaction applied, in PostgreSQL's microseconds.
    pub last_commit_ts: AtomicI64,
    /// Commit timestamp of the transaction that is being applied, 0 if none is.
    pub applying_commit_ts: AtomicI64,
    /// How far the provider's clock is ahead of this server's, give or take half of the round trip.
    pub clock_offset_us: AtomicI64,
    /// -1 while nothing was measured.
    pub clock_round_trip_us: AtomicI64,
    pub transactions: AtomicU64,
    pub inserts: AtomicU64,
    pub updates: AtomicU64,
    pub deletes: AtomicU64,
    pub conflicts: [AtomicU64; ConflictType::ALL.len()],
    pub heard: Heard,
}

/// What the provider has announced, in PostgreSQL's microseconds. None of the times falls while the place has the same
/// subscription.
#[derive(Debug)]
pub struct Heard {
    /// Counts here: everything that the provider sent before it is durable.
    promise: AtomicI64,
    horizon: AtomicI64,
    /// The horizon without those that the provider has left behind, and who these are: 0 while the two are changed.
    beyond: AtomicI64,
    without: AtomicU64,
    /// The provider's horizon at this point of the stream.
    streamed_horizon: AtomicI64,
    /// When a heartbeat last counted, by the clock here; 0 if none did.
    at: AtomicI64,
}

impl Default for Heard {
    fn default() -> Heard {
        let nothing = || AtomicI64::new(Timestamp::MIN.0);
        Heard {
            promise: nothing(),
            horizon: nothing(),
            beyond: nothing(),
            without: AtomicU64::new(0),
            streamed_horizon: nothing(),
            at: AtomicI64::new(0),
        }
    }
}

/// What a heartbeat says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Announcement {
    pub promise: Timestamp,
    pub horizon: Timestamp,
    pub beyond: Timestamp,
    pub without: Without,
}

impl Announcement {
    /// Of one that was not heard of.
    pub const NOTHING: Announcement = Announcement {
        promise: Timestamp::MIN,
        horizon: Timestamp::MIN,
        beyond: Timestamp::MIN,
        without: Without::NONE,
    };
}

impl Heard {
    /// All that counts of what was announced last.
    pub fn told(&self) -> Announcement {
        let (beyond, without) = self.beyond();
        Announcement { promise: self.promise(), horizon: self.horizon(), beyond, without }
    }

    /// A heartbeat was read from the stream.
    pub fn streamed(&self, horizon: Timestamp) {
        self.streamed_horizon.fetch_max(horizon.0, Relaxed);
    }

    /// Everything before the heartbeat is durable.
    pub fn counts(&self, heard: Announcement, now: Timestamp) {
        self.promise.fetch_max(heard.promise.0, Relaxed);
        self.horizon.fetch_max(heard.horizon.0, Relaxed);
        self.without.store(0, SeqCst);
        self.beyond.store(heard.beyond.0, SeqCst);
        self.without.store(heard.without.word(), SeqCst);
        self.at.store(now.0, Relaxed);
    }

    /// The stream starts again behind what is durable.
    pub fn start_again(&self) {
        self.streamed_horizon.store(self.horizon.load(Relaxed), Relaxed);
    }

    pub fn promise(&self) -> Timestamp {
        Timestamp(self.promise.load(Relaxed))
    }

    pub fn horizon(&self) -> Timestamp {
        Timestamp(self.horizon.load(Relaxed))
    }

    /// The horizon without those that the provider has left behind, and who these are.
    fn beyond(&self) -> (Timestamp, Without) {
        let without = self.without.load(SeqCst);
        let beyond = self.beyond.load(SeqCst);
        // changed meanwhile: the next look will do
        let is_one = without == self.without.load(SeqCst);
        (Timestamp(beyond), Without::from_word(if is_one { without } else { 0 }))
    }

    pub fn streamed_horizon(&self) -> Timestamp {
        Timestamp(self.streamed_horizon.load(Relaxed))
    }

    /// When a heartbeat last counted.
    pub fn at(&self) -> Option<Timestamp> {
        Some(Timestamp(self.at.load(Relaxed))).filter(|at| at.0 != 0)
    }

    fn clear(&self) {
        self.without.store(0, SeqCst);
        for time in [&self.promise, &self.horizon, &self.beyond, &self.streamed_horizon] {
            time.store(Timestamp::MIN.0, Relaxed);
        }
        self.at.store(0, Relaxed);
    }
}

impl Default for Progress {
    fn default() -> Progress {
        Progress {
            received_lsn: AtomicU64::new(0),
            applied_lsn: AtomicU64::new(0),
            flushed_lsn: AtomicU64::new(0),
            last_commit_ts: AtomicI64::new(0),
            applying_commit_ts: AtomicI64::new(0),
            clock_offset_us: AtomicI64::new(0),
            clock_round_trip_us: AtomicI64::new(-1),
            transactions: AtomicU64::new(0),
            inserts: AtomicU64::new(0),
            updates: AtomicU64::new(0),
            deletes: AtomicU64::new(0),
            conflicts: Default::default(),
            heard: Heard::default(),
        }
    }
}

impl Progress {
    /// A place that another subscription takes starts from nothing.
    pub(super) fn clear(&self) {
        self.last_commit_ts.store(0, Relaxed);
        self.applying_commit_ts.store(0, Relaxed);
        self.clock_offset_us.store(0, Relaxed);
        self.clock_round_trip_us.store(-1, Relaxed);
        self.heard.clear();
        let counters = [
            &self.received_lsn,
            &self.applied_lsn,
            &self.flushed_lsn,
            &self.transactions,
            &self.inserts,
            &self.updates,
            &self.deletes,
        ];
        counters.into_iter().chain(&self.conflicts).for_each(|counter| counter.store(0, Relaxed));
    }
}
