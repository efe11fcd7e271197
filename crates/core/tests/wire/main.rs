//! The stream from outside: what one node writes, another reads, and nothing else is believed.

mod codec;
mod frames;
mod golden;
mod options;
mod samples;
