//! The fence: the only room that may spell `pg_sys` or `unsafe`.
//!
//! Each file wraps one part of the server behind functions and types that can't be misused from safe code: raw
//! pointers and Datums never leave their file, wrappers carry lifetimes, preconditions are types (an open transaction
//! is a `&Xact`). A server call may raise; pgrx turns that into a panic that unwinds Rust frames, so nothing with a
//! destructor may live inside a guarded closure's C frames. Only the main thread of a process may call anything here.

pub mod born_row;
pub mod clash;
mod clash_rule;
#[cfg(any(test, feature = "pg_test"))]
mod clash_tests;
pub mod clock;
mod columns;
pub mod commit;
pub mod commit_ts;
pub mod counter;
pub mod databases;
pub mod decoded;
pub mod decoding;
pub mod decoding_session;
pub mod delta;
pub mod drops;
pub mod emptied;
pub mod entry;
pub mod executor;
pub mod foreign_keys;
pub mod historic;
pub mod ignored;
pub mod invalidation;
pub mod key_bytes;
#[cfg(any(test, feature = "pg_test"))]
mod key_bytes_tests;
pub mod key_lock;
pub mod keyed;
pub mod local_node;
mod locate;
pub mod message;
mod names;
pub mod nesting;
pub mod nextval;
pub mod numbers;
mod open_index;
pub mod origin;
pub mod output;
pub mod parents;
pub mod plan;
pub mod prepared;
#[cfg(any(test, feature = "pg_test"))]
mod prepared_tests;
pub mod present_row;
pub mod promise;
mod remembered;
mod row_json;
mod row_key;
pub mod row_trigger;
pub mod secret;
pub mod sequence;
mod sequence_page;
pub mod server;
pub mod session;
pub mod shmem;
pub mod target;
pub mod target_counters;
pub mod target_key;
#[cfg(any(test, feature = "pg_test"))]
mod target_tests;
pub mod trap;
pub mod trigger_catalog;
pub mod truncate;
pub mod types;
pub mod utility;
pub mod wire_text;
pub mod worker;
pub mod xact;

pub use locate::Snapshots;
pub use pgrx::pg_sys::Oid;
pub use pgrx::pg_sys::panic::ErrorReport;
