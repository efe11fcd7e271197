//! Promises about local commits: none with a timestamp up to the promised one is still to come.
//!
//! The server reads a commit's timestamp after it has said, by a flag that delays checkpoints, that the commit is under
//! way, and takes the flag back when the commit is in WAL. So whoever reads the clock and then waits for all whose flag
//! stands has every earlier timestamp before him in WAL. COMMIT PREPARED reads its timestamp before that flag: a mark of
//! our own stands around it ([`prepared`]). The flag is a plain store that may become visible after the reading of the
//! clock on another processor, which the promise allows for. Commits of replication origins carry another node's
//! timestamps: nothing is promised about them.
//!
//! What was promised last, and this node's horizon, lie in shared memory for each database, so that a walsender and an
//! apply worker can tell their peer at the start of a stream, and that a promise never falls while the server runs.

use std::array;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicI64, AtomicU32};
use std::time::{Duration, Instant};

use meld_core::time::Timestamp;
use pgrx::pg_sys;

use super::shmem::{Reserve, SharedTable};
use super::{Oid, clock, prepared, worker};

/// How much later than the reading of the clock the flag of a commit may be seen.
const VISIBILITY_US: i64 = 1000;
const NAP_US: std::ffi::c_long = 200;

/// A promise that is good for all commits of this server, or `None` if a commit has not ended within `patience` or this
/// worker is to end. For workers, outside of a transaction.
pub fn promise(patience: Duration) -> Option<Timestamp> {
    let read_at = clock::now();
    let deadline = Instant::now() + patience;
    let marks = prepared::under_way();
    let committing = Committing::now();
    while marks.iter().any(|mark| mark.is_under_way()) || committing.any() {
        // SAFETY: waits, and no more; not on the latch, since what that is set for belongs to somebody else
        unsafe { pg_sys::pg_usleep(NAP_US) };
        worker::answer_interrupts();
        if worker::shutdown_requested() || Instant::now() >= deadline {
            return None;
        }
    }
    Some(Timestamp(read_at.0.saturating_sub(VISIBILITY_US)))
}

/// Transactions that were in the middle of their commit when they were looked for.
struct Committing {
    transactions: *mut pg_sys::VirtualTransactionId,
    count: i32,
}

impl Committing {
    fn now() -> Committing {
        let mut count = 0;
        // SAFETY: main thread; looks at the process array under its lock and gives a palloc'd array
        let transactions = unsafe { pg_sys::GetVirtualXIDsDelayingChkpt(&mut count, pg_sys::DELAY_CHKPT_START as i32) };
        Committing { transactions, count }
    }

    /// Whether any of them still is.
    fn any(&self) -> bool {
        // SAFETY: the array lives until this is dropped
        self.count > 0
            && unsafe {
                pg_sys::HaveVirtualXIDsDelayingChkpt(self.transactions, self.count, pg_sys::DELAY_CHKPT_START as i32)
            }
    }
}

impl Drop for Committing {
    fn drop(&mut self) {
        // SAFETY: palloc'd in `now`, in a memory context that lasts: outside of a transaction it is the top one
        unsafe { pg_sys::pfree(self.transactions.cast()) }
    }
}

/// What a node has told the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Announced {
    pub promise: Timestamp,
    pub horizon: Timestamp,
}

const PLACES: usize = 64;

static TABLE: SharedTable<(), Places> = SharedTable::new(c"meld promises");

struct Places([Place; PLACES]);

struct Place {
    /// 0: free.
    database: AtomicU32,
    promise: AtomicI64,
    horizon: AtomicI64,
}

impl Default for Places {
    fn default() -> Places {
        let nothing = || AtomicI64::new(Timestamp::MIN.0);
        Places(array::from_fn(|_| Place { database: AtomicU32::new(0), promise: nothing(), horizon: nothing() }))
    }
}

/// The table, for the postmaster to reserve.
pub fn reservation() -> &'static dyn Reserve {
    &TABLE
}

fn place(database: Oid) -> Option<&'static Place> {
    TABLE.open()?.0.iter().find(|place| place.database.load(SeqCst) == database.to_u32())
}

/// What the database's node has told last, since the server started.
pub fn announced(database: Oid) -> Announced {
    let Some(place) = place(database) else {
        return Announced { promise: Timestamp::MIN, horizon: Timestamp::MIN };
    };
    Announced { promise: Timestamp(place.promise.load(SeqCst)), horizon: Timestamp(place.horizon.load(SeqCst)) }
}

/// Notes what is about to be told; neither time falls. Gives what counts then. By the database's manager alone.
pub fn announce(database: Oid, told: Announced) -> Announced {
    let free = || {
        let places = TABLE.open()?.0.iter();
        let take = |place: &&Place| place.database.compare_exchange(0, database.to_u32(), SeqCst, SeqCst).is_ok();
        places.into_iter().find(take)
    };
    if let Some(place) = place(database).or_else(free) {
        place.promise.fetch_max(told.promise.0, SeqCst);
        place.horizon.fetch_max(told.horizon.0, SeqCst);
        return announced(database);
    }
    told
}

/// The database has no node any more.
pub fn forget(database: Oid) {
    if let Some(place) = place(database) {
        place.promise.store(Timestamp::MIN.0, SeqCst);
        place.horizon.store(Timestamp::MIN.0, SeqCst);
        place.database.store(0, SeqCst);
    }
}
