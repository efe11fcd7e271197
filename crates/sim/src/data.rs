//! What the simulated nodes hold and say to each other.
//!
//! Three tables. `a`: key, v, two unique columns, a TOASTed value and a delta column; `c`: key, v and a foreign key to `a`;
//! `g`: the same with one to `c`. A log is what a node has committed itself, as its stream carries it; the checkers read
//! nothing else.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use meld_core::conflict::ConflictType;
use meld_core::converge::Replaced;
use meld_core::ids::NodeId;
use meld_core::time::{Stamp, Timestamp};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Table {
    A,
    C,
    G,
}

pub type Key = u8;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RowId {
    pub table: Table,
    pub key: Key,
}

pub const fn a(key: Key) -> RowId {
    RowId { table: Table::A, key }
}

pub const fn c(key: Key) -> RowId {
    RowId { table: Table::C, key }
}

pub const fn g(key: Key) -> RowId {
    RowId { table: Table::G, key }
}

/// The TOASTed value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Big {
    /// The table has none.
    NoColumn,
    Value(u32),
    /// In a stream only: unchanged, so the WAL does not hold it.
    LeftOut,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cols {
    pub v: u32,
    /// `a`: a unique column; `c` and `g`: the parent's key.
    pub link: Option<Key>,
    /// `a`: another unique column.
    pub second: Option<Key>,
    pub big: Big,
}

impl Cols {
    /// The row that the foreign key points to.
    pub fn parent(self, of: RowId) -> Option<RowId> {
        match of.table {
            Table::A => None,
            Table::C => self.link.map(a),
            Table::G => self.link.map(c),
        }
    }

    /// Whether two rows of `a` clash in a unique column.
    pub fn clashes(self, other: Cols) -> bool {
        self.link.is_some() && self.link == other.link || self.second.is_some() && self.second == other.second
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Row {
    pub stamp: Stamp,
    pub cols: Cols,
    /// The delta column.
    pub n: i64,
    /// The server has forgotten the stamp; the checkers have not.
    pub frozen: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    Insert,
    Update,
    Delete,
    Truncate,
    Remove(ConflictType),
    Void,
}

/// One change in a log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    pub op: Op,
    pub row: RowId,
    /// Of an INSERT or UPDATE, as the stream carries them.
    pub cols: Option<Cols>,
    /// The whole row, for the checkers.
    pub full: Option<Cols>,
    /// The exact version replaced or removed, for the checkers and for removals.
    pub prev: Option<Stamp>,
    /// What the stream says about it.
    pub replaced: Replaced,
    /// Contribution to the counter.
    pub n: i64,
    /// Stamp of a tombstone and its residue, which is void.
    pub void: Option<(Stamp, i64)>,
    /// The key from which the row came here.
    pub moved_from: Option<Key>,
    /// A parent written anew.
    pub touch: bool,
}

impl Entry {
    pub fn new(op: Op, row: RowId) -> Entry {
        Entry {
            op,
            row,
            cols: None,
            full: None,
            prev: None,
            replaced: Replaced::Own,
            n: 0,
            void: None,
            moved_from: None,
            touch: false,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    pub origin: NodeId,
    pub stamp: Stamp,
    pub entries: Vec<Entry>,
    /// A heartbeat: promise and horizon.
    pub beat: Option<(Timestamp, Timestamp)>,
    /// Positions of the other logs that its node had applied when it was committed.
    pub saw: BTreeMap<NodeId, usize>,
}

/// Two moments that differ in `saw` alone go on alike; `explore` counts them as one.
impl Hash for Transaction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.origin, self.stamp, &self.entries, self.beat).hash(state);
    }
}

/// A version that was lost at a node, as its history has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lost {
    pub row: RowId,
    pub stamp: Stamp,
    pub why: Why,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Why {
    Overwritten,
    Beaten,
    Removed,
    Truncated,
}

/// What a local user asks for. An edit of `None` keeps what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Statement {
    Insert {
        row: RowId,
        cols: Cols,
        n: i64,
    },
    Update {
        row: RowId,
        v: Option<u32>,
        link: Option<Key>,
        second: Option<Key>,
        big: Option<u32>,
        n: i64,
    },
    Delete {
        row: RowId,
    },
    /// An UPDATE of the key, in `a`.
    Move {
        from: Key,
        to: Key,
    },
    Truncate {
        table: Table,
    },
}
