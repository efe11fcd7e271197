//! This node's clock, and what its readings mean for commits.
//!
//! Three rules, all of them per server, since all its databases share a clock:
//!
//! * **High water** (`high_water`): the largest timestamp that was committed here, was replayed here once the clock had
//!   passed it, or was promised to peers. A local commit gets a later one: `commit_wait` lets it wait for a clock that was
//!   stepped back. So whoever sees a row and writes to it has the later stamp, and a promise holds.
//! * The high water outlives restarts and crashes: a record of it lies in the data directory (`file`), written by the
//!   supervisor about once a second and before each promise; what it misses is looked up at the next start, before the
//!   first commit.
//! * **Forgotten stamps** (`high_water`): rows whose commit timestamp the server no longer keeps are older than a bound,
//!   the largest timestamp that there was when the server last began to forget more.
//!
//! Runs in every process of the server that commits. Nothing here needs a lock in the usual case.

mod commit_wait;
mod file;
mod high_water;
mod keeper;
#[cfg(any(test, feature = "pg_test"))]
mod tests;

use crate::pg::commit::{self, Watch};
use crate::pg::shmem::Reserve;
use crate::pg::{message, prepared};

pub use high_water::forgotten_before;
pub use keeper::Keeper;

/// Called when the library is loaded.
pub fn init() {
    message::before_promise(high_water::before_promise);
    commit::watch(Watch { before: commit_wait::before_commit, after: high_water::after_commit });
}

/// Tables in shared memory, for the postmaster to reserve.
pub fn reservations() -> Vec<&'static dyn Reserve> {
    vec![prepared::reservation(), high_water::reservation(), file::reservation()]
}
