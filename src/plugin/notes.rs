//! Messages of meld in the WAL of this node: which change one belongs to, and what it is in the stream.
//!
//! The row trigger puts a version directly before its change; some versions have no change, because a later trigger
//! suppressed it or ON CONFLICT took another way, so one counts for the next row event only, and only if table, kind and
//! key agree. A removal names a row that a DELETE somewhere behind it takes away: all nodes get the removal, so that
//! DELETE is not for them. A parent that is kept although it is not here any more comes back by an INSERT, which is sent as
//! the UPDATE that it stands for; both are found by table and key.
//!
//! Everybody may write messages into WAL, under meld's prefix as well: what this node has not sealed is ignored.

use meld_core::ids::RelId;
use meld_core::lsn::Lsn;
use meld_core::value::Tuple;
use meld_core::version::Replaced;
use meld_core::wire::{LogicalMessage, Message, RemovalNote, Replacing, Version};

use crate::log::Result;
use crate::pg::decoded::{RowChange, RowEvent};
use crate::pg::decoding::WalMessage;
use crate::pg::decoding_session::in_catalog_transaction;
use crate::pg::message::insert_position;
use crate::pg::secret::{self, Known};

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
    /// The change is an INSERT that puts a row back.
    pub returns: bool,
}

/// What waits for its change, within one transaction.
#[derive(Default)]
pub struct Notes {
    /// What the trigger said last, if the next row event may be its change.
    version: Option<Version>,
    /// Rows that go with a removal, and have not gone yet: table and fingerprint of the key.
    going: Vec<(RelId, u64)>,
    /// Rows that come back, and have not come yet.
    returning: Vec<Version>,
}

impl Note {
    /// None for what others wrote; an error for what stands under meld's prefix and was not sealed by this node, or is where
    /// it can't be. Needs what [`Seals::open`] needs.
    pub fn read(message: &WalMessage<'_>, seals: &mut Seals) -> Result<Option<std::result::Result<Note, Forged>>> {
        if message.prefix != PREFIX {
            return Ok(None);
        }
        let own = seals.open(message)?;
        Ok(Some(match (own, message.transaction.is_some()) {
            (Some(own @ (LogicalMessage::SyncEvent { .. } | LogicalMessage::Heartbeat { .. })), false) => {
                Ok(Note::Alone(own))
            }
            (Some(LogicalMessage::Version(version)), true) => Ok(Note::Version(version)),
            (Some(LogicalMessage::Removal(note)), true) => Ok(Note::Removal(note)),
            (Some(LogicalMessage::Void(void)), true) => Ok(Note::OfTable(void.relation, Message::Void(void))),
            (Some(LogicalMessage::Contribution(own)), true) => {
                Ok(Note::OfTable(own.relation, Message::Contribution(own)))
            }
            (Some(_) | None, _) => Err(Forged),
        }))
    }
}

/// A message that this node did not write.
pub struct Forged;

/// Opens messages that this node has sealed.
pub struct Seals {
    known: Option<Known>,
    /// Where the WAL ended when this stream began.
    began_at: Lsn,
}

impl Seals {
    /// In a transaction.
    pub fn read() -> Result<Seals> {
        Ok(Seals { known: secret::read()?, began_at: insert_position() })
    }

    /// The extension may be made anew while this runs, and have another secret then. One that it had before cannot be
    /// read any more, since its table is gone.
    fn open(&mut self, message: &WalMessage<'_>) -> Result<Option<LogicalMessage>> {
        let transaction = message.transaction.map(|transaction| transaction.xid);
        let open =
            |known: &Option<Known>| known.as_ref().and_then(|known| known.secret().open(transaction, message.content));
        if let Some(own) = open(&self.known) {
            return Ok(Some(own));
        }
        if message.lsn < self.began_at {
            return Ok(None);
        }
        let newer = in_catalog_transaction(|| {
            if self.known.as_ref().is_some_and(Known::is_present) { Ok(None) } else { secret::read() }
        })?;
        let opened = open(&newer);
        if newer.is_some() {
            self.known = newer;
        }
        Ok(opened)
    }
}

impl Notes {
    /// Another transaction begins.
    pub fn clear(&mut self) {
        self.version = None;
        self.going.clear();
        self.returning.clear();
    }

    /// What is about to be decoded is no change of a row.
    pub fn interrupt(&mut self) {
        self.version = None;
    }

    pub fn version(&mut self, version: Version) {
        match version.change {
            Replacing::Update | Replacing::Delete => self.version = Some(version),
            Replacing::Return => self.returning.push(version),
        }
    }

    pub fn removal(&mut self, note: &RemovalNote) {
        if note.row_goes {
            self.going.push((note.removal.relation, note.fingerprint));
        }
    }

    /// What was said of this change, which is the next one after what was said last.
    pub fn told_of(&mut self, change: &RowChange<'_>) -> Told {
        let version = self.version.take();
        if let Some(version) = self.returned(change) {
            return Told { replaced: version.replaced, old_counters: None, is_told: true, returns: true };
        }
        match version {
            Some(version) if is_about(&version, change) => {
                let Version { replaced, old_counters, .. } = version;
                Told { replaced, old_counters, is_told: true, returns: false }
            }
            Some(_) | None => Told { replaced: Replaced::Own, old_counters: None, is_told: false, returns: false },
        }
    }

    /// What was said of the INSERT that puts a row back, if the change is that.
    fn returned(&mut self, change: &RowChange<'_>) -> Option<Version> {
        if self.returning.is_empty() {
            return None;
        }
        let row = (change.relation.id(), change.inserted_key()?);
        let place = self.returning.iter().position(|version| (version.relation, version.key) == row)?;
        Some(self.returning.swap_remove(place))
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
