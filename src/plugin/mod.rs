//! The provider's end: committed transactions of this node's WAL, as frames for one subscriber.
//!
//! Runs in a walsender (or in the backend of a user who looks at a slot with SQL). The server decodes WAL and calls
//! `pg::decoding`, which calls the [`sender::Sender`] here: `start` agrees with the subscriber on who is who and what
//! is sent, `publication` knows which tables and actions are wanted and how their rows are written, `notes` understands
//! what meld itself wrote into the WAL, and `sender` packs messages into frames, which the server sends to the
//! subscriber's `receiver`.
//!
//! Invariants:
//! - `Startup` is the first message of the first frame. Nothing goes out before there is something to say.
//! - A transaction is `Begin`, changes, `Commit`, whole and in commit order; one with nothing for the subscriber is not
//!   mentioned. Its `Commit` ends a frame and is sent at once.
//! - A table is described before its first change, and again before the first one after its description changed.
//! - What is published is decided with the catalog as it was at the change, not as it is now.
//! - No table stops the stream: a change that can't be replicated is left out and said so in the log.

mod notes;
mod publication;
mod rows;
mod sender;
mod start;

crate::pg::decoding::export_output_plugin!(sender::Sender);
