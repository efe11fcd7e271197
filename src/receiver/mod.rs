//! The subscriber's end of a link: a thread with its own libpq connection, and one-shot queries to a peer.
//!
//! [`Link`] is owned by an apply worker. Its thread connects to the provider, makes sure who that is, makes the slot if
//! asked to, and then turns the replication stream into [`Event`]s, which the worker takes out of a queue bounded in
//! bytes; back go only [`Positions`]. [`query`] is for backends and runs in their main thread. Both are Rust and libpq
//! alone: neither calls the server that they run in, so the import law of this room is `meld_core` and nothing else.
//!
//! The thread is a state machine that goes one way:
//!
//! * **connecting** until the server accepts, or the connect time-out is over;
//! * **checking**: the session gets its settings, `meld.identity()` is asked, and the answer compared with the expected
//!   provider and with this node itself; then `Connected` is queued;
//! * **making the slot**, only for [`SlotPlan::Create`]: this waits on the provider for every transaction that runs
//!   there, however long; then `SlotCreated` is queued;
//! * **streaming**: each frame is checked and queued, each keepalive queued behind what came before it. When the queue
//!   is full the thread stops reading, the provider's send buffer fills and the provider waits; but positions are sent
//!   on a timer all the time, so that it does not take this node for dead;
//! * **closed**: from any state, by any error, by a stop, or by a panic, which is caught. `Closed` is the last event.
//!
//! There is no way back: after `Closed` the worker drops the link, and starts another one later from the position that
//! is durable here. The thread never confirms more than the worker has reported as flushed, so nothing is lost by that,
//! and what is received twice is the worker's to recognize by its origin.
//!
//! Files: `link` the worker's handle; `thread` connecting to making the slot; `stream` streaming; `queue`; `connect` and
//! `exec` what links and queries have in common; `query`; `inquiry` questions on a connection that is kept; `error`; `libpq` the fence around everything unsafe.

mod connect;
mod error;
mod exec;
#[cfg(test)]
mod fake;
mod inquiry;
mod libpq;
mod link;
mod query;
mod question;
mod queue;
mod stream;
#[cfg(test)]
mod tests;
mod thread;

use std::time::{Duration, SystemTime};

use meld_core::ids::NodeIdentity;
use meld_core::lsn::Lsn;
use meld_core::wire::{Message, StartOptions};

pub use connect::{check_dsn, shown_dsn};
pub use error::{LinkError, Place, RemoteError};
pub use inquiry::Inquiry;
pub use link::Link;
pub use query::query;

/// What a link is for.
#[derive(Clone)]
pub struct LinkOptions {
    pub dsn: String,
    pub application_name: String,
    pub slot_name: String,
    pub slot: SlotPlan,
    /// Includes who this node is.
    pub start: StartOptions,
    /// Who the provider must be; any node but this one if nothing is known.
    pub expected_provider: Option<NodeIdentity>,
    /// Which run of this node's server it is, for the provider to see that it is no copy; 0: it is not told.
    pub server_run: i64,
    /// The queue's bound, in bytes of memory. A frame larger than it still passes, alone.
    pub queue_bytes: usize,
    /// How often positions are sent at least; more often if the provider's sender time-out is short.
    pub status_interval: Duration,
    /// Unless the connection string has a `connect_timeout`.
    pub connect_timeout: Duration,
}

/// Where the stream begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotPlan {
    /// With the first transaction that commits after this position, out of a slot that is there.
    Existing { from: Lsn },
    /// With a new slot, in the place of one of the same name.
    Create,
}

/// What a link has to say, in order.
#[derive(Debug)]
pub enum Event {
    Connected {
        provider: NodeIdentity,
        /// `server_version_num` of the provider.
        server_version: u32,
    },
    /// The slot is there, and the stream goes on from this position.
    SlotCreated { consistent: Lsn },
    /// The content of one frame, which passed every check.
    Frame {
        messages: Vec<Message>,
        /// Its size on the wire.
        bytes: usize,
        received_at: SystemTime,
    },
    /// The provider has sent every commit before this position.
    Keepalive { end: Lsn },
    /// The end; nothing comes after it.
    Closed(LinkError),
}

/// How far this node is with the provider's WAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Positions {
    pub written: Lsn,
    /// All up to here is durable on this node: the provider may forget it.
    pub flushed: Lsn,
    pub applied: Lsn,
}
