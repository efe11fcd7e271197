//! The table of the rule, cell by cell, on the decision alone; what it does to rows is shown by the simulator.

use super::rule::{Decision, Verdict, decide};
use super::{Change, Grave, Here, LocalStamp, Operation, Replaced};
use crate::conflict::{Conflict, ConflictType, Resolution};
use crate::ids::NodeId;
use crate::time::{Stamp, Timestamp};

const fn stamp(commit_ts: i64, node: u16) -> Stamp {
    Stamp { commit_ts: Timestamp(commit_ts), node: NodeId(node) }
}

const INCOMING: Stamp = stamp(100, 5);

fn change(operation: Operation, replaced: Replaced) -> Change {
    Change { operation, stamp: INCOMING, replaced, set_aside: None, left_out: false, contributes: false, voids: None }
}

fn live(commit_ts: i64, node: u16) -> Here {
    Here::Live(LocalStamp::Known(stamp(commit_ts, node)))
}

fn dead(commit_ts: i64, node: u16, removed: Option<ConflictType>) -> Here {
    Here::Dead(Grave { stamp: stamp(commit_ts, node), removed })
}

fn says(decision: Decision) -> String {
    let conflict =
        decision.conflict.map_or("-".to_owned(), |Conflict { kind, resolution }| format!("{kind} {resolution}"));
    format!("{:?} {conflict}", decision.verdict)
}

/// What a row of the table says about INSERT, UPDATE and DELETE.
type Line = (&'static str, Here, Replaced, [&'static str; 3]);

fn table() -> Vec<Line> {
    use Replaced::*;
    let seen = Version(stamp(50, 7));
    let bound = |ts| Here::Live(LocalStamp::Before(stamp(ts, 1)));
    let sequential = ["Wins insert_exists apply_remote", "Wins -", "Wins -"];
    let older = [
        "Wins insert_exists apply_remote",
        "Wins update_origin_differs apply_remote",
        "Wins delete_origin_differs apply_remote",
    ];
    let newer =
        ["Loses insert_exists keep_local", "Loses update_origin_differs keep_local", "Loses delete_exists keep_local"];
    let dead_older = ["Wins -", "Wins update_deleted apply_remote", "Wins -"];
    let dead_newer = ["Loses insert_deleted skip", "Loses update_deleted skip", "Loses -"];
    vec![
        ("nothing", Here::Nothing, Own, ["Wins -", "Wins update_missing apply_remote", "Wins delete_missing skip"]),
        ("this transaction", Here::Live(LocalStamp::ThisTransaction), Unknown, ["Wins -"; 3]),
        ("its own stamp", live(100, 5), Unknown, ["Wins -"; 3]),
        ("own version, no word", live(50, 5), Own, sequential),
        ("another's version, no word", live(50, 7), Own, older),
        ("just the version", live(50, 7), seen, sequential),
        ("own version, another was replaced", live(50, 5), seen, older),
        ("another version of that node", live(51, 7), seen, older),
        ("unknown is never here", live(50, 5), Unknown, older),
        ("newer", live(101, 1), Own, newer),
        ("newer, and replaced all the same", live(101, 7), Version(stamp(101, 7)), newer),
        ("tie, lower node here", live(100, 4), Own, older),
        ("tie, higher node here", live(100, 6), Own, newer),
        ("own, newer: overtaken by a fetch", live(101, 5), Own, ["Loses -"; 3]),
        ("forgotten, bound older", bound(99), seen, older),
        ("forgotten, bound newer", bound(101), seen, ["Undecided -"; 3]),
        ("dead, older", dead(99, 9, None), Own, dead_older),
        ("dead, newer", dead(101, 1, None), Own, dead_newer),
        ("dead, tie, lower node here", dead(100, 4, None), Own, dead_older),
        ("dead, tie, higher node here", dead(100, 6, None), Own, dead_newer),
        ("deleted by this transaction", dead(100, 5, None), Own, ["Wins -"; 3]),
        ("an older version was removed", dead(99, 5, Some(ConflictType::UpdateExists)), Own, dead_older),
        (
            "this very version was removed",
            dead(100, 5, Some(ConflictType::UpdateExists)),
            Own,
            ["Loses update_exists keep_local", "Loses update_exists keep_local", "Loses -"],
        ),
    ]
}

#[test]
fn every_cell_is_as_the_table_says() {
    for (name, here, replaced, want) in table() {
        for (operation, want) in [Operation::Insert, Operation::Update, Operation::Delete].into_iter().zip(want) {
            assert_eq!(says(decide(change(operation, replaced), here, None)), want, "{operation:?} on {name}");
        }
    }
}

#[test]
fn a_truncate_is_a_tombstone_for_every_key() {
    let cases = [
        (Here::Nothing, 101, ["Loses insert_deleted skip", "Loses update_deleted skip", "Wins delete_missing skip"]),
        (Here::Nothing, 99, ["Wins -", "Wins update_deleted apply_remote", "Wins delete_missing skip"]),
        (dead(50, 1, None), 101, ["Loses insert_deleted skip", "Loses update_deleted skip", "Wins -"]),
        // an older row stays out also where a younger tombstone of its key is in between
        (dead(99, 1, None), 98, ["Wins -", "Wins update_deleted apply_remote", "Wins -"]),
        (dead(101, 1, None), 99, ["Loses insert_deleted skip", "Loses update_deleted skip", "Loses -"]),
        (
            live(99, 1),
            98,
            [
                "Wins insert_exists apply_remote",
                "Wins update_origin_differs apply_remote",
                "Wins delete_origin_differs apply_remote",
            ],
        ),
    ];
    for (here, floor, want) in cases {
        for (operation, want) in [Operation::Insert, Operation::Update, Operation::Delete].into_iter().zip(want) {
            let decision = decide(change(operation, Replaced::Own), here, Some(stamp(floor, 1)));
            assert_eq!(says(decision), want, "{operation:?} on {here:?}, floor {floor}");
        }
    }
    let same = decide(change(Operation::Insert, Replaced::Own), Here::Nothing, Some(INCOMING));
    assert_eq!(same.verdict, Verdict::Wins, "the transaction itself truncated before");
    let removed = dead(100, 5, Some(ConflictType::ForeignKey));
    let removal = decide(change(Operation::Insert, Replaced::Own), removed, Some(INCOMING));
    assert_eq!(removal.conflict, Some(Conflict { kind: ConflictType::ForeignKey, resolution: Resolution::KeepLocal }));
}

#[test]
fn no_word_is_not_believed_behind_what_was_set_aside() {
    let behind = |aside| Change { set_aside: Some(stamp(aside, 5)), ..change(Operation::Update, Replaced::Own) };
    assert_eq!(says(decide(behind(60), live(50, 5), None)), "Wins update_origin_differs apply_remote");
    assert_eq!(says(decide(behind(50), live(50, 5), None)), "Wins -", "it was replayed");
    assert_eq!(says(decide(behind(40), live(50, 5), None)), "Wins -");
}
