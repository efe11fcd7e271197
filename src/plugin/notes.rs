//! Messages of meld in the WAL of this node: which change one belongs to, and what it is in the stream.
//!
//! The row trigger puts a version directly before its change; some versions have no change, because a later trigger
//! suppressed it or ON CONFLICT took another way, so one counts for the next row event only, and only if table, kind and
//! key agree. A removal names a row that a DELETE somewhere behind it takes away: all nodes get the removal, so that
//! DELETE is not for them.

use meld_core::apply::Replaced;
use meld_core::ids::RelId;
use meld_core::value::Tuple;
use meld_core::wire::{LogicalMessage, Message, RemovalNote, Replacing, Version, codec};

use crate::pg::decoded::{RowChange, RowEvent};
use crate::pg::decoding::WalMessage;

/// Prefix of meld's own messages in WAL.
const PREFIX: &[u8] = b"meld";

/// A message of ours, by what the stream makes of it.
pub enum Note {
    /// Stands for itself between the transactions.
    Alone(LogicalMessage),
    Version(Version),
    Removal(RemovalNote),
    /// A void or a contribution.
    OfTable(RelId, Message),
}

/// What the trigger said of the change that is in hand.
pub struct Told {
    pub replaced: Replaced,
    pub old_counters: Option<Tuple>,
    /// It said something.
    pub is_told: bool,
}

/// What waits for its change, within one transaction.
#[derive(Default)]
pub struct Notes {
    /// What the trigger said last, if the next row event may be its change.
    version: Option<Version>,
    /// Rows that go with a removal, and have not gone yet: table and fingerprint of the key.
    going: Vec<(RelId, u64)>,
}

impl Note {
    /// None for what others wrote; an error for what stands under meld's prefix and is none of its messages, or is where
    /// it can't be.
    pub fn read(message: &WalMessage<'_>) -> Result<Option<Note>, Malformed> {
        if message.prefix != PREFIX {
            return Ok(None);
        }
        let own = match codec::decode(message.content) {
            Ok((Message::Logical(own), length)) if length == message.content.len() => own,
            _ => return Err(Malformed),
        };
        match (own, message.transaction.is_some()) {
            (own @ (LogicalMessage::SyncEvent { .. } | LogicalMessage::Heartbeat { .. }), false) => {
                Ok(Some(Note::Alone(own)))
            }
            (LogicalMessage::Version(version), true) => Ok(Some(Note::Version(version))),
            (LogicalMessage::Removal(note), true) => Ok(Some(Note::Removal(note))),
            (LogicalMessage::Void(void), true) => Ok(Some(Note::OfTable(void.relation, Message::Void(void)))),
            (LogicalMessage::Contribution(own), true) => {
                Ok(Some(Note::OfTable(own.relation, Message::Contribution(own))))
            }
            _ => Err(Malformed),
        }
    }
}

/// Anybody may write messages into WAL, under our prefix as well.
pub struct Malformed;

impl Notes {
    /// Another transaction begins.
    pub fn clear(&mut self) {
        self.version = None;
        self.going.clear();
    }

    /// What is about to be decoded is no change of a row.
    pub fn interrupt(&mut self) {
        self.version = None;
    }

    pub fn version(&mut self, version: Version) {
        self.version = Some(version);
    }

    pub fn removal(&mut self, note: &RemovalNote) {
        if note.row_goes {
            self.going.push((note.removal.relation, note.fingerprint));
        }
    }

    /// What was said of this change, which is the next one after what was said last.
    pub fn told_of(&mut self, change: &RowChange<'_>) -> Told {
        match self.version.take() {
            Some(version) if is_about(&version, change) => {
                Told { replaced: version.replaced, old_counters: version.old_counters, is_told: true }
            }
            Some(_) | None => Told { replaced: Replaced::Own, old_counters: None, is_told: false },
        }
    }

    /// Whether this is the DELETE of a removal that was announced. It is asked once for each change.
    pub fn is_removed(&mut self, change: &RowChange<'_>) -> bool {
        if self.going.is_empty() || !matches!(change.event, RowEvent::Delete { .. }) {
            return false;
        }
        let Some(key) = change.old_key() else { return false };
        let row = (change.relation.id(), key);
        match self.going.iter().position(|&going| going == row) {
            Some(place) => {
                self.going.swap_remove(place);
                true
            }
            None => false,
        }
    }
}

fn is_about(version: &Version, change: &RowChange<'_>) -> bool {
    let is_kind = match change.event {
        RowEvent::Insert { .. } => false,
        RowEvent::Update { .. } => version.change == Replacing::Update,
        RowEvent::Delete { .. } => version.change == Replacing::Delete,
    };
    // WAL may lack the bytes of a key that an update left in a TOAST table. A table with delta columns has a version
    // before each update, so that the last one can only be this change's
    let is_row = |key: Option<u64>| key.map_or(version.old_counters.is_some(), |key| key == version.key);
    is_kind && version.relation == change.relation.id() && is_row(change.old_key())
}
