//! Background workers: who starts whom, and the shared memory that they meet in.

/// Called when the library is loaded: registers shared memory and the supervisor if that happens in the postmaster.
pub fn init() {}
