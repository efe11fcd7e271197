//! Marks of COMMIT PREPAREDs that are under way, in shared memory.
//!
//! The server reads the commit timestamp of such a transaction before it says, by delaying checkpoints, that a commit is
//! under way, and calls nobody before that. So a promise about commits to come has to know of these from another sign: a
//! mark that stands from before the clock is read until the commit is in the log. Whoever promises reads the clock first
//! and then waits for the marks that stand ([`under_way`]); a mark that comes later belongs to a later timestamp.
//!
//! A mark carries the process id of its backend. It goes with the command, or with the transaction in which the command
//! failed, or when somebody finds the backend dead; after a crash of any process shared memory is made anew. So none
//! stays for ever. There are as many places as anybody needs at one time; a backend that finds none waits.

use std::array;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::shmem::{Reserve, SharedTable};
use super::worker;

const PLACES: usize = 64;
/// Until a backend looks for a place again.
const NAP: Duration = Duration::from_millis(1);

static TABLE: SharedTable<(), Places> = SharedTable::new(c"meld prepared");

/// Which place this process has taken; `PLACES` for none. Process-local.
static MINE: AtomicUsize = AtomicUsize::new(PLACES);

/// Process id in the upper half, a number that rises with each use of the place in the lower; 0 in the upper half: free.
struct Places([AtomicU64; PLACES]);

impl Default for Places {
    fn default() -> Places {
        Places(array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// The table, for the postmaster to reserve.
pub fn reservation() -> &'static dyn Reserve {
    &TABLE
}

/// A COMMIT PREPARED that was under way when it was looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    place: usize,
    value: u64,
}

/// All that are under way now.
pub fn under_way() -> Vec<Mark> {
    let Some(places) = TABLE.open() else { return Vec::new() };
    let marks = places.0.iter().enumerate();
    let marks = marks.map(|(place, cell)| Mark { place, value: cell.load(Ordering::SeqCst) });
    marks.filter(|mark| mark.is_under_way()).collect()
}

impl Mark {
    /// Process id of the backend.
    pub fn pid(self) -> i32 {
        pid(self.value)
    }

    /// Whether that command still is under way.
    pub fn is_under_way(self) -> bool {
        let Some(cell) = TABLE.open().and_then(|places| places.0.get(self.place)) else { return false };
        if pid(self.value) == 0 || cell.load(Ordering::SeqCst) != self.value {
            return false;
        }
        let lives = worker::is_alive(pid(self.value));
        if !lives {
            release(cell, self.value);
        }
        lives
    }
}

/// Marks this process as one that commits a prepared transaction. Raises if the statement is cancelled meanwhile.
pub(super) fn begin() {
    let Some(places) = TABLE.open() else { return };
    end();
    loop {
        for (place, cell) in places.0.iter().enumerate() {
            let value = cell.load(Ordering::SeqCst);
            // its own process id is left from another process that had it before
            let is_free = pid(value) == 0 || pid(value) == worker::my_pid() || !worker::is_alive(pid(value));
            let mine = u64::from(worker::my_pid().cast_unsigned()) << u32::BITS | u64::from(next_use(value));
            if is_free && cell.compare_exchange(value, mine, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                MINE.store(place, Ordering::Relaxed);
                return;
            }
        }
        worker::pause(NAP);
    }
}

/// Takes this process's mark away, if it has one. Never raises.
pub(super) fn end() {
    let place = MINE.swap(PLACES, Ordering::Relaxed);
    if let Some(cell) = TABLE.open().and_then(|places| places.0.get(place)) {
        release(cell, cell.load(Ordering::SeqCst));
    }
}

/// Frees a place if it still has this mark.
fn release(cell: &AtomicU64, value: u64) {
    let _ = cell.compare_exchange(value, u64::from(next_use(value)), Ordering::SeqCst, Ordering::SeqCst);
}

fn pid(value: u64) -> i32 {
    ((value >> u32::BITS) as u32).cast_signed()
}

fn next_use(value: u64) -> u32 {
    (value as u32).wrapping_add(1)
}

/// For tests: the mark of a process that does not exist.
#[cfg(any(test, feature = "pg_test"))]
pub(super) fn mark_of_nobody(pid: i32) -> Mark {
    let place = PLACES - 1;
    let value = u64::from(pid.cast_unsigned()) << u32::BITS;
    if let Some(places) = TABLE.open() {
        places.0[place].store(value, Ordering::SeqCst);
    }
    Mark { place, value }
}
