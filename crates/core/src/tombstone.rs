//! Tombstones as they are kept, and when they may be forgotten.
//!
//! A tombstone has two times: the stamp of the delete, which decides against changes, and that of the transaction that
//! made it, which decides how long it is needed. They differ for a removal, which carries its victim's stamp.

use crate::converge::Grave;
use crate::ids::NodeId;
use crate::time::{Stamp, Timestamp};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tombstone {
    /// `None`: a residue that waits for its row.
    pub grave: Option<Grave>,
    /// The transaction that made it, the latest if there were several. `None` for a waiting residue.
    pub since: Option<Stamp>,
}

impl Tombstone {
    /// The tombstone after `bury`: the grave is new, the time it is kept from does not fall.
    pub fn buried(before: Option<Tombstone>, grave: Grave, by: Stamp) -> Tombstone {
        Tombstone { grave: Some(grave), since: before.and_then(|tombstone| tombstone.since).max(Some(by)) }
    }

    /// Whether it may be dropped. `confirmed` is [`Horizons::confirmed`](crate::horizon::Horizons::confirmed): every
    /// node has applied the delete, and whatever was written without knowing it has arrived everywhere. A residue has to be
    /// made void before.
    pub fn is_droppable(&self, residue_is_zero: bool, confirmed: Timestamp) -> bool {
        let latest = self.grave.map(|grave| grave.stamp).max(self.since);
        residue_is_zero && latest.is_none_or(|stamp| stamp.commit_ts <= confirmed)
    }

    /// Whether this node, as the author of the tombstone, is to announce its residue void, and under which name.
    pub fn due_void(
        &self,
        local: NodeId,
        residue_is_zero: bool,
        is_void_already: bool,
        confirmed: Timestamp,
    ) -> Option<Stamp> {
        let since = self.since?;
        let due = !residue_is_zero && !is_void_already && since.node == local && since.commit_ts <= confirmed;
        self.grave.filter(|_| due).map(|grave| grave.stamp)
    }
}

/// Whether the register of a void may be dropped: `by` is the transaction whose void counts. Parked work may hold an
/// older void of the same tombstone, so nothing is dropped while any is parked.
pub fn void_is_droppable(by: Stamp, tombstone: Stamp, anything_is_parked: bool, confirmed: Timestamp) -> bool {
    by.max(tombstone).commit_ts <= confirmed && !anything_is_parked
}

/// Whether the stamp of a table's last truncate may be forgotten: like a tombstone of every key.
pub fn floor_is_droppable(floor: Stamp, confirmed: Timestamp) -> bool {
    floor.commit_ts <= confirmed
}
