//! Applying a peer's transactions. Runs in the apply worker.
