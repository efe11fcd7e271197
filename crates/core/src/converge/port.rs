//! What the convergence rule needs of the place where rows are.
//!
//! A store stands for one local transaction in which a remote one is applied (or, in [`carry_out`](super::carry_out), for
//! a transaction of this node's own). Rows are named by [`RowStore::Row`]: table and key. The values of the change in hand,
//! its contribution to the counter and its void are the store's; the rule deals in stamps and outcomes. There are two
//! implementations: the heap of a server and the memory of the simulator.
//!
//! Every row that `find` or `clashes` has told of is locked against concurrent local transactions until the end.

use crate::conflict::{Conflict, ConflictType};
use crate::time::Stamp;

pub use crate::version::{LocalStamp, Operation, Replaced};

/// The incoming change of a row, as far as the rule looks at it. An UPDATE that changes the key is a DELETE of the old
/// key and an INSERT of the new one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    pub operation: Operation,
    /// Of the transaction that made it.
    pub stamp: Stamp,
    /// Means nothing for an INSERT.
    pub replaced: Replaced,
    /// Largest stamp, below its own, of a transaction of this origin that is parked here now, or was skipped or discarded
    /// ever: behind it, [`Replaced::Own`] need not be the version that is here.
    pub set_aside: Option<Stamp>,
    /// The stream left values out (unchanged TOAST); in an INSERT, because it is half of a key change.
    pub left_out: bool,
    /// It adds to the counter of its key: the table has delta columns, and INSERT's values or UPDATE's differences are
    /// not all zero.
    pub contributes: bool,
    /// An INSERT over a tombstone with a residue: the stamp of that tombstone, whose residue is void.
    pub voids: Option<Stamp>,
}

/// Why a row is gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Grave {
    pub stamp: Stamp,
    /// By a removal, for this reason: then the version with this very stamp is gone, too.
    pub removed: Option<ConflictType>,
}

impl Grave {
    /// Whether a version with this stamp takes the place of the tombstone.
    pub fn yields_to(self, stamp: Stamp) -> bool {
        stamp > self.stamp || stamp == self.stamp && self.removed.is_none()
    }
}

/// What a node knows of a key. A contribution that waits for its row (a residue without a delete) is `Nothing`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Here {
    Nothing,
    Live(LocalStamp),
    Dead(Grave),
}

/// The present row at the provider.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fetched {
    Gone,
    Row(Stamp),
    /// It is there; its stamp is forgotten there, and before this one.
    Forgotten(Stamp),
}

/// Where the values of a row that is to be written come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Values {
    /// All of them from the change.
    Incoming,
    /// From the change, those that it leaves out from the row here.
    IncomingOverHere,
    /// What `fetch` brought for this row last, but for the delta columns.
    Fetched,
}

/// A version of a row that has to go.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Removal<R> {
    pub row: R,
    /// This version and older ones.
    pub version: Stamp,
    /// `insert_exists`, `update_exists`, `multiple_unique_conflicts` or `foreign_key`.
    pub cause: ConflictType,
}

/// What has to be committed here, in a transaction of this node's own, before the remote one can be applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum First<R> {
    Remove(Removal<R>),
    /// Write the parent anew, from the row here or the one fetched; if its return would clash with a unique value, or
    /// leave itself without a parent, remove the child instead.
    KeepParent {
        parent: R,
        or_else: Removal<R>,
    },
}

/// What became of a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome<R> {
    Applied,
    /// The rest of it, that is; its contribution counts all the same.
    Ignored,
    /// Abort, carry this out, commit it durably, apply again.
    First(Vec<First<R>>),
    /// A stamp that is forgotten would decide. Permanent.
    Undecided,
    /// `foreign_key_conflict = exception`. Permanent.
    Violation(Orphan<R>),
}

/// A row whose parent is not here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Orphan<R> {
    pub child: R,
    pub stamp: LocalStamp,
    pub parent: R,
    /// The child was put by the transaction in hand; else that transaction took its parent away.
    pub written: bool,
}

/// Rows, one at a time.
pub trait RowStore {
    type Error;
    /// Table and key. The order is the same on every node: it decides between two rows of one transaction that clash.
    type Row: Clone + Ord;

    /// Looks for the row, else for a tombstone. A row that a concurrent transaction moves about is found all the same. An
    /// explicit stamp (override) is the row's stamp, also if the transaction in hand has rewritten the row.
    fn find(&mut self, row: &Self::Row) -> Result<Here, Self::Error>;

    /// Stamp of the last truncate of the row's table, if it is still remembered.
    fn floor(&mut self, row: &Self::Row) -> Result<Option<Stamp>, Self::Error>;

    /// Stores the row in place of what is here, or where nothing is, and drops its tombstone. Delta columns take the
    /// counter of the key, whatever the values say: the row's that is here, else the residue, else zero. `stamp` becomes
    /// the row's, explicitly where that of the transaction is another.
    fn put(&mut self, row: &Self::Row, stamp: Stamp, values: Values) -> Result<(), Self::Error>;

    /// Removes the row, if there is one, and leaves a tombstone; the counter stays in it as its residue. It notes the
    /// later of the transaction in hand and the one that it already has as the one that made it.
    fn bury(&mut self, row: &Self::Row, grave: Grave) -> Result<(), Self::Error>;

    /// Adds the contribution of the change in hand to the counter of the key: in the row, in the tombstone, or in a new
    /// residue without a stamp. The stamp stays (explicitly). `put` or `bury` may follow, and a store may join the two.
    fn count(&mut self, row: &Self::Row) -> Result<(), Self::Error>;

    /// The stamp of the transaction whose void of that tombstone counts, if any.
    fn voided(&mut self, row: &Self::Row, tombstone: Stamp) -> Result<Option<Stamp>, Self::Error>;

    /// Puts the void of the change in hand into the register of (row, tombstone) and adds what it was before less what it
    /// is now to the counter, as `count` does.
    fn void(&mut self, row: &Self::Row, tombstone: Stamp, by: Stamp) -> Result<(), Self::Error>;

    /// Reads the present row from the provider and keeps it until the transaction in hand has been applied, also over an
    /// abort; its stamp is to be passed by the commit wait. A failure to reach the provider is a transient error.
    fn fetch(&mut self, row: &Self::Row) -> Result<Fetched, Self::Error>;

    /// All other rows with which the row, so written, would clash in any unique index.
    fn clashes(&mut self, row: &Self::Row, values: Values) -> Result<Vec<(Self::Row, LocalStamp)>, Self::Error>;

    /// Writes a conflict into the history, with both rows and stamps.
    fn record(&mut self, row: &Self::Row, conflict: Conflict, here: Here) -> Result<(), Self::Error>;
}

/// Rows and what refers to them.
pub trait LinkedStore: RowStore {
    /// The rows whose foreign keys point to this one and would not stand without it.
    fn children(&mut self, row: &Self::Row) -> Result<Vec<Self::Row>, Self::Error>;

    /// The other rows that this one, so written, would refer to and that are not here.
    fn missing_parents(&mut self, row: &Self::Row, values: Values) -> Result<Vec<Self::Row>, Self::Error>;

    /// Whether a row that has been fetched, so written, would leave rows without their parent that refer to other values of
    /// the row that is here.
    fn strands(&mut self, _row: &Self::Row) -> Result<bool, Self::Error> {
        Ok(false)
    }

    /// The rows that the transaction in hand leaves without a parent, against concurrent local transactions too: the
    /// parents of those not listed are locked.
    fn orphans(&mut self) -> Result<Vec<Orphan<Self::Row>>, Self::Error>;

    /// Whether a row fetched from the provider is at hand.
    fn has_fetched(&mut self, row: &Self::Row) -> bool;

    /// As a local user's UPDATE: writes the row that is here anew, or puts the fetched one back, with the counter of its
    /// key. It is replicated as an UPDATE, without a contribution. A fetched row's version is always named in the stream,
    /// this node's own too: it need not be the last one that this node wrote.
    fn rewrite(&mut self, row: &Self::Row, values: Values) -> Result<(), Self::Error>;

    /// Puts a removal into this node's stream; what `bury` does for it is not to appear there as a DELETE.
    fn announce(&mut self, removal: &Removal<Self::Row>) -> Result<(), Self::Error>;
}

/// What stands against a row that is not here: its tombstone, or the floor, which is one for every key of the table.
pub(super) fn grave_of(here: Here, floor: Option<Stamp>) -> Option<Grave> {
    let grave = match here {
        Here::Dead(grave) => Some(grave),
        Here::Live(_) | Here::Nothing => None,
    };
    grave.max(floor.map(|stamp| Grave { stamp, removed: None }))
}

/// Whether a row here is at most as new as a stamp, if that is known.
pub(super) fn not_newer(local: LocalStamp, than: Stamp) -> Option<bool> {
    match local {
        LocalStamp::ThisTransaction => Some(true),
        LocalStamp::Known(stamp) => Some(stamp <= than),
        LocalStamp::Before(bound) => (bound <= than).then_some(true),
    }
}

/// The stamp by which a row here can be named to other nodes: its own, or one that is surely not smaller.
pub(super) fn named(local: LocalStamp, this_transaction: Stamp) -> Stamp {
    match local {
        LocalStamp::ThisTransaction => this_transaction,
        LocalStamp::Known(stamp) | LocalStamp::Before(stamp) => stamp,
    }
}
