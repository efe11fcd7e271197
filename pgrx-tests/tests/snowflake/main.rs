//! Snowflake ids: no two alike over nodes, sessions, clocks, restarts and crashes; and what makes sequences give them.

mod conversion;
mod duplicates;
mod ordinary;
mod unique;
