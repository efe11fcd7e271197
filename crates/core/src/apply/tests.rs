//! The foundation rule against its table, cell by cell, and against the property that it is for: the row at the end does
//! not depend on the order of arrival. Both checks run over any resolver, and must reject the wrong ones given here.

use proptest::prelude::*;

use super::change::{Decision, apply_by, decide};
use super::{Change, LocalRow, LocalStamp, Operation, Outcome, Replaced, RowStore};
use crate::conflict::{Conflict, ConflictType, Resolution};
use crate::ids::NodeId;
use crate::time::{Stamp, Timestamp};

type Decide = fn(Change, Option<LocalRow>) -> Decision;

/// One key in memory: the row is its stamp.
#[derive(Default)]
struct OneKey {
    row: Option<LocalStamp>,
    incoming: Option<Stamp>,
    wrote: Option<&'static str>,
    recorded: Vec<(Conflict, Option<LocalRow>)>,
}

impl OneKey {
    fn holding(row: Option<LocalStamp>) -> OneKey {
        OneKey { row, ..OneKey::default() }
    }

    fn take(&mut self, change: Change, decide: Decide) -> Outcome {
        self.incoming = Some(change.stamp);
        apply_by(decide, change, self).unwrap_or_else(|never: std::convert::Infallible| match never {})
    }
}

impl RowStore for OneKey {
    type Error = std::convert::Infallible;

    fn find(&mut self) -> Result<Option<LocalRow>, Self::Error> {
        Ok(self.row.map(|stamp| LocalRow { stamp }))
    }

    fn insert(&mut self) -> Result<(), Self::Error> {
        assert!(self.row.is_none(), "insert over a row");
        self.wrote = Some("insert");
        self.row = self.incoming.map(LocalStamp::Known);
        Ok(())
    }

    fn update(&mut self) -> Result<(), Self::Error> {
        assert!(self.row.is_some(), "update of nothing");
        self.wrote = Some("update");
        self.row = self.incoming.map(LocalStamp::Known);
        Ok(())
    }

    fn delete(&mut self) -> Result<(), Self::Error> {
        assert!(self.row.is_some(), "delete of nothing");
        self.wrote = Some("delete");
        self.row = None;
        Ok(())
    }

    fn record(&mut self, conflict: Conflict, local: Option<LocalRow>) -> Result<(), Self::Error> {
        self.recorded.push((conflict, local));
        Ok(())
    }
}

fn stamp(commit_ts: i64, node: u16) -> Stamp {
    Stamp { commit_ts: Timestamp(commit_ts), node: NodeId(node) }
}

const INCOMING: (i64, u16) = (100, 5);

/// The version in the situation of that name.
const OTHER_OLDER: Replaced = Replaced::Version(Stamp { commit_ts: Timestamp(99), node: NodeId(9) });

/// Everything that an incoming change can meet. `INCOMING` is its stamp.
fn situations() -> Vec<(&'static str, Option<LocalStamp>)> {
    let known = |ts, node| Some(LocalStamp::Known(stamp(ts, node)));
    let before = |ts, node| Some(LocalStamp::Before(stamp(ts, node)));
    vec![
        ("none", None),
        ("this transaction", Some(LocalStamp::ThisTransaction)),
        ("own origin, older", known(99, 5)),
        ("own origin, equal", known(100, 5)),
        ("own origin, newer", known(101, 5)),
        ("other origin, older", known(99, 9)),
        ("other origin, older, lower node", known(99, 1)),
        ("other origin, newer", known(101, 1)),
        ("other origin, newer, higher node", known(101, 9)),
        ("tie, lower node here", known(100, 4)),
        ("tie, higher node here", known(100, 6)),
        ("forgotten, bound older", before(99, 9)),
        ("forgotten, bound equal", before(100, 5)),
        ("forgotten, bound newer", before(101, 1)),
    ]
}

/// What a cell of the table says: outcome, write, conflict.
type Cell = (Outcome, Option<&'static str>, Option<(ConflictType, Resolution)>);

fn table(operation: Operation, situation: &str, replaced: Replaced) -> Cell {
    use ConflictType::*;
    use Operation::*;
    use Outcome::*;
    use Resolution::*;
    let write = if operation == Delete { "delete" } else { "update" };
    match (situation, operation) {
        ("none", Insert) => (Applied, Some("insert"), None),
        ("none", Update) => (Applied, Some("insert"), Some((UpdateMissing, ApplyRemote))),
        ("none", Delete) => (Ignored, None, Some((DeleteMissing, Skip))),
        ("this transaction" | "own origin, equal", _) => (Applied, Some(write), None),
        // the version that was replaced, whoever wrote it
        ("own origin, older", Update | Delete) if replaced == Replaced::Own => (Applied, Some(write), None),
        ("other origin, older", Update | Delete) if replaced == OTHER_OLDER => (Applied, Some(write), None),
        ("own origin, newer", _) => (Ignored, None, None),
        ("forgotten, bound newer", _) => (Undecided, None, None),
        (
            "own origin, older"
            | "other origin, older"
            | "other origin, older, lower node"
            | "tie, lower node here"
            | "forgotten, bound older"
            | "forgotten, bound equal",
            _,
        ) => {
            let kind = match operation {
                Insert => InsertExists,
                Update => UpdateOriginDiffers,
                Delete => DeleteOriginDiffers,
            };
            (Applied, Some(write), Some((kind, ApplyRemote)))
        }
        ("other origin, newer" | "other origin, newer, higher node" | "tie, higher node here", _) => {
            let kind = match operation {
                Insert => InsertExists,
                Update => UpdateOriginDiffers,
                Delete => DeleteExists,
            };
            (Ignored, None, Some((kind, KeepLocal)))
        }
        (other, _) => panic!("no such situation: {other}"),
    }
}

/// The first cell in which a resolver departs from the table.
fn departs_from_table(decide: Decide) -> Result<(), String> {
    let operations = [Operation::Insert, Operation::Update, Operation::Delete];
    let third = Replaced::Version(stamp(98, 9));
    for (operation, replaced) in
        operations.into_iter().flat_map(|o| [Replaced::Own, OTHER_OLDER, third, Replaced::Unknown].map(|r| (o, r)))
    {
        for (situation, row) in situations() {
            let mut key = OneKey::holding(row);
            let change = Change { operation, stamp: stamp(INCOMING.0, INCOMING.1), replaced };
            let outcome = key.take(change, decide);
            let local = row.map(|stamp| LocalRow { stamp });
            let (want_outcome, want_write, want_conflict) = table(operation, situation, replaced);
            let want_conflict =
                want_conflict.map(|(kind, resolution)| (Conflict { kind, resolution }, local)).into_iter().collect();
            if (outcome, key.wrote, &key.recorded) != (want_outcome, want_write, &want_conflict) {
                return Err(format!("{change:?} on {situation}: {outcome:?} {:?} {:?}", key.wrote, key.recorded));
            }
        }
    }
    Ok(())
}

/// Applies the changes in the order given, one transaction each, to an empty key.
fn end_of(changes: impl IntoIterator<Item = Change>, decide: Decide) -> Option<LocalStamp> {
    let mut key = OneKey::default();
    changes.into_iter().for_each(|change| {
        key.take(change, decide);
    });
    key.row
}

fn orders(of: &[Change]) -> Vec<Vec<Change>> {
    if of.is_empty() {
        return vec![Vec::new()];
    }
    let heads = 0..of.len();
    heads
        .flat_map(|head| {
            let mut rest = of.to_vec();
            let first = rest.remove(head);
            orders(&rest).into_iter().map(move |tail| [vec![first], tail].concat())
        })
        .collect()
}

/// Every order of arrival, also with each change delivered twice, ends at the largest stamp.
fn departs_from_convergence(changes: &[Change], decide: Decide) -> Result<(), String> {
    let largest = changes.iter().map(|change| change.stamp).max().map(LocalStamp::Known);
    for order in orders(changes) {
        let resent = order.iter().flat_map(|&change| [change, change]).chain(order.iter().copied());
        for end in [end_of(order.iter().copied(), decide), end_of(resent, decide)] {
            if end != largest {
                return Err(format!("{order:?} ends at {end:?}, not {largest:?}"));
            }
        }
    }
    Ok(())
}

fn writes() -> impl Strategy<Value = Vec<Change>> {
    let operation = prop_oneof![Just(Operation::Insert), Just(Operation::Update)];
    // a small space, so that equal timestamps are frequent; one change per stamp, since a stamp is a transaction
    prop::collection::hash_map((1_i64..5, 1_u16..5), operation, 1..6).prop_map(|map| {
        let mut changes: Vec<_> = map
            .into_iter()
            .map(|((ts, node), operation)| Change { operation, stamp: stamp(ts, node), replaced: Replaced::Own })
            .collect();
        changes.sort_by_key(|change| change.stamp);
        changes
    })
}

#[test]
fn every_cell_is_as_the_table_says() {
    assert_eq!(departs_from_table(decide), Ok(()));
}

proptest! {
    #[test]
    fn the_order_of_arrival_does_not_matter(changes in writes()) {
        prop_assert_eq!(departs_from_convergence(&changes, decide), Ok(()));
    }

    #[test]
    fn the_choice_between_two_is_theirs_alone(a in (1_i64..4, 1_u16..4), b in (1_i64..4, 1_u16..4), c in (1_i64..4, 1_u16..4)) {
        let join = |x: Stamp, y: Stamp| {
            let here = Some(LocalRow { stamp: LocalStamp::Known(x) });
            match decide(Change { operation: Operation::Update, stamp: y, replaced: Replaced::Own }, here) {
                Decision::Apply(_) => y,
                Decision::Keep(_) => x,
                Decision::Undecided => unreachable!("both stamps are known"),
            }
        };
        let [a, b, c] = [a, b, c].map(|(ts, node)| stamp(ts, node));
        prop_assert_eq!(join(a, b), join(b, a));
        prop_assert_eq!(join(join(a, b), c), join(a, join(b, c)));
        prop_assert_eq!(join(a, a), a);
    }
}

fn known(local: Option<LocalRow>) -> Option<Stamp> {
    match local?.stamp {
        LocalStamp::Known(stamp) => Some(stamp),
        LocalStamp::ThisTransaction | LocalStamp::Before(_) => None,
    }
}

/// Resolvers that are wrong, each in one way.
fn wrong_resolvers() -> Vec<(&'static str, Decide)> {
    vec![
        ("the older wins", |change, local| match (decide(change, local), known(local)) {
            (Decision::Apply(why), Some(_)) => Decision::Keep(why),
            (Decision::Keep(why), Some(_)) => Decision::Apply(why),
            (other, _) => other,
        }),
        ("arrival wins", |change, local| match decide(change, local) {
            Decision::Keep(why) => Decision::Apply(why),
            other => other,
        }),
        ("the lower node wins ties", |change, local| match known(local) {
            Some(here) if here.commit_ts == change.stamp.commit_ts && here.node != change.stamp.node => {
                if change.stamp < here { Decision::Apply(None) } else { Decision::Keep(None) }
            }
            _ => decide(change, local),
        }),
        ("ties stay as they are", |change, local| match known(local) {
            Some(here) if here.commit_ts == change.stamp.commit_ts && here.node != change.stamp.node => {
                Decision::Keep(None)
            }
            _ => decide(change, local),
        }),
        ("the first one stays", |change, local| match (decide(change, local), local) {
            (Decision::Apply(why), Some(_)) => Decision::Keep(why),
            (other, _) => other,
        }),
    ]
}

#[test]
fn wrong_resolvers_are_caught_by_the_table() {
    for (name, wrong) in wrong_resolvers() {
        assert!(departs_from_table(wrong).is_err(), "{name}");
    }
    let guess: Decide = |change, local| match decide(change, local) {
        Decision::Undecided => Decision::Keep(None),
        other => other,
    };
    assert!(departs_from_table(guess).is_err(), "a forgotten stamp is guessed");
    let silent: Decide = |change, local| match decide(change, local) {
        Decision::Apply(_) => Decision::Apply(None),
        Decision::Keep(_) => Decision::Keep(None),
        Decision::Undecided => Decision::Undecided,
    };
    assert!(departs_from_table(silent).is_err(), "conflicts go unrecorded");
    let deaf: Decide = |change, local| decide(Change { replaced: Replaced::Own, ..change }, local);
    assert!(departs_from_table(deaf).is_err(), "version messages are not heard");
    let credulous: Decide = |change, local| match (change.replaced, known(local)) {
        (Replaced::Version(_), Some(here)) => decide(Change { replaced: Replaced::Version(here), ..change }, local),
        _ => decide(change, local),
    };
    assert!(departs_from_table(credulous).is_err(), "any version message makes a change sequential");
}

#[test]
fn wrong_resolvers_are_caught_by_the_orders_of_arrival() {
    let update = |ts, node| Change { operation: Operation::Update, stamp: stamp(ts, node), replaced: Replaced::Own };
    let samples = [
        vec![update(1, 1), update(2, 2), update(3, 1)],
        vec![update(1, 1), update(1, 2), update(1, 3)],
        vec![update(2, 1), update(1, 2)],
    ];
    for (name, wrong) in wrong_resolvers() {
        assert!(samples.iter().any(|changes| departs_from_convergence(changes, wrong).is_err()), "{name}");
    }
    assert!(samples.iter().all(|changes| departs_from_convergence(changes, decide).is_ok()));
}
