//! The output plugin alone: what a provider's stream says, read with SQL and checked with the reader of frames that
//! subscribers use. No subscriber takes part.

mod counters;
mod forged;
mod refusals;
mod rows;
mod stream;
mod structure;
mod values;
mod volume;
