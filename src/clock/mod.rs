//! This node's clock: what its readings mean for commits.
//!
//! Runs in every process of the server that commits.

use crate::pg::commit::{self, Watch};
use crate::pg::prepared;
use crate::pg::shmem::Reserve;

/// Called when the library is loaded.
pub fn init() {
    commit::watch(Watch { before: || (), after: |_| () });
}

/// Tables in shared memory, for the postmaster to reserve.
pub fn reservations() -> Vec<&'static dyn Reserve> {
    vec![prepared::reservation()]
}
