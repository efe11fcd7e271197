//! Conflicts as users see them: a row in `meld.resolutions` and a line in the server log.
//!
//! Runs in the apply worker, inside the transaction in which the conflict was decided: the history commits with what it
//! tells of, or not at all.

mod history;

pub use history::{ConflictRecord, Version, record};
