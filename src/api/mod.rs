//! SQL functions: check the arguments, parse, call one function, return.
//!
//! How they look to SQL (names, defaults, rights, search path) stands in `sql/functions.sql`. None is STRICT: NULL is
//! refused with the argument's name. Each runs in the caller's backend and transaction; what workers do about it
//! happens after the commit.

mod args;
mod cluster;
mod delta;
mod fetch;
mod node;
mod parked;
mod partitions;
mod peer;
mod repset;
mod repset_seq;
mod repset_table;
mod row_stamp;
mod snowflake;
mod status;
mod subscription;
#[cfg(any(test, feature = "pg_test"))]
mod tests;
mod wait;
