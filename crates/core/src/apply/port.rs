//! What the apply rule needs of the place where rows are: one key of one table, seen through a change.
//!
//! A store is made for each change and holds its values, so the rule deals in stamps and outcomes only. There are two
//! implementations: the heap of a server (the extension's `apply` room) and the memory of the simulator.

use crate::conflict::Conflict;
use crate::time::Stamp;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    Insert,
    Update,
    Delete,
}

/// The incoming change, as far as the rule looks at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    pub operation: Operation,
    /// Of the transaction that made it.
    pub stamp: Stamp,
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
