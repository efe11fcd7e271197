//! What conflicts are decided by, and conflicts as users see them: a row in `meld.resolutions` and a line in the server
//! log.
//!
//! Runs in the apply worker, inside the transaction in which the conflict was decided: the history commits with what it
//! tells of, or not at all. `writers` gives stamps wherever one is needed.

mod bundles;
pub mod gate;
mod history;
pub mod known;
pub mod overrides;
pub mod residues;
#[cfg(any(test, feature = "pg_test"))]
mod state_tests;
pub mod tombstones;
pub mod voids;
pub mod writers;

pub use history::{ConflictRecord, Version, record};
pub use writers::Writers;
