//! Sequences: ids that no two nodes give (`snowflake.*`), and ordinary sequences that other nodes keep up with.
//!
//! * `nextval` (backends): one id. Its state machine is `meld_core::snowflake`; the state is the sequence itself.
//! * `convert` (backends): a sequence, with the columns that it feeds, into one that gives such ids, and back.
//! * `peers` (managers, apply workers, walsenders, backends): numbers that nobody else has, and copies of a server.
//! * `positions`, `keeper` (a worker of each database, backends): ordinary sequences kept ahead of what providers draw.

pub mod convert;
pub mod keeper;
pub mod nextval;
pub mod peers;
pub mod positions;
