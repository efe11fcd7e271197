//! The table of the rule on real servers: every cell, in every order of delivery, on two and three nodes.
//!
//! A program is a few writes of one key by different nodes, with deliveries in between. All programs up to a length are
//! run, in each of some schedules, and each node is judged against a model of the table: its row, its stamp, its tombstone
//! and its history, entry by entry. So a sequential write must leave no entry, and each lost write one for each node that
//! it is lost on.

mod model;
mod programs;
mod run;
mod truncate;

use std::collections::BTreeMap;

use model::{Kind, Met};
use programs::Base;
use programs::Step::{self, Deliver, Write};

/// Each cell but an INSERT that replaces a version, which no INSERT does.
#[track_caller]
fn assert_all_met(visited: &BTreeMap<(Kind, Met), usize>) {
    eprintln!("{visited:?}");
    for kind in [Kind::Insert, Kind::Update, Kind::Delete] {
        for met in [Met::Nothing, Met::Replaced, Met::Older, Met::Newer, Met::DeadOlder, Met::DeadNewer] {
            let is_possible = (kind, met) != (Kind::Insert, Met::Replaced);
            assert_eq!(visited.contains_key(&(kind, met)), is_possible, "{kind:?} on {met:?}");
        }
    }
    assert!(visited.contains_key(&(Kind::Insert, Met::Own)), "INSERT behind a DELETE of its own transaction");
}

/// Three writes, with these deliveries behind each of them.
fn schedule(behind: [&[(usize, usize)]; 3]) -> Vec<Step> {
    let steps =
        behind.iter().flat_map(|links| [Write].into_iter().chain(links.iter().map(|(from, to)| Deliver(*from, *to))));
    steps.collect()
}

#[test]
fn two_nodes() {
    let schedules = [
        schedule([&[], &[], &[(1, 2), (2, 1)]]),
        schedule([&[], &[], &[(2, 1), (1, 2)]]),
        schedule([&[(1, 2)], &[], &[(2, 1), (1, 2)]]),
        schedule([&[(2, 1)], &[], &[(1, 2), (2, 1)]]),
        schedule([&[], &[(1, 2)], &[(1, 2), (2, 1)]]),
        schedule([&[(1, 2)], &[(2, 1)], &[(1, 2), (2, 1)]]),
    ];
    let bases = [Base::Absent, Base::Live, Base::Dead, Base::OnlyAt(1), Base::OnlyAt(2)];
    assert_all_met(&run::run("matrix_two", 2, &schedules, &bases));
}

/// What a node ends with depends on the order in which it hears the others, and not on what those have heard; so two runs
/// have all orders of three nodes that write apart.
#[test]
fn three_nodes() {
    const LOWER_FIRST: [(usize, usize); 6] = [(1, 2), (3, 2), (1, 3), (2, 3), (2, 1), (3, 1)];
    const HIGHER_FIRST: [(usize, usize); 6] = [(3, 1), (2, 1), (3, 2), (1, 2), (2, 3), (1, 3)];
    let schedules = [
        schedule([&[], &[], &LOWER_FIRST]),
        schedule([&[], &[], &HIGHER_FIRST]),
        // the second writer has seen the first, and the third node hears the second before the first
        schedule([&[(1, 2)], &[], &HIGHER_FIRST]),
        schedule([&[(1, 2)], &[(2, 3)], &HIGHER_FIRST]),
        schedule([&[(3, 2)], &[(2, 1)], &LOWER_FIRST]),
    ];
    assert_all_met(&run::run("matrix_three", 3, &schedules, &[Base::Absent, Base::Live, Base::Dead]));
}
