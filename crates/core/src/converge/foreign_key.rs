//! Foreign keys, checked at the end of each applied transaction.
//!
//! A child whose parent is not here either came before its parent (then the parent is fetched and put in), or is on its
//! way out (then it goes), or one of the two has to give way: the transaction in hand took the parent of a child that is
//! here, or brought a child whose parent was deleted here. That is the `foreign_key` conflict, and the policy decides.

use super::port::{
    Fetched, First, Grave, Here, LinkedStore, Operation, Orphan, Outcome, Removal, Values, grave_of, named,
};
use super::unique;
use crate::conflict::ConflictType;
use crate::time::Stamp;

/// `meld.foreign_key_conflict`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Policy {
    KeepParent,
    DropChild,
    Exception,
}

/// Sees to it that no row stands without its parent. `Applied` means that none does.
pub fn check_foreign_keys<S: LinkedStore>(
    policy: Policy,
    stamp: Stamp,
    store: &mut S,
) -> Result<Outcome<S::Row>, S::Error> {
    // a parent that is put in may be a child itself; one level of the schema is settled in each round
    loop {
        let orphans = store.orphans()?;
        if orphans.is_empty() {
            return Ok(Outcome::Applied);
        }
        for orphan in orphans {
            match settle(&orphan, policy, stamp, store)? {
                Outcome::Applied | Outcome::Ignored => {}
                other => return Ok(other),
            }
        }
    }
}

fn settle<S: LinkedStore>(
    orphan: &Orphan<S::Row>,
    policy: Policy,
    stamp: Stamp,
    store: &mut S,
) -> Result<Outcome<S::Row>, S::Error> {
    let parent = &orphan.parent;
    if !orphan.written {
        return Ok(conflict(orphan, policy, stamp));
    }
    let here = store.find(parent)?;
    if matches!(here, Here::Live(_)) {
        return Ok(Outcome::Applied); // another orphan has brought it
    }
    let grave = grave_of(here, store.floor(parent)?);
    match store.fetch(parent)? {
        Fetched::Gone => {
            // so the child is gone there, too: its removal is on its way
            store.bury(&orphan.child, Grave { stamp: named(orphan.stamp, stamp), removed: None })?;
            return Ok(Outcome::Applied);
        }
        Fetched::Row(there) if grave.is_none_or(|grave| grave.yields_to(there)) => {
            return unique::put(parent, Operation::Insert, there, Values::Fetched, store);
        }
        Fetched::Forgotten(bound) if grave.is_none_or(|grave| bound > grave.stamp) => return Ok(Outcome::Undecided),
        Fetched::Row(_) | Fetched::Forgotten(_) => {} // older than our tombstone
    }
    let returns_alone = store.clashes(parent, Values::Fetched)?.is_empty();
    Ok(conflict(orphan, if policy == Policy::KeepParent && !returns_alone { Policy::DropChild } else { policy }, stamp))
}

fn conflict<R: Clone>(orphan: &Orphan<R>, policy: Policy, stamp: Stamp) -> Outcome<R> {
    let removal =
        Removal { row: orphan.child.clone(), version: named(orphan.stamp, stamp), cause: ConflictType::ForeignKey };
    match policy {
        Policy::KeepParent => {
            Outcome::First(vec![First::KeepParent { parent: orphan.parent.clone(), or_else: removal }])
        }
        Policy::DropChild => Outcome::First(vec![First::Remove(removal)]),
        Policy::Exception => Outcome::Violation(orphan.clone()),
    }
}
