//! One node deletes a user while another takes an order for it.

use meld_cluster_tests::{Cluster, Node, Plan, compare, mesh, settle, stamps};
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

#[test]
fn keep_parent() {
    let cluster = start("fk_keep", 2, "keep_parent");
    race(&cluster);
    assert_eq!(rows(&cluster), "user 1 user 2 order 10");
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
    assert_agree(&cluster);
    cluster.node(1).batch("INSERT INTO orders VALUES (11, 2)");
    settle::settle(&cluster);
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
    cluster.node(1).batch("UPDATE users SET balance = balance + 7; DELETE FROM users WHERE id = 1");
    cluster.node(2).batch("INSERT INTO orders VALUES (10, 1, 'tea'); UPDATE users SET balance = balance - 30");
    cluster.node(3).batch("UPDATE users SET balance = balance + 1000");
    mesh::reconnect(&cluster);
    assert_eq!(rows(&cluster), "user 1 user 2 order 10");
    assert_agree(&cluster);
    for node in cluster.nodes() {
        assert_eq!(node.values::<i32>("SELECT balance FROM users ORDER BY id"), [1077, 1077], "{}", node.name);
    }
    cluster.finish();
}
