//! Unique indexes: who has to go when a row that wins its own key clashes with others.

use super::port::{First, LocalStamp, Operation, Outcome, Removal, RowStore, Values, named, not_newer};
use crate::conflict::ConflictType;
use crate::time::Stamp;

/// Puts the row, unless it clashes: then the losers are to be removed first. If any row that the candidate clashes with
/// is larger, the candidate alone loses, else all of them do. Rows of one transaction are compared by their keys.
pub(super) fn put<S: RowStore>(
    row: &S::Row,
    operation: Operation,
    stamp: Stamp,
    values: Values,
    store: &mut S,
) -> Result<Outcome<S::Row>, S::Error> {
    let clashes = store.clashes(row, values)?;
    if clashes.is_empty() {
        store.put(row, stamp, values)?;
        return Ok(Outcome::Applied);
    }
    let cause = match (clashes.len(), operation) {
        (2.., _) => ConflictType::MultipleUniqueConflicts,
        (_, Operation::Update) => ConflictType::UpdateExists,
        (_, Operation::Insert | Operation::Delete) => ConflictType::InsertExists,
    };
    Ok(match losers(row, stamp, &clashes) {
        None => Outcome::Undecided,
        Some(losers) => Outcome::First(
            losers.into_iter().map(|(row, version)| First::Remove(Removal { row, version, cause })).collect(),
        ),
    })
}

fn losers<R: Clone + Ord>(row: &R, stamp: Stamp, clashes: &[(R, LocalStamp)]) -> Option<Vec<(R, Stamp)>> {
    let mut victims = Vec::with_capacity(clashes.len());
    let mut candidate_loses = false;
    let mut undecided = false;
    for (other, local) in clashes {
        let version = named(*local, stamp);
        match not_newer(*local, stamp) {
            Some(not_newer) => candidate_loses |= !not_newer || version == stamp && other > row,
            None => undecided = true,
        }
        victims.push((other.clone(), version));
    }
    match (candidate_loses, undecided) {
        (true, _) => Some(vec![(row.clone(), stamp)]),
        (false, true) => None,
        (false, false) => Some(victims),
    }
}
