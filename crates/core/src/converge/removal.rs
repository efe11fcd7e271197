//! Removals: exactly one version of a row is gone, wherever it is or will arrive, and a later one is not.
//!
//! A removal is decided once, carried out as a transaction of the node that decides (`first`), and arrives at the others
//! as a change of its own kind. The children of a removed row go with it.

use super::port::{First, Grave, Here, LinkedStore, Outcome, Removal, named, not_newer};
use crate::conflict::{Conflict, ConflictType, Resolution};
use crate::time::Stamp;

/// Applies a removal that another node has decided, in a transaction with this stamp.
pub fn apply_removal<S: LinkedStore>(
    removal: &Removal<S::Row>,
    stamp: Stamp,
    store: &mut S,
) -> Result<Outcome<S::Row>, S::Error> {
    let here = store.find(&removal.row)?;
    match strikes(here, removal.version) {
        None => return Ok(Outcome::Undecided),
        Some(false) => return Ok(Outcome::Ignored),
        Some(true) => {}
    }
    if matches!(here, Here::Live(_)) {
        // also those that its author has never seen
        let children = removals_of_children(&removal.row, stamp, store)?;
        if !children.is_empty() {
            return Ok(Outcome::First(children.into_iter().map(First::Remove).collect()));
        }
    }
    take_away(removal, here, store)?;
    Ok(Outcome::Applied)
}

/// Whether what is here goes, if that is known. A tombstone of the version takes note of the removal.
pub(super) fn strikes(here: Here, version: Stamp) -> Option<bool> {
    match here {
        Here::Nothing => Some(true),
        Here::Dead(grave) => Some(grave.stamp <= version),
        Here::Live(local) => not_newer(local, version),
    }
}

pub(super) fn removals_of_children<S: LinkedStore>(
    row: &S::Row,
    this_transaction: Stamp,
    store: &mut S,
) -> Result<Vec<Removal<S::Row>>, S::Error> {
    let mut removals = Vec::new();
    for child in store.children(row)? {
        if let Here::Live(local) = store.find(&child)? {
            let version = named(local, this_transaction);
            removals.push(Removal { row: child, version, cause: ConflictType::ForeignKey });
        }
    }
    Ok(removals)
}

pub(super) fn take_away<S: LinkedStore>(removal: &Removal<S::Row>, here: Here, store: &mut S) -> Result<(), S::Error> {
    if matches!(here, Here::Live(_)) {
        let conflict = Conflict { kind: removal.cause, resolution: Resolution::ApplyRemote };
        store.record(&removal.row, conflict, here)?;
    }
    store.bury(&removal.row, Grave { stamp: removal.version, removed: Some(removal.cause) })
}
