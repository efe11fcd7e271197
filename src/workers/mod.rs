//! Background workers: who starts whom, and the shared memory that they meet in.

pub mod registry;
mod text;

use crate::pg::{shmem, worker};

/// Called when the library is loaded: registers shared memory and the supervisor if that happens in the postmaster.
pub fn init() {
    if worker::preloading() {
        shmem::preload(vec![registry::reservation()]);
    }
}
