//! Applying a peer's transactions. Runs in the apply worker, one for each subscription.
//!
//! `worker` takes events from the receiver's queue and hands each message to the open `transaction`, which tries it
//! (`step`) on the local `tables` by the rule of `meld_core::converge` over `store`, the heap. What has to be committed
//! first is done in `own`; `kept` remembers what has come, to be applied again after that. `fetch` reads rows from the
//! provider, `fetched` keeps them, `row` names them; `clashed` knows in which index rows have clashed. `clock` makes a commit wait until its stamp is in this node's past.
//! What can't be applied is set aside by `parking`, through `parked`; `aside` knows what was, and the worker of
//! `replay` applies it when an operator asks. `feedback` tracks what is durable here; only that is reported to the provider, and only with that do its
//! heartbeats count (`heard`).

mod aside;
mod clashed;
mod clock;
mod dangling;
mod feedback;
mod fetch;
mod fetched;
mod heard;
mod kept;
mod left_out;
mod own;
mod parked;
mod parking;
mod replay;
mod row;
mod step;
mod store;
mod tables;
mod transaction;
mod truncate;
mod worker;
