//! The convergence rule in full: what an incoming change, removal or truncate does to a node, and what has to be
//! committed before it can.
//!
//! Rows and tombstones, exact conflicts, left-out values, counters, unique indexes and foreign keys, over a port with two
//! implementations: the heap of a server, and the memory of the simulator.
//!
//! A transaction of another node is applied like this, all in one local transaction:
//!
//! 1. each change through [`apply_change`], [`apply_removal`], [`apply_truncate`] or [`apply_void`], in its order;
//! 2. [`check_foreign_keys`];
//! 3. the commit wait (`clock`), then the commit, with the origin's position.
//!
//! Any step may answer [`Outcome::First`]: then the local transaction is aborted, what the answer holds is carried out by
//! [`carry_out`] in a transaction of this node's own, *committed durably and replicated*, and the whole is done again. It
//! ends, since each such round takes a version away for good or raises a parent above the change that was to take it.
//! [`Outcome::Undecided`] and [`Outcome::Violation`] are permanent errors: abort, and let the exception policy act.
//!
//! Invariants, on every node: a key is live or has a tombstone, never both; its stamp never falls; the outcome for two
//! versions depends on the two alone.

mod first;
#[cfg(test)]
mod first_tests;
mod foreign_key;
#[cfg(test)]
mod order_tests;
pub mod port;
mod removal;
mod rule;
#[cfg(test)]
mod tests;
mod truncate;
mod unique;

pub use first::carry_out;
pub use foreign_key::{Policy, check_foreign_keys};
pub use port::{
    Change, Fetched, First, Grave, Here, LinkedStore, LocalStamp, Operation, Orphan, Outcome, Removal, Replaced,
    RowStore, Values,
};
pub use removal::apply_removal;
pub use rule::{Decision, Verdict, apply_change, apply_void, decide};
pub use truncate::{TableStore, Truncated, apply_truncate, covers, truncated};
