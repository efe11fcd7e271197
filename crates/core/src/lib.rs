//! The decisions of meld, without a server.
//!
//! Everything in this crate is a function of its arguments: it reads no clock, does no IO and knows no PostgreSQL
//! type. The extension (`src/`) and the simulator give it input and carry out what it decides. Nothing here may panic
//! on input from a peer.
#![forbid(unsafe_code)]

pub mod bundle;
pub mod clock;
pub mod conflict;
pub mod converge;
pub mod counter;
pub mod failure;
pub mod fingerprint;
pub mod horizon;
pub mod identity;
pub mod ids;
pub mod lsn;
pub mod names;
pub mod sequence;
pub mod snowflake;
pub mod time;
pub mod tombstone;
pub mod value;
pub mod version;
pub mod wire;
