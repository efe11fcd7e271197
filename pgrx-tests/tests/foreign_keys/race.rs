//! One node deletes a user while another takes an order for it.

use meld_cluster_tests::{Cluster, Node, Plan, compare, fault, log_scan, mesh, settle, stamps, wait};
use serde_json::json;

use crate::orphans::{self, Reference};

const TABLES: &str = "CREATE TABLE users (id int PRIMARY KEY, name text, balance int NOT NULL DEFAULT 0);
    CREATE TABLE orders (id int PRIMARY KEY, user_id int NOT NULL REFERENCES users, what text)";
const REFERENCES: [Reference; 1] = [Reference { child: "orders", columns: "user_id", parent: "users", referred: "id" }];

fn start(name: &str, nodes: usize, mode: &str) -> Cluster {
    let cluster = Plan::new(name, nodes).setting(&format!("meld.foreign_key_conflict = {mode}")).start_mesh();
    mesh::replicate(&cluster, TABLES);
    cluster.node(1).batch("INSERT INTO users VALUES (1, 'Ann'), (2, 'Bob')");
    settle::settle(&cluster);
    cluster
}

#[track_caller]
fn assert_agree(cluster: &Cluster) {
    compare::equal(cluster);
    let nodes: Vec<&Node> = cluster.nodes().iter().collect();
    let keys: Vec<_> = (1..20).map(|id| json!({ "id": id })).collect();
    stamps::agree(&nodes, "users", &keys);
    stamps::agree(&nodes, "orders", &keys);
    orphans::assert_none(cluster, &REFERENCES);
}

/// What is there of users and orders, the same on all nodes.
#[track_caller]
fn rows(cluster: &Cluster) -> String {
    let sql = "SELECT concat((SELECT string_agg(concat('user ', id), ' ' ORDER BY id) FROM users), ' ',
        (SELECT string_agg(concat('order ', id), ' ' ORDER BY id) FROM orders))";
    let all: Vec<String> = cluster.nodes().iter().map(|node| node.value(sql)).collect();
    assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
    all[0].clone()
}

/// What a node has decided, as "table key conflict resolution".
fn told(node: &Node) -> Vec<String> {
    node.values(
        "SELECT concat_ws(' ', relname, key->>'id', conflict_type, conflict_resolution) FROM meld.resolutions ORDER BY id",
    )
}

fn race(cluster: &Cluster) {
    mesh::disconnect(cluster);
    cluster.node(1).batch("DELETE FROM users WHERE id = 1");
    cluster.node(2).batch("INSERT INTO orders VALUES (10, 1, 'tea')");
    mesh::reconnect(cluster);
    for node in cluster.nodes() {
        eprintln!("{}: {:?}", node.name, told(node));
    }
}

/// Somebody has written down that the foreign key led to this.
#[track_caller]
fn assert_told(cluster: &Cluster, entry: &str) {
    let all: Vec<Vec<String>> = cluster.nodes().iter().map(told).collect();
    assert!(all.iter().flatten().any(|one| one == entry), "{entry} in {all:?}");
}

#[test]
fn keep_parent() {
    let cluster = start("fk_keep", 2, "keep_parent");
    race(&cluster);
    assert_eq!(rows(&cluster), "user 1 user 2 order 10");
    assert_told(&cluster, "users 1 foreign_key keep_local");
    assert_agree(&cluster);
    cluster.node(1).batch("UPDATE users SET name = 'Anna' WHERE id = 1; INSERT INTO orders VALUES (11, 1)");
    settle::settle(&cluster);
    assert_agree(&cluster);
    cluster.finish();
}

#[test]
fn drop_child() {
    let cluster = start("fk_drop", 2, "drop_child");
    race(&cluster);
    assert_eq!(rows(&cluster), "user 2 ");
    assert_told(&cluster, "orders 10 foreign_key apply_remote");
    assert_agree(&cluster);
    // it is not lost
    let lost = "SELECT local_row->>'what' FROM meld.resolutions WHERE relname = 'orders' AND local_row IS NOT NULL";
    assert_eq!(cluster.node(2).values::<String>(lost), ["tea"]);
    cluster.node(1).batch("INSERT INTO orders VALUES (11, 2)");
    settle::settle(&cluster);
    assert_agree(&cluster);
    cluster.finish();
}

/// Neither gives way: the transactions that would leave a row alone wait for somebody to decide.
#[test]
fn exception() {
    let cluster = Plan::new("fk_exception", 2)
        .setting("meld.foreign_key_conflict = exception")
        .setting("meld.exception_behaviour = retry")
        .start_mesh();
    mesh::replicate(&cluster, TABLES);
    cluster.expect_log("would be left without its parent");
    cluster.nodes().iter().for_each(fault::expect_worker_exits);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("INSERT INTO users VALUES (1, 'Ann'), (2, 'Bob')");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    n1.batch("DELETE FROM users WHERE id = 1");
    n2.batch("INSERT INTO orders VALUES (10, 1, 'tea')");
    for (subscriber, provider) in cluster.links() {
        mesh::set_enabled(subscriber, provider, true);
    }
    for node in cluster.nodes() {
        let log = || log_scan::entries_with(&node.server.log, "would be left without its parent").len();
        wait::until_value("the error in the log", log, |count| *count > 0);
    }
    assert_eq!(n1.values::<i32>("SELECT id FROM users"), [2]);
    assert_eq!(n2.values::<i32>("SELECT id FROM orders"), [10]);
    orphans::assert_none(&cluster, &REFERENCES);
    // one of the ways out
    for node in cluster.nodes() {
        node.batch("ALTER SYSTEM SET meld.foreign_key_conflict = 'keep_parent'");
        node.batch("SELECT pg_reload_conf()");
    }
    settle::settle_decisions(&cluster);
    assert_eq!(rows(&cluster), "user 1 user 2 order 10");
    assert_agree(&cluster);
    cluster.finish();
}

/// The same with the transactions parked: the mesh runs on, and they are applied when somebody has decided.
#[test]
fn exception_parks() {
    let cluster = start("fk_parked", 2, "exception");
    cluster.expect_log("would be left without its parent");
    cluster.expect_log("was parked as");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    race(&cluster);
    let parked = "SELECT count(*) FROM meld.parked_transaction WHERE state = 'parked' AND sqlstate = '23503'";
    cluster.nodes().iter().for_each(|node| assert_eq!(node.value::<i64>(parked), 1, "{}", node.name));
    n1.batch("INSERT INTO users VALUES (3, 'Joe')");
    n2.batch("INSERT INTO orders VALUES (20, 2, 'milk')");
    settle::settle(&cluster);
    assert_eq!(n1.values::<i32>("SELECT id FROM orders"), [20]);
    assert_eq!(n2.values::<i32>("SELECT id FROM users ORDER BY id"), [1, 2, 3]);
    orphans::assert_none(&cluster, &REFERENCES);
    for node in cluster.nodes() {
        node.batch("ALTER SYSTEM SET meld.foreign_key_conflict = 'keep_parent'");
        node.batch("SELECT pg_reload_conf()");
    }
    for node in cluster.nodes() {
        node.batch("SELECT * FROM meld.parked_replay()");
        assert_eq!(node.value::<i64>(parked), 0, "{}", node.name);
    }
    settle::settle_decisions(&cluster);
    assert_eq!(rows(&cluster), "user 1 user 2 user 3 order 10 order 20");
    assert_agree(&cluster);
    cluster.finish();
}

#[test]
fn keep_parent_keeps_the_balance() {
    let cluster = start("fk_balance", 3, "keep_parent");
    cluster.batch("SELECT meld.delta_add_column('users', 'balance')");
    cluster.node(1).batch("UPDATE users SET balance = balance + 100");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    // the delete is the last word on the row
    cluster.node(3).batch("UPDATE users SET balance = balance + 1000");
    cluster.node(2).batch("INSERT INTO orders VALUES (10, 1, 'tea')");
    cluster.node(1).batch("UPDATE users SET balance = balance + 7; DELETE FROM users WHERE id = 1");
    mesh::reconnect(&cluster);
    assert_eq!(rows(&cluster), "user 1 user 2 order 10");
    assert_told(&cluster, "users 1 foreign_key keep_local");
    assert_agree(&cluster);
    for node in cluster.nodes() {
        assert_eq!(node.values::<i32>("SELECT balance FROM users ORDER BY id"), [1107, 1107], "{}", node.name);
    }
    // and it goes on
    cluster.node(2).batch("UPDATE users SET balance = balance - 7");
    settle::settle(&cluster);
    assert_agree(&cluster);
    assert_eq!(cluster.node(1).values::<i32>("SELECT balance FROM users"), [1100, 1100]);
    cluster.finish();
}

/// kill -9 of a node that has kept a parent and is applying the transaction that led to it once more. That one is so large
/// that there is time.
#[track_caller]
fn kill_behind_a_kept_parent(cluster: &Cluster, child_arrives: bool) {
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    let (deciding, other) = if child_arrives { (n1, n2) } else { (n2, n1) };
    let many = "INSERT INTO bulk SELECT g FROM generate_series(1, 60000) g";
    mesh::disconnect(cluster);
    let (delete, insert) = ("DELETE FROM users WHERE id = 1", "INSERT INTO orders VALUES (10, 1, 'tea')");
    match child_arrives {
        true => {
            n1.batch(delete);
            n2.batch(&format!("BEGIN; {insert}; {many}; COMMIT"));
        }
        false => {
            n2.batch(insert);
            n1.batch(&format!("BEGIN; {delete}; {many}; COMMIT"));
        }
    }
    let stamp = |node: &Node| stamps::of(node, "users", &[json!({ "id": 1 })]);
    let before = stamp(deciding);
    let name = mesh::subscription(deciding, other);
    deciding.batch(&format!("SELECT meld.sub_enable('{name}', immediate => true)"));
    let kept = || (stamp(deciding) != before, deciding.value::<i64>("SELECT count(*) FROM bulk"));
    let (_, rows_then) = wait::until_value("the parent to be kept", kept, |(is_kept, _)| *is_kept);
    assert_eq!(rows_then, 0, "the transaction behind it is not there yet");
    fault::kill_postmaster(deciding);
    fault::start(deciding);
    assert_eq!(deciding.value::<i64>("SELECT count(*) FROM users WHERE id = 1"), 1, "kept for good");
    mesh::reconnect(cluster);
    assert_eq!(rows(cluster), "user 1 user 2 order 10");
    assert_agree(cluster);
    cluster.node(1).batch("DELETE FROM orders; TRUNCATE bulk");
    settle::settle(cluster);
}

#[test]
fn kill_9_between_a_kept_parent_and_its_cause() {
    let cluster = start("fk_kill", 2, "keep_parent");
    cluster.batch("CREATE TABLE bulk (id int PRIMARY KEY); SELECT meld.repset_add_table('default', 'bulk')");
    fault::expect_lost_links(&cluster);
    for child_arrives in [true, false] {
        kill_behind_a_kept_parent(&cluster, child_arrives);
    }
    cluster.finish();
}
