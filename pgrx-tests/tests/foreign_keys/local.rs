//! Apply against transactions of local users that are open: whoever comes second waits, and finds what the first has done.

use std::thread;

use meld_cluster_tests::node::SqlError;
use meld_cluster_tests::{Cluster, Node, Plan, compare, mesh, settle, wait};

use crate::orphans::{self, Reference};

const REFERENCES: [Reference; 1] = [Reference { child: "orders", columns: "user_id", parent: "users", referred: "id" }];

fn start(name: &str) -> Cluster {
    let cluster = Plan::new(name, 2).start_mesh();
    mesh::replicate(
        &cluster,
        "CREATE TABLE users (id int PRIMARY KEY);
         CREATE TABLE orders (id int PRIMARY KEY, user_id int NOT NULL REFERENCES users);
         CREATE TABLE gate (id int PRIMARY KEY, n int)",
    );
    cluster.node(1).batch("INSERT INTO users VALUES (1), (2); INSERT INTO gate VALUES (1, 0)");
    settle::settle(&cluster);
    cluster
}

/// Waits until so many sessions of this kind wait for a lock.
#[track_caller]
fn until_waiting(node: &Node, condition: &str) {
    let waiting = format!("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND {condition}");
    wait::until_value(condition, || node.value::<i64>(&waiting), |count| *count > 0);
}

const APPLY: &str = "backend_type LIKE 'meld apply%'";

#[track_caller]
fn assert_well(cluster: &Cluster, users: &[i32], orders: &[i32]) {
    settle::settle_decisions(cluster);
    compare::equal(cluster);
    orphans::assert_none(cluster, &REFERENCES);
    for node in cluster.nodes() {
        assert_eq!(node.values::<i32>("SELECT id FROM users ORDER BY id"), users, "{}", node.name);
        assert_eq!(node.values::<i32>("SELECT id FROM orders ORDER BY id"), orders, "{}", node.name);
    }
}

/// The child is put and its transaction still open, because a later change of it waits for a row that is locked.
#[test]
fn a_local_delete_waits_for_the_child_that_is_applied() {
    let cluster = start("fk_local_delete");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    let mut client = n1.client();
    let mut holder = client.transaction().expect("begin");
    holder.batch_execute("SELECT FROM gate FOR UPDATE").expect("lock");
    n2.batch("BEGIN; INSERT INTO orders VALUES (10, 1); UPDATE gate SET n = n + 1; COMMIT");
    until_waiting(n1, APPLY);
    thread::scope(|scope| {
        let delete = scope.spawn(|| n1.client().batch_execute("DELETE FROM users WHERE id = 1"));
        until_waiting(n1, "query LIKE 'DELETE FROM users%'");
        holder.rollback().expect("rollback");
        let refused = delete.join().expect("no panic").expect_err("the row is referred to");
        assert_eq!(SqlError::of(&refused).sqlstate, "23503");
    });
    assert_well(&cluster, &[1, 2], &[10]);
    cluster.finish();
}

/// A local child is not committed when the delete of its parent is applied.
#[test]
fn a_delete_waits_for_a_local_child() {
    let cluster = start("fk_local_child");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    let mut client = n1.client();
    let mut local = client.transaction().expect("begin");
    local.batch_execute("INSERT INTO orders VALUES (10, 1)").expect("insert");
    n2.batch("DELETE FROM users WHERE id = 1");
    until_waiting(n1, APPLY);
    local.commit().expect("commit");
    assert_well(&cluster, &[1, 2], &[10]);
    let conflicts = "SELECT conflict_type FROM meld.resolutions WHERE relname = 'users' ORDER BY id LIMIT 2";
    assert_eq!(n1.values::<String>(conflicts), ["foreign_key", "delete_exists"]);
    cluster.finish();
}

/// A local delete of the parent is not committed when the child is applied.
#[test]
fn a_child_waits_for_a_local_delete() {
    let cluster = start("fk_local_parent");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    let mut client = n1.client();
    let mut local = client.transaction().expect("begin");
    local.batch_execute("DELETE FROM users WHERE id = 1").expect("delete");
    n2.batch("INSERT INTO orders VALUES (10, 1)");
    until_waiting(n1, APPLY);
    local.commit().expect("commit");
    assert_well(&cluster, &[1, 2], &[10]);
    // undone, nothing has happened
    let mut local = client.transaction().expect("begin");
    local.batch_execute("DELETE FROM users WHERE id = 2").expect("delete");
    n2.batch("INSERT INTO orders VALUES (20, 2)");
    until_waiting(n1, APPLY);
    local.rollback().expect("rollback");
    assert_well(&cluster, &[1, 2], &[10, 20]);
    cluster.finish();
}
