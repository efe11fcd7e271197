//! Applying a peer's transactions. Runs in the apply worker, one for each subscription.
//!
//! `worker` takes events from the receiver's queue and hands each change to the open `transaction`, which opens the
//! local tables and asks `meld_core::apply` for the decision over `store`, the heap. `clock` makes a commit wait until
//! its stamp is in this node's past. `feedback` tracks what is durable here; only that is reported to the provider.

mod clock;
mod feedback;
#[allow(dead_code, reason = "called once the convergence rule is")]
mod fetch;
mod store;
mod transaction;
mod worker;
