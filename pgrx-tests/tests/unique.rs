//! Unique indexes besides the key: rows of different nodes that clash in them. The later row stays, those that it clashes
//! with are removed on every node, whole in the history of the node that decided, and later versions of them are not.

use std::collections::BTreeSet;

use meld_cluster_tests::resolutions::Resolution;
use meld_cluster_tests::{Cluster, Node, Plan, compare, fault, mesh, resolutions, settle, stamps, wait};
use serde_json::{Value, json};

const TABLE: &str = "CREATE TABLE u (id int PRIMARY KEY, a int UNIQUE, b int, c text, v text);
    CREATE UNIQUE INDEX ON u (b) WHERE b > 0;
    CREATE UNIQUE INDEX ON u (lower(c), (v IS NULL))";

fn start(name: &str, nodes: usize) -> Cluster {
    let cluster = Plan::new(name, nodes).start_mesh();
    mesh::replicate(&cluster, TABLE);
    cluster
}

#[track_caller]
fn write(node: &Node, statements: &[&str]) {
    statements.iter().for_each(|sql| node.batch(sql));
}

/// The ids in the table, which is equal on all nodes, tombstones too.
#[track_caller]
fn assert_ids(cluster: &Cluster, expected: &[i32]) {
    compare::equal(cluster);
    let ids: Vec<i32> = cluster.node(1).values("SELECT id FROM u ORDER BY id");
    assert_eq!(ids, expected);
    assert_agreement(cluster);
}

#[track_caller]
fn assert_agreement(cluster: &Cluster) {
    compare::equal(cluster);
    let nodes: Vec<&Node> = cluster.nodes().iter().collect();
    let keys: Vec<Value> = (1..=40).map(|id| json!({ "id": id })).collect();
    stamps::agree(&nodes, "u", &keys);
}

/// The row that an entry of the history calls beaten.
fn loser(entry: &Resolution) -> Option<Value> {
    match entry.resolution.as_str() {
        "apply_remote" => entry.local.clone()?.row,
        _ => entry.remote.row.clone(),
    }
}

/// Whole rows that a node's history calls beaten.
fn losers(node: &Node) -> Vec<(String, Value)> {
    resolutions::of(node, "u").into_iter().filter_map(|entry| Some((entry.conflict.clone(), loser(&entry)?))).collect()
}

/// In which index a node's history says that the row with this id has lost, and to which one. `None` for an index: the
/// entry does not say.
#[track_caller]
fn lost_in(node: &Node, id: i32) -> Vec<(Option<String>, Option<i64>)> {
    let entries = resolutions::of(node, "u").into_iter();
    let of_row = entries.filter(|entry| loser(entry).is_some_and(|row| row["id"] == id));
    of_row
        .map(|entry| {
            let by = entry.remote.row.filter(|_| entry.resolution == "apply_remote");
            (entry.index, by.and_then(|row| row["id"].as_i64()))
        })
        .collect()
}

fn row(id: i32, a: i32, b: i32, c: &str, v: &str) -> Value {
    json!({ "id": id, "a": a, "b": b, "c": c, "v": v })
}

/// The row stands whole in some node's history, under this name.
#[track_caller]
fn assert_lost(cluster: &Cluster, conflict: &str, row: &Value) {
    let all: Vec<_> = cluster.nodes().iter().flat_map(losers).collect();
    assert!(all.iter().any(|(kind, lost)| kind == conflict && lost == row), "no {conflict} of {row} in {all:#?}");
}

/// Two rows by two nodes, by each index, inserted and updated, the later one by either node.
#[test]
fn the_later_of_two_rows_stays() {
    let cluster = start("unique_two", 2);
    for (first, base) in [(1, 0), (2, 20)] {
        let (early, late) = (cluster.node(first), cluster.node(3 - first));
        early.batch(&format!(
            "INSERT INTO u SELECT i, i + 100, 0, 'base' || i, 'base' FROM generate_series({base} + 11, {base} + 14) i"
        ));
        settle::settle(&cluster);
        mesh::disconnect(&cluster);
        let id = |n: i32| base + n;
        let insert = |n: i32, a: i32, b: i32, c: &str, v: &str| {
            format!("INSERT INTO u VALUES ({}, {}, {b}, '{c}{base}', '{v}')", id(n), id(a))
        };
        // plain, partial (two rows, one in it), expression; and the same by updates
        early.batch(&insert(1, 1, 0, "one", "early"));
        early.batch(&insert(2, 2, id(5), "two", "early"));
        early.batch(&insert(3, 3, -5, "three", "early"));
        early.batch(&insert(4, 4, 0, "Four", "early"));
        early.batch(&format!("UPDATE u SET a = {} WHERE id = {}", id(70), id(11)));
        early.batch(&format!("UPDATE u SET c = 'CLASH{base}' WHERE id = {}", id(13)));
        late.batch(&insert(5, 1, 0, "five", "late"));
        late.batch(&insert(6, 6, id(5), "six", "late"));
        late.batch(&insert(7, 7, -5, "seven", "late"));
        late.batch(&insert(8, 8, 0, "fOUR", "late"));
        late.batch(&format!("UPDATE u SET a = {} WHERE id = {}", id(70), id(12)));
        late.batch(&format!("UPDATE u SET c = 'clash{base}' WHERE id = {}", id(14)));
        mesh::reconnect(&cluster);
        let ids: Vec<i32> =
            early.values(&format!("SELECT id - {base} FROM u WHERE id BETWEEN {base} + 1 AND {base} + 14 ORDER BY 1"));
        assert_eq!(ids, [3, 5, 6, 7, 8, 12, 14], "first {first}");
        assert_agreement(&cluster);
        let lost = [
            ("insert_exists", row(id(1), id(1), 0, &format!("one{base}"), "early")),
            ("insert_exists", row(id(2), id(2), id(5), &format!("two{base}"), "early")),
            ("insert_exists", row(id(4), id(4), 0, &format!("Four{base}"), "early")),
            ("update_exists", row(id(11), id(70), 0, &format!("base{}", id(11)), "base")),
            ("update_exists", row(id(13), id(113), 0, &format!("CLASH{base}"), "base")),
        ];
        for node in cluster.nodes() {
            let all = losers(node);
            for lost in &lost {
                let times = all.iter().filter(|(kind, row)| (kind.as_str(), row) == (lost.0, &lost.1)).count();
                assert_eq!(times, 1, "{} lists {lost:?} once: {all:#?}", node.name);
            }
            // one removed the row that it had for the later one, the other one did not let it in
            for (lost, by, index) in [(1, 5, "u_a_key"), (2, 6, "u_b_idx"), (4, 8, "u_lower_expr_idx")] {
                let by = (node.name == early.name).then_some(i64::from(id(by)));
                assert_eq!(lost_in(node, id(lost)), [(Some(index.to_owned()), by)], "{} of {lost}", node.name);
            }
            node.batch("DELETE FROM meld.resolutions");
        }
    }
    cluster.finish();
}

/// One row that clashes with several: it beats all of them, or loses alone.
#[test]
fn several_losers_or_one() {
    let cluster = start("unique_several", 2);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    mesh::disconnect(&cluster);
    write(
        n1,
        &[
            "INSERT INTO u VALUES (1, 1, 10, 'x', 'n1')",
            "INSERT INTO u VALUES (2, 2, 20, 'y', 'n1')",
            "INSERT INTO u VALUES (3, 3, 30, 'z', 'n1')",
        ],
    );
    n2.batch("INSERT INTO u VALUES (4, 1, 20, 'Z', 'n2')");
    mesh::reconnect(&cluster);
    assert_ids(&cluster, &[4]);
    for (id, b, c) in [(1, 10, "x"), (2, 20, "y"), (3, 30, "z")] {
        assert_lost(&cluster, "multiple_unique_conflicts", &row(id, id, b, c, "n1"));
    }

    mesh::disconnect(&cluster);
    n1.batch("INSERT INTO u VALUES (11, 11, 110, 'p', 'n1')");
    n2.batch("INSERT INTO u VALUES (12, 11, 120, 'q', 'n2')");
    n1.batch("INSERT INTO u VALUES (13, 13, 120, 'r', 'n1')");
    mesh::set_enabled(n1, n2, true);
    settle::settle_link(n2, n1);
    // one of the two is newer
    assert_eq!(n1.values::<i32>("SELECT id FROM u WHERE id > 10 ORDER BY 1"), [11, 13]);
    mesh::reconnect(&cluster);
    // the other node had only one to compare with at a time, so it took row 11 away as well
    assert_agreement(&cluster);
    let ids: Vec<i32> = n1.values("SELECT id FROM u WHERE id > 10 ORDER BY 1");
    assert!(ids == [13] || ids == [11, 13], "{ids:?}");
    assert_lost(&cluster, "multiple_unique_conflicts", &row(12, 11, 120, "q", "n2"));
    cluster.finish();
}

/// A version that was written later than the removed one stays, wherever the removal meets it.
#[test]
fn a_later_version_of_the_loser_stays() {
    let cluster = start("unique_later", 2);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    mesh::disconnect(&cluster);
    n1.batch("INSERT INTO u VALUES (1, 5, 0, 'x', 'early')");
    n2.batch("INSERT INTO u VALUES (2, 5, 0, 'y', 'late')");
    n1.batch("UPDATE u SET a = 6, v = 'later' WHERE id = 1");
    mesh::deliver(n1, n2);
    mesh::reconnect(&cluster);
    assert_ids(&cluster, &[1, 2]);
    assert_eq!(n2.value::<String>("SELECT v FROM u WHERE id = 1"), "later");
    assert_lost(&cluster, "insert_exists", &row(1, 5, 0, "x", "early"));
    cluster.finish();
}

/// The winner had changed again when the loser came, so two of three nodes had nothing to decide.
#[test]
fn a_node_that_never_saw_the_clash_removes_the_row_too() {
    let cluster = start("unique_unseen", 3);
    let [n1, n2, n3] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    mesh::disconnect(&cluster);
    n1.batch("INSERT INTO u VALUES (1, 5, 0, 'x', 'n1')");
    n2.batch("INSERT INTO u VALUES (2, 5, 0, 'y', 'n2')");
    mesh::deliver(n2, n1);
    assert_eq!(n1.values::<i32>("SELECT id FROM u"), [2]);
    n2.batch("UPDATE u SET a = 7 WHERE id = 2");
    mesh::deliver(n2, n3);
    mesh::reconnect(&cluster);
    assert_ids(&cluster, &[2]);
    assert_lost(&cluster, "insert_exists", &row(1, 5, 0, "x", "n1"));
    assert_eq!(losers(n2).len() + losers(n3).len(), 2, "as the removal of a row that was here");
    cluster.finish();
}

/// Each of three nodes writes a row that clashes with the next one's, in a chain and in a ring, heard in all orders.
#[test]
fn chains_and_rings_of_three_nodes() {
    let cluster = start("unique_three", 3);
    const ORDERS: [[(usize, usize); 6]; 4] = [
        [(1, 2), (3, 2), (1, 3), (2, 3), (2, 1), (3, 1)],
        [(3, 1), (2, 1), (3, 2), (1, 2), (2, 3), (1, 3)],
        [(2, 1), (1, 2), (3, 1), (2, 3), (1, 3), (3, 2)],
        [(1, 3), (3, 1), (2, 3), (1, 2), (3, 2), (2, 1)],
    ];
    for (round, order) in ORDERS.into_iter().enumerate() {
        for (shape, writers) in [[1, 2, 3], [3, 1, 2], [2, 3, 1]].into_iter().enumerate() {
            let base = (round * 3 + shape) as i32 * 100;
            mesh::disconnect(&cluster);
            // 1 - 2 by a, 2 - 3 by b, and in the ring 3 - 1 by c; and a row that all three write
            let c = if round % 2 == 0 { ["p", "q", "p"] } else { ["p", "q", "r"] };
            let rows = [(1, 11, 13, c[0]), (2, 11, 12, c[1]), (3, 14, 12, c[2])];
            for (writer, (id, a, b, c)) in writers.into_iter().zip(rows) {
                let node = cluster.node(writer);
                node.batch(&format!(
                    "INSERT INTO u VALUES ({base} + {id}, {base} + {a}, {base} + {b}, '{c}{base}', '{}')",
                    node.name
                ));
                node.batch(&format!(
                    "INSERT INTO u VALUES ({base} + 5, {base} + 20 + {id}, -1, NULL, '{}')",
                    node.name
                ));
            }
            for (from, to) in order {
                mesh::deliver(cluster.node(from), cluster.node(to));
            }
            mesh::reconnect(&cluster);
            compare::equal(&cluster);
            let left: Vec<i32> =
                cluster.node(1).values(&format!("SELECT id - {base} FROM u WHERE id / 100 = {base} / 100 ORDER BY 1"));
            // the last row has nobody above it; the first may fall with the second or stand when that was beaten before
            assert!(left == [3, 5] || left == [1, 3, 5], "round {round}, writers {writers:?}: {left:?}");
            let lost: BTreeSet<i64> =
                cluster.nodes().iter().flat_map(losers).filter_map(|(_, row)| row["id"].as_i64()).collect();
            for id in (1..=3).filter(|id| !left.contains(id)) {
                assert!(lost.contains(&i64::from(base + id)), "round {round}: {id} is in no history");
            }
        }
    }
    cluster.finish();
}

/// Values that move between rows in one transaction clash with nothing, and with the right row if another node wrote.
#[test]
fn values_that_move_between_rows() {
    let cluster = start("unique_moves", 2);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("INSERT INTO u SELECT i, i, i, 'c' || i, 'base' FROM generate_series(1, 6) i");
    settle::settle(&cluster);
    let swap = |x: i32, y: i32| {
        format!(
            "BEGIN; UPDATE u SET a = NULL WHERE id = {x}; UPDATE u SET a = {x} WHERE id = {y}; \
             UPDATE u SET a = {y} WHERE id = {x}; COMMIT"
        )
    };
    n1.batch(&swap(1, 2));
    n1.batch("BEGIN; DELETE FROM u WHERE id = 3; INSERT INTO u VALUES (13, 3, 3, 'c3', 'moved'); COMMIT");
    n1.batch("BEGIN; DELETE FROM u WHERE id = 4; INSERT INTO u VALUES (4, 4, 4, 'c4', 'again'); COMMIT");
    settle::settle(&cluster);
    assert_ids(&cluster, &[1, 2, 4, 5, 6, 13]);
    assert_eq!(cluster.nodes().iter().map(|node| losers(node).len()).sum::<usize>(), 0);

    mesh::disconnect(&cluster);
    n1.batch(&swap(5, 6));
    n2.batch("UPDATE u SET v = 'n2' WHERE id = 5");
    mesh::reconnect(&cluster);
    // row 5 is the other node's, with its old value; row 6 wanted that value, and is older
    assert_ids(&cluster, &[1, 2, 4, 5, 13]);
    assert_lost(&cluster, "update_exists", &row(6, 5, 6, "c6", "base"));
    cluster.finish();
}

const GATE: &str = "CREATE TABLE gate (id int PRIMARY KEY, n int)";

/// kill -9 between the commit of a removal and the transaction that led to it. That transaction also updates a row that
/// a local session has locked: so it stands still in its second try, after the removal was committed and before itself.
#[track_caller]
fn kill_behind_a_removal(cluster: &Cluster, deciding: usize, writer: usize, incoming_loses: bool, base: i32) {
    let (here, there) = (cluster.node(deciding), cluster.node(writer));
    let value = base + 30;
    mesh::disconnect(cluster);
    let local = format!("INSERT INTO u VALUES ({base} + 1, {value}, 0, 'local{base}', 'n{deciding}')");
    if !incoming_loses {
        here.batch(&local);
    }
    there.batch(&format!(
        "BEGIN; INSERT INTO u VALUES ({base} + 2, {value}, 0, 'remote{base}', 'n{writer}'); UPDATE gate SET n = n + 1; COMMIT"
    ));
    if incoming_loses {
        here.batch(&local);
    }
    let mut client = here.client();
    let mut holder = client.transaction().expect("begin");
    holder.batch_execute("SELECT FROM gate FOR UPDATE").expect("lock");
    mesh::set_enabled(here, there, true);
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE wait_event_type = 'Lock' AND backend_type LIKE 'meld apply%'";
    wait::until_value("apply to wait for the gate", || here.value::<i64>(waiting), |count| *count > 0);
    let loser = base + if incoming_loses { 2 } else { 1 };
    let known = &stamps::of(here, "u", &[json!({ "id": loser })])[0];
    assert!(matches!(known, stamps::Known::Dead(_)), "the removal is committed: {known:?}");
    let before: i32 = here.value("SELECT n FROM gate");
    assert_eq!(before, base / 10 - 1, "the transaction behind it is not");
    fault::kill_postmaster(here);
    fault::start(here);
    mesh::reconnect(cluster);
    assert_agreement(cluster);
    let left: Vec<i32> = here.values(&format!("SELECT id FROM u WHERE id BETWEEN {base} AND {base} + 9 ORDER BY 1"));
    let winner = base + if incoming_loses { 1 } else { 2 };
    assert_eq!(left, [winner], "n{deciding} decided about n{writer}'s row");
    assert_eq!(here.value::<i32>("SELECT n FROM gate"), base / 10);
    let name = if incoming_loses { format!("remote{base}") } else { format!("local{base}") };
    let times = losers(here).iter().filter(|(_, row)| row["c"] == name.as_str()).count();
    assert!(times >= 1, "{} has the loser in its history", here.name);
}

#[test]
fn kill_9_between_a_removal_and_its_cause() {
    let cluster = start("unique_kill", 3);
    fault::expect_lost_links(&cluster);
    mesh::replicate(&cluster, GATE);
    cluster.node(1).batch("INSERT INTO gate VALUES (1, 0)");
    settle::settle(&cluster);
    let mut base = 0;
    for (deciding, writer) in [(1, 2), (2, 3), (3, 1)] {
        for incoming_loses in [false, true] {
            base += 10;
            kill_behind_a_removal(&cluster, deciding, writer, incoming_loses, base);
        }
    }
    cluster.finish();
}
