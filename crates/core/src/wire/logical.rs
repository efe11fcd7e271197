//! What a node writes into its own WAL for the output plugin, beside the changes of rows.
//!
//! Triggers and workers encode these as [`super::Message::Logical`]. The output plugin takes them out again: it puts
//! versions into the changes that they stand before, turns removals, voids and contributions into messages of the stream,
//! and passes on as they are only those that belong to no table. Their encoding is fixed like that of all messages.

use bincode::{Decode, Encode};

use super::message::{Contribution, Removal, Void, optional};
use crate::ids::RelId;
use crate::lsn::Lsn;
use crate::time::Timestamp;
use crate::value::Tuple;
use crate::version::Replaced;

/// A message of meld's own that a node wrote into its WAL.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum LogicalMessage {
    /// `meld.sync_event()`: `lsn` is what it returned.
    SyncEvent {
        lsn: Lsn,
    },
    /// Directly before the UPDATE or DELETE that it tells of, if that replaces another node's version or changes a
    /// counter. Also before the INSERT of a row that this node puts back. It is never sent: the output plugin puts it into
    /// the change.
    Version(Version),
    /// Belongs to no transaction and is sent as it is.
    Heartbeat {
        /// No commit of this node with a timestamp up to this one is still to come.
        promise: Timestamp,
        /// The smallest promise that this node has heard from all others.
        horizon: Timestamp,
        /// The same, of all but those that it has left behind.
        beyond: Timestamp,
        /// Those, as [`crate::horizon::Without`]; 0 for none.
        without: u64,
    },
    /// Never sent as it is, like all that follow: [`super::Message`] has kinds of their own for them.
    Removal(RemovalNote),
    Void(Void),
    Contribution(Contribution),
}

/// Which version the next change replaces.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Version {
    pub relation: RelId,
    pub change: Replacing,
    /// [`crate::fingerprint`] of the old row's key.
    pub key: u64,
    pub replaced: Replaced,
    /// See [`super::Update::old_counters`].
    pub old_counters: Option<Tuple>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Replacing {
    Update,
    Delete,
    /// An INSERT that puts a row back: it is sent as an UPDATE of that version. Other changes may stand in between.
    Return,
}

/// A removal that this node has decided.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct RemovalNote {
    pub removal: Removal,
    /// The row is here: the next DELETE of its key in this transaction is what takes it away, and is not sent.
    pub row_goes: bool,
    /// [`crate::fingerprint`] of the row's key, by which that DELETE is known.
    pub fingerprint: u64,
}

impl LogicalMessage {
    /// Bytes of memory that the message holds outside its own struct.
    pub(super) fn size_bytes(&self) -> usize {
        match self {
            LogicalMessage::SyncEvent { .. } | LogicalMessage::Heartbeat { .. } => 0,
            LogicalMessage::Version(version) => optional(&version.old_counters),
            LogicalMessage::Removal(note) => note.removal.key.size_bytes(),
            LogicalMessage::Void(void) => void.key.size_bytes() + void.residue.size_bytes(),
            LogicalMessage::Contribution(own) => own.key.size_bytes() + own.amounts.size_bytes(),
        }
    }
}
