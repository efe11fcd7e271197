//! Typed rows of meld's own tables.
//!
//! Every function runs queries through SPI, inside an open transaction with an active snapshot. Reads see what that
//! snapshot sees until the transaction has written something, then what the last statement left.

pub mod collection;
pub mod delta;
pub mod foreign_key;
#[cfg(any(test, feature = "pg_test"))]
mod foreign_key_tests;
pub mod left_behind;
pub mod node;
pub mod origin;
#[cfg(any(test, feature = "pg_test"))]
mod parents_tests;
pub mod parked;
mod query;
pub mod reference;
pub mod relation;
pub mod repset;
pub mod residue;
pub mod resolution;
pub mod row_keys;
pub mod row_trigger;
pub mod sequence;
pub mod sequence_set;
pub mod slot;
pub mod subscription;

pub use node::Node;
pub use subscription::Subscription;
