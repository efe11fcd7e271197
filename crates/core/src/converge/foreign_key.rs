//! Foreign keys, checked at the end of each applied transaction.
//!
//! A child whose parent is not here either came before its parent (then the parent is fetched and put in), or is on its
//! way out (then it goes), or one of the two has to give way: the transaction in hand took the parent of a child that is
//! here, or brought a child whose parent was deleted here. That is the `foreign_key` conflict, and the policy decides.

use std::collections::BTreeSet;

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
///
/// It ends: a row is put at most once and goes at most once in one check.
pub fn check_foreign_keys<S: LinkedStore>(
    policy: Policy,
    stamp: Stamp,
    store: &mut S,
) -> Result<Outcome<S::Row>, S::Error> {
    let mut gone = BTreeSet::new();
    // a parent that is put in may be a child itself; one level of the schema is settled in each round
    loop {
        let orphans = store.orphans()?;
        if orphans.is_empty() {
            return Ok(Outcome::Applied);
        }
        for orphan in orphans {
            match settle(&orphan, policy, stamp, &mut gone, store)? {
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
    gone: &mut BTreeSet<S::Row>,
    store: &mut S,
) -> Result<Outcome<S::Row>, S::Error> {
    let parent = &orphan.parent;
    if !orphan.written {
        return Ok(conflict(orphan, policy, stamp, vec![parent.clone()]));
    }
    let here = store.find(parent)?;
    if matches!(here, Here::Live(_)) {
        return Ok(Outcome::Applied); // another orphan has brought it
    }
    let grave = grave_of(here, store.floor(parent)?);
    let there = if gone.contains(parent) { Fetched::Gone } else { store.fetch(parent)? };
    match there {
        Fetched::Gone => {
            // so the child is gone there, too: its removal is on its way
            gone.insert(orphan.child.clone());
            store.bury(&orphan.child, Grave { stamp: named(orphan.stamp, stamp), removed: None })?;
            return Ok(Outcome::Applied);
        }
        Fetched::Row(there) if grave.is_none_or(|grave| grave.yields_to(there)) => {
            return unique::put(parent, Operation::Insert, there, Values::Fetched, store);
        }
        Fetched::Forgotten(bound) if grave.is_none_or(|grave| bound > grave.stamp) => return Ok(Outcome::Undecided),
        Fetched::Row(_) | Fetched::Forgotten(_) => {} // older than our tombstone
    }
    let returning = if policy == Policy::KeepParent { ancestry(parent, store)? } else { None };
    Ok(match returning {
        Some(rows) => conflict(orphan, policy, stamp, rows),
        None if policy == Policy::KeepParent => conflict(orphan, Policy::DropChild, stamp, Vec::new()),
        None => conflict(orphan, policy, stamp, Vec::new()),
    })
}

/// The fetched parent and all its own ancestors that have to come back with it, parents first; `None` if they cannot,
/// because one would clash with a unique value or is gone at the provider.
fn ancestry<S: LinkedStore>(parent: &S::Row, store: &mut S) -> Result<Option<Vec<S::Row>>, S::Error> {
    let mut rows = vec![parent.clone()];
    let mut at = 0;
    while at < rows.len() {
        let row = rows[at].clone();
        if !store.clashes(&row, Values::Fetched)?.is_empty() || store.strands(&row)? {
            return Ok(None);
        }
        for above in store.missing_parents(&row, Values::Fetched)? {
            if rows.contains(&above) {
                continue;
            }
            if store.fetch(&above)? == Fetched::Gone {
                return Ok(None);
            }
            rows.push(above);
        }
        at += 1;
    }
    rows.reverse();
    Ok(Some(rows))
}

/// `returning` are the rows that are to be kept, parents first.
fn conflict<R: Clone>(orphan: &Orphan<R>, policy: Policy, stamp: Stamp, returning: Vec<R>) -> Outcome<R> {
    let version = named(orphan.stamp, stamp);
    let removal = Removal { row: orphan.child.clone(), version, cause: ConflictType::ForeignKey };
    let kept = |parent| First::KeepParent { parent, or_else: removal.clone() };
    match policy {
        Policy::KeepParent => Outcome::First(returning.into_iter().map(kept).collect()),
        Policy::DropChild => Outcome::First(vec![First::Remove(removal)]),
        Policy::Exception => Outcome::Violation(orphan.clone()),
    }
}
