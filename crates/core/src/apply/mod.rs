//! Applying a change: the rule (`change`) over the store that it works on (`port`).

mod change;
pub mod port;
#[cfg(test)]
mod tests;

pub use change::{Outcome, apply_change};
pub use port::{Change, LocalRow, LocalStamp, Operation, Replaced, RowStore};
