//! The order of arrival does not matter: any changes of one key, in any order, end in the same state; and a rule that
//! is wrong in one way is caught.

use proptest::prelude::*;

use super::*;
use crate::ids::NodeId;
use crate::time::{Stamp, Timestamp};

type Decide = fn(Change, Here) -> Verdict;

fn right(change: Change, here: Here) -> Verdict {
    decide(change, here, None).verdict
}

fn stamp(commit_ts: i64, node: u16) -> Stamp {
    Stamp { commit_ts: Timestamp(commit_ts), node: NodeId(node) }
}

fn change(operation: Operation, commit_ts: i64, node: u16) -> Change {
    Change {
        operation,
        stamp: stamp(commit_ts, node),
        replaced: Replaced::Unknown,
        set_aside: None,
        left_out: false,
        contributes: false,
        voids: None,
    }
}

/// What is there of the key after the changes, one after the other.
fn end_of(changes: &[Change], decide: Decide) -> Here {
    changes.iter().fold(Here::Nothing, |here, &change| match (decide(change, here), change.operation) {
        (Verdict::Loses | Verdict::Undecided, _) => here,
        (Verdict::Wins, Operation::Delete) => Here::Dead(Grave { stamp: change.stamp, removed: None }),
        (Verdict::Wins, Operation::Insert | Operation::Update) => Here::Live(LocalStamp::Known(change.stamp)),
    })
}

/// All orders of up to six changes.
fn orders(of: &[Change]) -> Vec<Vec<Change>> {
    match of {
        [] => vec![Vec::new()],
        [first, rest @ ..] => {
            let insert = |order: Vec<Change>| {
                (0..=order.len()).map(move |at| {
                    let mut order = order.clone();
                    order.insert(at, *first);
                    order
                })
            };
            orders(rest).into_iter().flat_map(insert).collect()
        }
    }
}

/// The first order that ends otherwise than that of the stamps.
fn departs(changes: &[Change], decide: Decide) -> Option<Vec<Change>> {
    let mut sorted = changes.to_vec();
    sorted.sort_by_key(|change| change.stamp);
    let end = end_of(&sorted, right);
    orders(changes).into_iter().find(|order| end_of(order, decide) != end)
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let operation = prop_oneof![Just(Operation::Insert), Just(Operation::Update), Just(Operation::Delete)];
    // a small space, so that equal timestamps are frequent; one change per stamp, since a stamp is a transaction
    prop::collection::hash_map((1_i64..5, 1_u16..5), operation, 1..6).prop_map(|map| {
        map.into_iter().map(|((commit_ts, node), operation)| change(operation, commit_ts, node)).collect()
    })
}

proptest! {
    #[test]
    fn every_order_ends_with_the_largest_stamp(changes in changes()) {
        prop_assert_eq!(departs(&changes, right), None);
        let largest = changes.iter().max_by_key(|change| change.stamp).copied();
        let expected = largest.map(|last| match last.operation {
            Operation::Delete => Here::Dead(Grave { stamp: last.stamp, removed: None }),
            Operation::Insert | Operation::Update => Here::Live(LocalStamp::Known(last.stamp)),
        });
        prop_assert_eq!(Some(end_of(&changes, right)), expected);
    }

    #[test]
    fn what_comes_twice_has_its_effect_once(changes in changes()) {
        let twice: Vec<Change> = changes.iter().flat_map(|&change| [change, change]).collect();
        prop_assert_eq!(end_of(&twice, right), end_of(&changes, right));
        let again: Vec<Change> = changes.iter().chain(&changes).copied().collect();
        prop_assert_eq!(end_of(&again, right), end_of(&changes, right));
    }
}

fn reverse(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Wins => Verdict::Loses,
        Verdict::Loses => Verdict::Wins,
        Verdict::Undecided => Verdict::Undecided,
    }
}

fn stamp_of(here: Here) -> Option<Stamp> {
    match here {
        Here::Live(LocalStamp::Known(stamp)) | Here::Dead(Grave { stamp, .. }) => Some(stamp),
        Here::Live(_) | Here::Nothing => None,
    }
}

#[test]
fn wrong_rules_are_caught_by_the_orders_of_arrival() {
    let wrong: [(&str, Decide); 5] = [
        ("the older wins", |change, here| match here {
            Here::Nothing => Verdict::Wins,
            Here::Live(_) | Here::Dead(_) => reverse(right(change, here)),
        }),
        ("arrival wins", |_, _| Verdict::Wins),
        ("the first one stays", |_, here| if here == Here::Nothing { Verdict::Wins } else { Verdict::Loses }),
        ("no tombstones", |change, here| match here {
            Here::Dead(_) => right(change, Here::Nothing),
            Here::Live(_) | Here::Nothing => right(change, here),
        }),
        ("ties stay as they are", |change, here| match stamp_of(here) {
            Some(stamp) if stamp.commit_ts == change.stamp.commit_ts && stamp != change.stamp => Verdict::Loses,
            _ => right(change, here),
        }),
    ];
    let samples = [
        vec![change(Operation::Update, 1, 1), change(Operation::Update, 2, 2), change(Operation::Update, 3, 1)],
        vec![change(Operation::Update, 1, 1), change(Operation::Update, 1, 2)],
        vec![change(Operation::Insert, 1, 1), change(Operation::Delete, 2, 2)],
    ];
    for (name, rule) in wrong {
        assert!(samples.iter().any(|changes| departs(changes, rule).is_some()), "{name}");
    }
    assert!(samples.iter().all(|changes| departs(changes, right).is_none()));
}
