//! Find, detect, resolve, write: what one incoming change does.
//!
//! Foundation of the convergence rule, for rows that are here or not (no tombstones yet):
//!
//! | incoming | none | live, same transaction | live, the version it replaces | live, older | live, newer |
//! |---|---|---|---|---|---|
//! | INSERT | insert | update | – | update, `insert_exists` | keep, `insert_exists` |
//! | UPDATE | insert, `update_missing` | update | update | update, `update_origin_differs` | keep, `update_origin_differs` |
//! | DELETE | `delete_missing` | delete | delete | delete, `delete_origin_differs` | keep, `delete_exists` |
//!
//! A change that replaces just the version that is here is sequential, whoever wrote that version: no conflict.
//!
//! Two cases go beyond the table. A change older than a row of its own origin was overtaken by a younger version
//! of the same stream: kept, no conflict. A row whose stamp the server has forgotten is known to be older than a bound:
//! a change that is not younger than the bound could have won or lost, and is handed back undecided, never guessed.

use super::port::{Change, LocalRow, LocalStamp, Operation, RowStore};
use crate::conflict::{Conflict, ConflictType, Resolution};

/// What became of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Applied,
    /// The row here was written later, or there was nothing to delete.
    Ignored,
    /// The stamp of the row here is forgotten and may be older or younger than the change. Nothing was written; the
    /// caller must not pass the change by (the transaction is a permanent failure).
    Undecided,
}

/// What is to be done about a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Decision {
    Apply(Option<Conflict>),
    Keep(Option<Conflict>),
    Undecided,
}

/// Applies one change to the store that was made for it.
pub fn apply_change<S: RowStore>(change: Change, store: &mut S) -> Result<Outcome, S::Error> {
    apply_by(decide, change, store)
}

/// The rule over any resolver, so that its tests can be tried on wrong ones.
pub(super) fn apply_by<S: RowStore>(
    decide: impl FnOnce(Change, Option<LocalRow>) -> Decision,
    change: Change,
    store: &mut S,
) -> Result<Outcome, S::Error> {
    let local = store.find()?;
    let (conflict, wins) = match decide(change, local) {
        Decision::Apply(conflict) => (conflict, true),
        Decision::Keep(conflict) => (conflict, false),
        Decision::Undecided => return Ok(Outcome::Undecided),
    };
    if let Some(conflict) = conflict {
        store.record(conflict, local)?;
    }
    if !wins {
        return Ok(Outcome::Ignored);
    }
    match (change.operation, local) {
        (Operation::Delete, None) => return Ok(Outcome::Ignored),
        (Operation::Delete, Some(_)) => store.delete()?,
        (Operation::Insert | Operation::Update, Some(_)) => store.update()?,
        (Operation::Insert | Operation::Update, None) => store.insert()?,
    }
    Ok(Outcome::Applied)
}

/// Whether the change wins over what is here, and what conflict that is.
pub(super) fn decide(change: Change, local: Option<LocalRow>) -> Decision {
    use ConflictType::*;
    let Some(local) = local else {
        let conflict = match change.operation {
            Operation::Insert => None,
            Operation::Update => Some(Conflict { kind: UpdateMissing, resolution: Resolution::ApplyRemote }),
            Operation::Delete => Some(Conflict { kind: DeleteMissing, resolution: Resolution::Skip }),
        };
        return Decision::Apply(conflict);
    };
    let (wins, sequential) = match local.stamp {
        LocalStamp::ThisTransaction => (true, true),
        LocalStamp::Known(stamp) if stamp == change.stamp => (true, true),
        LocalStamp::Known(stamp) if stamp < change.stamp => (true, is_replaced(change, local.stamp)),
        // one of the change's own origin has overtaken it
        LocalStamp::Known(stamp) => (false, stamp.node == change.stamp.node),
        LocalStamp::Before(bound) if bound <= change.stamp => (true, false),
        LocalStamp::Before(_) => return Decision::Undecided,
    };
    let kind = match (change.operation, wins) {
        (Operation::Insert, _) => InsertExists,
        (Operation::Update, _) => UpdateOriginDiffers,
        (Operation::Delete, true) => DeleteOriginDiffers,
        (Operation::Delete, false) => DeleteExists,
    };
    let conflict = |resolution| (!sequential).then_some(Conflict { kind, resolution });
    if wins {
        Decision::Apply(conflict(Resolution::ApplyRemote))
    } else {
        Decision::Keep(conflict(Resolution::KeepLocal))
    }
}

/// Whether the row here, which is not newer than the change, is just the version that the change replaced.
fn is_replaced(change: Change, local: LocalStamp) -> bool {
    change.operation != Operation::Insert && change.replaced.is(local, change.stamp.node, None)
}
