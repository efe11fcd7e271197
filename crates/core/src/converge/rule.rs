//! Find, detect, resolve, write: what one incoming change does to its key.
//!
//! | incoming | nothing | live, the version it replaces | live, older | live, newer | dead, older | dead, newer |
//! |---|---|---|---|---|---|---|
//! | INSERT | insert | – | update, `insert_exists` | keep, `insert_exists` | insert | skip, `insert_deleted` |
//! | UPDATE | insert, `update_missing` | update | update, `update_origin_differs` | keep, `update_origin_differs` | insert, `update_deleted` | skip, `update_deleted` |
//! | DELETE | tombstone, `delete_missing` | delete, tombstone | same, `delete_origin_differs` | keep, `delete_exists` | raise tombstone | keep |
//!
//! Equal stamps are one transaction, whose changes act in its order; only the tombstone of a removal stands against the
//! version of its own stamp, and the conflict then carries the removal's cause. A truncate is a tombstone for every key.
//! A change older than a live row of its own origin was overtaken by a fetch: kept, no conflict. The contribution to a
//! counter does not depend on any of this.

use super::port::{
    Change, Fetched, Grave, Here, LocalStamp, Operation, Outcome, RowStore, Values, grave_of, not_newer,
};
use super::unique;
use crate::conflict::{Conflict, ConflictType, Resolution};
use crate::counter;
use crate::time::Stamp;

/// Whether a change takes the place of what is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Wins,
    Loses,
    Undecided,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    pub verdict: Verdict,
    pub conflict: Option<Conflict>,
}

/// Applies one change of a row.
pub fn apply_change<S: RowStore>(row: &S::Row, change: Change, store: &mut S) -> Result<Outcome<S::Row>, S::Error> {
    let here = store.find(row)?;
    let Decision { verdict, conflict } = decide(change, here, store.floor(row)?);
    if verdict == Verdict::Undecided {
        return Ok(Outcome::Undecided);
    }
    if let Some(conflict) = conflict {
        store.record(row, conflict, here)?;
    }
    if let Some(tombstone) = change.voids {
        apply_void(row, tombstone, change.stamp, store)?;
    }
    if change.contributes {
        store.count(row)?;
    }
    match (verdict, change.operation) {
        (Verdict::Loses | Verdict::Undecided, _) => Ok(Outcome::Ignored),
        (Verdict::Wins, Operation::Delete) => {
            store.bury(row, Grave { stamp: change.stamp, removed: None })?;
            Ok(Outcome::Applied)
        }
        (Verdict::Wins, Operation::Insert | Operation::Update) => write(row, change, here, store),
    }
}

/// The residue of a deleted row does not count for the next one. Comes with an INSERT, or by itself from the author of
/// the tombstone.
pub fn apply_void<S: RowStore>(row: &S::Row, tombstone: Stamp, by: Stamp, store: &mut S) -> Result<(), S::Error> {
    if counter::void_counts(by, store.voided(row, tombstone)?) {
        store.void(row, tombstone, by)?;
    }
    Ok(())
}

/// Who wins, and what conflict that is.
pub fn decide(change: Change, here: Here, floor: Option<Stamp>) -> Decision {
    // a delete leaves a tombstone of its own in any case: the floor may be forgotten before it
    let floor = floor.filter(|_| change.operation != Operation::Delete);
    match (here, grave_of(here, floor)) {
        (Here::Live(local), _) => against_live(change, local),
        (Here::Dead(_) | Here::Nothing, Some(grave)) => against_dead(change, grave),
        (Here::Dead(_) | Here::Nothing, None) => against_nothing(change),
    }
}

fn against_live(change: Change, local: LocalStamp) -> Decision {
    use ConflictType::*;
    let Some(not_newer) = not_newer(local, change.stamp) else {
        return Decision { verdict: Verdict::Undecided, conflict: None };
    };
    let origin = match local {
        LocalStamp::Known(stamp) => Some(stamp.node),
        LocalStamp::ThisTransaction | LocalStamp::Before(_) => None,
    };
    let (verdict, resolution) =
        if not_newer { (Verdict::Wins, Resolution::ApplyRemote) } else { (Verdict::Loses, Resolution::KeepLocal) };
    let silent = if not_newer {
        is_own_transaction(change, local) || is_replaced(change, local)
    } else {
        origin == Some(change.stamp.node)
    };
    let kind = match (change.operation, not_newer) {
        (Operation::Insert, _) => InsertExists,
        (Operation::Update, _) => UpdateOriginDiffers,
        (Operation::Delete, true) => DeleteOriginDiffers,
        (Operation::Delete, false) => DeleteExists,
    };
    Decision { verdict, conflict: (!silent).then_some(Conflict { kind, resolution }) }
}

fn against_dead(change: Change, grave: Grave) -> Decision {
    use ConflictType::*;
    let wins = grave.yields_to(change.stamp);
    let own_removal = grave.removed.filter(|_| change.stamp == grave.stamp);
    let conflict = match (change.operation, wins) {
        (Operation::Delete, _) | (Operation::Insert, true) => None,
        // the transaction itself deleted the row before
        (Operation::Update, true) if change.stamp == grave.stamp => None,
        (Operation::Update, true) => Some((UpdateDeleted, Resolution::ApplyRemote)),
        (Operation::Insert | Operation::Update, false) if own_removal.is_some() => {
            own_removal.map(|cause| (cause, Resolution::KeepLocal))
        }
        (Operation::Insert, false) => Some((InsertDeleted, Resolution::Skip)),
        (Operation::Update, false) => Some((UpdateDeleted, Resolution::Skip)),
    };
    let verdict = if wins { Verdict::Wins } else { Verdict::Loses };
    Decision { verdict, conflict: conflict.map(|(kind, resolution)| Conflict { kind, resolution }) }
}

fn against_nothing(change: Change) -> Decision {
    let conflict = match change.operation {
        Operation::Insert => None,
        Operation::Update => Some((ConflictType::UpdateMissing, Resolution::ApplyRemote)),
        Operation::Delete => Some((ConflictType::DeleteMissing, Resolution::Skip)),
    };
    Decision { verdict: Verdict::Wins, conflict: conflict.map(|(kind, resolution)| Conflict { kind, resolution }) }
}

fn is_own_transaction(change: Change, local: LocalStamp) -> bool {
    match local {
        LocalStamp::ThisTransaction => true,
        LocalStamp::Known(stamp) => stamp == change.stamp,
        LocalStamp::Before(_) => false,
    }
}

/// Whether the row here, which is not newer than the change, is just the version that the change replaced.
fn is_replaced(change: Change, local: LocalStamp) -> bool {
    change.operation != Operation::Insert && change.replaced.is(local, change.stamp.node, change.set_aside)
}

/// Writes the winner's whole row. What the stream left out is taken from the version it replaced, or fetched: never from
/// another one.
fn write<S: RowStore>(row: &S::Row, change: Change, here: Here, store: &mut S) -> Result<Outcome<S::Row>, S::Error> {
    let base_is_here = match here {
        Here::Live(local) if change.operation == Operation::Update => {
            is_own_transaction(change, local) || is_replaced(change, local)
        }
        Here::Live(_) | Here::Dead(_) | Here::Nothing => false,
    };
    let (stamp, values) = match (change.left_out, base_is_here) {
        (false, _) => (change.stamp, Values::Incoming),
        (true, true) => (change.stamp, Values::IncomingOverHere),
        (true, false) => match store.fetch(row)? {
            Fetched::Row(stamp) => (stamp.max(change.stamp), Values::Fetched),
            Fetched::Forgotten(bound) if bound <= change.stamp => (change.stamp, Values::Fetched),
            Fetched::Forgotten(_) => return Ok(Outcome::Undecided),
            Fetched::Gone => {
                // what removed it there is on its way
                store.bury(row, Grave { stamp: change.stamp, removed: None })?;
                return Ok(Outcome::Applied);
            }
        },
    };
    unique::put(row, change.operation, stamp, values, store)
}
