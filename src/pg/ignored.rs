//! How many messages with meld's prefix were found in WAL that this server's nodes have not sealed.
//!
//! Counted by whoever decodes (each walsender for itself, and a backend that looks at a slot), in shared memory, since the
//! start of the server.

use std::sync::atomic::{AtomicU64, Ordering};

use super::shmem::{Reserve, SharedTable};

static COUNT: SharedTable<(), AtomicU64> = SharedTable::new(c"meld ignored messages");

/// What the postmaster has to reserve.
pub fn reservation() -> &'static dyn Reserve {
    &COUNT
}

pub fn count() {
    if let Some(count) = COUNT.open() {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Zero without shared memory: then nothing was decoded, either.
pub fn counted() -> u64 {
    COUNT.open().map_or(0, |count| count.load(Ordering::Relaxed))
}
