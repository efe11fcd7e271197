//! What the apply rule needs of the place where rows are: one key of one table, seen through a change.
//!
//! A store is made for each change and holds its values, so the rule deals in stamps and outcomes only. There are two
//! implementations: the heap of a server (the extension's `apply` room) and the memory of the simulator.

use bincode::{Decode, Encode};

use crate::conflict::Conflict;
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

/// The incoming change, as far as the rule looks at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    pub operation: Operation,
    /// Of the transaction that made it.
    pub stamp: Stamp,
    /// Means nothing for an INSERT.
    pub replaced: Replaced,
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

/// A row that the store has found and locked against change until the transaction ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalRow {
    pub stamp: LocalStamp,
}

pub trait RowStore {
    type Error;

    /// Looks for the row with the key of the change and locks it. `None` means there is none: a row that a concurrent
    /// transaction moves about is found all the same.
    fn find(&mut self) -> Result<Option<LocalRow>, Self::Error>;

    /// Stores the incoming row as a new one.
    fn insert(&mut self) -> Result<(), Self::Error>;

    /// Puts the incoming row in place of the one found.
    fn update(&mut self) -> Result<(), Self::Error>;

    /// Removes the row found.
    fn delete(&mut self) -> Result<(), Self::Error>;

    /// Writes the conflict into the history, with both rows and stamps.
    fn record(&mut self, conflict: Conflict, local: Option<LocalRow>) -> Result<(), Self::Error>;
}
