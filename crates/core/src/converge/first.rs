//! What a node commits by itself before a remote transaction that needs it: removals and parents written anew.
//!
//! Runs in a transaction of its own, after the remote one was aborted. It must be durable before anyone sees it, and it is
//! replicated like any other local transaction. The state may have moved on since the need was found (local users go on
//! writing), so each item looks again; the remote transaction is then applied again and finds what is left to do.

use std::collections::BTreeSet;

use super::port::{First, Here, LinkedStore, Outcome, Removal, Values};
use super::removal::{removals_of_children, strikes, take_away};
use crate::conflict::{Conflict, ConflictType, Resolution};
use crate::time::Stamp;

/// Carries out what an [`Outcome::First`] asked for. `led_by` is the stamp of the remote transaction. Answers `Applied`,
/// or `Undecided` where a stamp is forgotten that would decide: then the remote transaction is a permanent failure.
pub fn carry_out<S: LinkedStore>(
    first: &[First<S::Row>],
    led_by: Stamp,
    store: &mut S,
) -> Result<Outcome<S::Row>, S::Error> {
    let kept = |item: &First<S::Row>| match item {
        First::Remove(_) => None,
        First::KeepParent { parent, .. } => Some(parent.clone()),
    };
    let returning: BTreeSet<S::Row> = first.iter().filter_map(kept).collect();
    for item in first {
        let decided = match item {
            First::Remove(removal) => remove(removal, led_by, store)?,
            First::KeepParent { parent, or_else } => keep_parent(parent, or_else, &returning, led_by, store)?,
        };
        if !decided {
            return Ok(Outcome::Undecided);
        }
    }
    Ok(Outcome::Applied)
}

/// A removal whose children go first.
struct UnderWay<R> {
    removal: Removal<R>,
    here: Here,
    /// The next one last.
    children: Vec<Removal<R>>,
}

/// Children go before their parents, here and in the stream, so that no node has to remove them once more. Rows may refer
/// to each other in a circle, and in chains of any length: each goes once, and nothing here calls itself.
fn remove<S: LinkedStore>(removal: &Removal<S::Row>, led_by: Stamp, store: &mut S) -> Result<bool, S::Error> {
    let mut met = BTreeSet::from([removal.row.clone()]);
    let mut next = Some(removal.clone());
    let mut path: Vec<UnderWay<S::Row>> = Vec::new();
    loop {
        if let Some(removal) = next.take() {
            let here = store.find(&removal.row)?;
            match strikes(here, removal.version) {
                None => return Ok(false),
                Some(false) => {}
                Some(true) => {
                    let is_live = matches!(here, Here::Live(_));
                    let mut children =
                        if is_live { removals_of_children(&removal.row, led_by, store)? } else { Vec::new() };
                    children.reverse();
                    path.push(UnderWay { removal, here, children });
                }
            }
        }
        let Some(last) = path.last_mut() else { return Ok(true) };
        match last.children.pop() {
            Some(child) => next = met.insert(child.row.clone()).then_some(child),
            None => {
                store.announce(&last.removal)?;
                take_away(&last.removal, last.here, store)?;
                path.pop();
            }
        }
    }
}

/// Rows that return together may refer to each other in a circle.
fn keep_parent<S: LinkedStore>(
    parent: &S::Row,
    or_else: &Removal<S::Row>,
    returning: &BTreeSet<S::Row>,
    led_by: Stamp,
    store: &mut S,
) -> Result<bool, S::Error> {
    let here = store.find(parent)?;
    let kept = Conflict { kind: ConflictType::ForeignKey, resolution: Resolution::KeepLocal };
    match here {
        Here::Live(_) => store.rewrite(parent, Values::IncomingOverHere)?,
        Here::Nothing | Here::Dead(_) if !store.has_fetched(parent) => return Ok(true),
        Here::Nothing | Here::Dead(_) => {
            let clashes = !store.clashes(parent, Values::Fetched)?.is_empty() || store.strands(parent)?;
            let missing = store.missing_parents(parent, Values::Fetched)?;
            if clashes || missing.iter().any(|above| !returning.contains(above)) {
                return remove(or_else, led_by, store);
            }
            store.rewrite(parent, Values::Fetched)?;
        }
    }
    store.record(parent, kept, here)?;
    Ok(true)
}
