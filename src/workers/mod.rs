//! Background workers: who starts whom, and the shared memory that they meet in.

mod manager;
pub mod registry;
mod supervisor;
mod text;

use std::time::Duration;

use crate::pg::{shmem, worker};

/// Called when the library is loaded: registers shared memory and the supervisor if that happens in the postmaster.
pub fn init() {
    if worker::preloading() {
        shmem::preload(vec![registry::reservation()]);
        worker::register_static(supervisor::SUPERVISOR, Duration::from_secs(1));
    }
}
