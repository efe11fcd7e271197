//! Find, detect, resolve, write: what one incoming change does.
//!
//! Foundation of the convergence rule, for rows that are here or not (no tombstones yet):
//!
//! | incoming | none | live, same transaction or same origin | live, older | live, newer |
//! |---|---|---|---|---|
//! | INSERT | insert | update | update, `insert_exists` | keep, `insert_exists` |
//! | UPDATE | insert, `update_missing` | update | update, `update_origin_differs` | keep, `update_origin_differs` |
//! | DELETE | `delete_missing` | delete | delete, `delete_origin_differs` | keep, `delete_exists` |

use super::port::{Change, LocalRow, LocalStamp, Operation, RowStore};
use crate::conflict::{Conflict, ConflictType, Resolution};

/// What became of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Applied,
    /// The row here was written later, or there was nothing to delete.
    Ignored,
}

/// Applies one change to the store that was made for it.
pub fn apply_change<S: RowStore>(change: Change, store: &mut S) -> Result<Outcome, S::Error> {
    let local = store.find()?;
    let (wins, conflict) = decide(change, local);
    if let Some(conflict) = conflict {
        store.record(conflict, local)?;
    }
    match (change.operation, local, wins) {
        (_, _, false) | (Operation::Delete, None, true) => return Ok(Outcome::Ignored),
        (Operation::Delete, Some(_), true) => store.delete()?,
        (Operation::Insert | Operation::Update, Some(_), true) => store.update()?,
        (Operation::Insert | Operation::Update, None, true) => store.insert()?,
    }
    Ok(Outcome::Applied)
}

/// Whether the change wins over what is here, and what conflict that is.
fn decide(change: Change, local: Option<LocalRow>) -> (bool, Option<Conflict>) {
    use ConflictType::*;
    let Some(local) = local else {
        let conflict = match change.operation {
            Operation::Insert => None,
            Operation::Update => Some(Conflict { kind: UpdateMissing, resolution: Resolution::ApplyRemote }),
            Operation::Delete => Some(Conflict { kind: DeleteMissing, resolution: Resolution::Skip }),
        };
        return (true, conflict);
    };
    let (wins, sequential) = match local.stamp {
        LocalStamp::ThisTransaction => (true, true),
        // the stream of one origin is in order
        LocalStamp::Known(stamp) if stamp.node == change.stamp.node => (stamp <= change.stamp, true),
        LocalStamp::Known(stamp) => (stamp < change.stamp, false),
        LocalStamp::Before(bound) => (bound <= change.stamp, false),
    };
    let kind = match (change.operation, wins) {
        (Operation::Insert, _) => InsertExists,
        (Operation::Update, _) => UpdateOriginDiffers,
        (Operation::Delete, true) => DeleteOriginDiffers,
        (Operation::Delete, false) => DeleteExists,
    };
    let resolution = if wins { Resolution::ApplyRemote } else { Resolution::KeepLocal };
    (wins, (!sequential).then_some(Conflict { kind, resolution }))
}
