//! Versions of a row: what a change does to one, which one it replaced, and when the one that is here was written.
//!
//! The words of the convergence rule that others use as well: the wire format says which version was replaced, the server
//! shell finds out who wrote a row.

use bincode::{Decode, Encode};

use crate::ids::NodeId;
use crate::time::Stamp;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    Insert,
    Update,
    Delete,
}

/// Which version an UPDATE or DELETE replaced at its origin.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, Encode, Decode)]
pub enum Replaced {
    /// One that the origin wrote itself: what no version message means.
    #[default]
    Own,
    /// Another node's, with this stamp.
    Version(Stamp),
    /// The origin has forgotten the stamp.
    Unknown,
}

/// When the row that is here was last written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocalStamp {
    /// By the transaction that is being applied.
    ThisTransaction,
    Known(Stamp),
    /// The server has forgotten; it was before this stamp's timestamp.
    Before(Stamp),
}

impl Replaced {
    /// Whether a row here, which is not newer than the change, is just the version that the change replaced at `origin`.
    ///
    /// The stream of one origin is in order, so its last version that is here is the one that it replaced, but for what
    /// was set aside: `set_aside` is the largest stamp of a transaction of this origin that is parked, or was skipped.
    pub fn is(self, local: LocalStamp, origin: NodeId, set_aside: Option<Stamp>) -> bool {
        match (self, local) {
            (Replaced::Unknown, _) | (_, LocalStamp::Before(_)) => false,
            (_, LocalStamp::ThisTransaction) => true,
            (Replaced::Version(version), LocalStamp::Known(stamp)) => version == stamp,
            (Replaced::Own, LocalStamp::Known(stamp)) => {
                stamp.node == origin && set_aside.is_none_or(|aside| aside <= stamp)
            }
        }
    }
}
