//! Small programs of which every interleaving is tried, and single histories that random worlds meet too seldom.
//!
//! The timestamps of a program are clock readings, so a node whose clock runs ahead or behind is a choice of numbers.

use std::collections::BTreeMap;

use meld_core::converge::Policy;
use meld_core::ids::NodeId;

use crate::data::{Big, Cols, Key, RowId, Statement, Table, a, c};
use crate::world::Step;

pub type Statements = Vec<Statement>;

#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub nodes: u16,
    pub policy: Policy,
    /// Transactions of node 1 that everybody has.
    pub setup: Vec<Statements>,
    /// Each node's transactions, with what its clock says.
    pub program: BTreeMap<NodeId, Vec<(i64, Statements)>>,
}

#[derive(Clone, Debug)]
pub struct Script {
    pub name: &'static str,
    pub nodes: u16,
    pub policy: Policy,
    pub steps: Vec<Step>,
}

fn row_of_a(v: u32, unique: Option<Key>) -> Cols {
    Cols { v, link: unique, second: None, big: Big::Value(1000) }
}

fn insert(key: Key, v: u32, unique: Option<Key>, n: i64) -> Statement {
    Statement::Insert { row: a(key), cols: row_of_a(v, unique), n }
}

fn update(key: Key, v: u32, unique: Option<Key>, big: Option<u32>, n: i64) -> Statement {
    Statement::Update { row: a(key), v: Some(v), link: unique, second: None, big, n }
}

fn delete(key: Key) -> Statement {
    Statement::Delete { row: a(key) }
}

fn child(key: Key, v: u32, parent: Option<Key>) -> Statement {
    Statement::Insert { row: c(key), cols: Cols { v, link: parent, second: None, big: Big::NoColumn }, n: 0 }
}

fn update_child(key: Key, v: u32) -> Statement {
    Statement::Update { row: RowId { table: Table::C, key }, v: Some(v), link: None, second: None, big: None, n: 0 }
}

const TRUNCATE: Statement = Statement::Truncate { table: Table::C };

/// One transaction on each of three nodes, with the clock readings in every order.
fn three(name: &str, policy: Policy, setup: &[Statements], of: [Statements; 3]) -> Vec<Case> {
    let readings = [[10, 20, 30], [10, 30, 20], [20, 10, 30], [20, 30, 10], [30, 10, 20], [30, 20, 10]];
    let case = |at: [i64; 3]| Case {
        name: format!("{name} ({at:?}, {policy:?})"),
        nodes: 3,
        policy,
        setup: setup.to_vec(),
        program: (1..=3).map(NodeId).zip(at.into_iter().zip(of.clone()).map(|one| vec![one])).collect(),
    };
    readings.into_iter().map(case).collect()
}

/// Two nodes, up to two transactions each, with either clock ahead or none.
fn two(name: &str, policy: Policy, setup: &[Statements], of: [Vec<Statements>; 2]) -> Vec<Case> {
    let case = |at: [i64; 2]| {
        let program = |(at, of): (i64, Vec<Statements>)| (at..).zip(of).collect::<Vec<_>>();
        Case {
            name: format!("{name} ({at:?}, {policy:?})"),
            nodes: 2,
            policy,
            setup: setup.to_vec(),
            program: (1..=2).map(NodeId).zip(at.into_iter().zip(of.clone()).map(program)).collect(),
        }
    };
    [[10, 20], [20, 10], [10, 10]].into_iter().map(case).collect()
}

pub fn cases() -> Vec<Case> {
    let row = vec![vec![insert(1, 0, None, 10)]];
    [keys(&row), counters(&row), links(&row)].concat()
}

fn keys(row: &[Statements]) -> Vec<Case> {
    let keep = Policy::KeepParent;
    let thrice = |v: u32, n: i64| vec![insert(1, v, None, n)];
    let clash = |key: Key, v: u32| vec![insert(key, v, Some(7), 0)];
    [
        three("insert, insert, insert", keep, &[], [thrice(1, 1), thrice(2, 2), thrice(3, 4)]),
        three(
            "a left-out value on top of a third node's",
            keep,
            row,
            [
                vec![update(1, 1, None, Some(1001), 0)],
                vec![update(1, 2, None, None, 0)],
                vec![update(1, 3, None, Some(1002), 0)],
            ],
        ),
        three("one unique value thrice", keep, &[], [clash(1, 1), clash(2, 2), clash(3, 3)]),
        two(
            "the winner of a clash changes again",
            keep,
            &[],
            [
                vec![clash(1, 1), vec![update(1, 2, None, None, 0)]],
                vec![clash(2, 1), vec![update(2, 2, Some(8), None, 0)]],
            ],
        ),
        two(
            "two changes of a key",
            keep,
            row,
            [
                vec![vec![Statement::Move { from: 1, to: 2 }]],
                vec![vec![Statement::Move { from: 1, to: 3 }], vec![update(3, 5, None, None, 0)]],
            ],
        ),
        three(
            "truncate, insert, update",
            keep,
            &[vec![child(1, 0, None)]],
            [vec![TRUNCATE], vec![child(2, 2, None)], vec![update_child(1, 3)]],
        ),
    ]
    .concat()
}

fn counters(row: &[Statements]) -> Vec<Case> {
    let keep = Policy::KeepParent;
    let add = |v: u32, n: i64| vec![update(1, v, None, None, n)];
    [
        three("update, delete, update", keep, row, [add(1, 5), vec![delete(1)], add(3, 7)]),
        two(
            "delete and insert again, against increments",
            keep,
            row,
            [vec![vec![delete(1)], vec![insert(1, 1, None, 100)]], vec![add(2, 5), add(3, 7)]],
        ),
        two(
            "two deletes, one insert",
            keep,
            row,
            [vec![vec![delete(1)], vec![insert(1, 1, None, 100)]], vec![vec![delete(1)]]],
        ),
        two(
            "delete and insert in one transaction",
            keep,
            row,
            [vec![vec![delete(1), insert(1, 1, None, 50)]], vec![add(2, 5), vec![delete(1)]]],
        ),
    ]
    .concat()
}

fn links(row: &[Statements]) -> Vec<Case> {
    let mut cases = three(
        "early child",
        Policy::KeepParent,
        &[],
        [vec![insert(1, 1, None, 3)], vec![child(1, 1, None)], vec![child(2, 2, Some(1))]],
    );
    let sends_child = || vec![child(1, 1, Some(1))];
    for policy in [Policy::KeepParent, Policy::DropChild] {
        cases.extend(two("parent deleted, child inserted", policy, row, [vec![vec![delete(1)]], vec![sends_child()]]));
        cases.extend(two(
            "parent deleted and reborn, child inserted",
            policy,
            row,
            [vec![vec![delete(1)], vec![insert(1, 9, None, 3)]], vec![sends_child()]],
        ));
        cases.extend(two(
            "parent loses a clash, child inserted",
            policy,
            &[vec![insert(1, 0, None, 0)], vec![insert(2, 0, None, 0)]],
            [
                vec![vec![update(1, 1, Some(7), None, 0), child(1, 1, Some(1))]],
                vec![vec![update(2, 1, Some(7), None, 0), child(2, 2, Some(2))]],
            ],
        ));
        cases.extend(three(
            "parent deleted, child inserted, parent updated",
            policy,
            row,
            [vec![delete(1)], sends_child(), vec![update(1, 3, None, None, 4)]],
        ));
    }
    cases
}

pub fn scripts() -> Vec<Script> {
    let [one, two, three] = [1, 2, 3].map(NodeId);
    let transact = |node, statement| Step::Transact { node, statements: vec![statement] };
    let deliver = |from, to| Step::Deliver { from, to };
    vec![Script {
        name: "node 3 has forgotten the delete; node 2, which has not heard of it, sends a child",
        nodes: 3,
        policy: Policy::DropChild,
        steps: vec![
            transact(one, insert(1, 0, None, 0)),
            deliver(one, two),
            deliver(one, three),
            transact(one, delete(1)),
            Step::Heartbeat { node: one },
            deliver(one, three),
            deliver(one, three),
            Step::Heartbeat { node: two },
            deliver(two, three),
            Step::Heartbeat { node: three },
            Step::Collect { node: three },
            transact(two, child(1, 1, Some(1))),
            deliver(two, three),
        ],
    }]
}
