//! Rows that refer to a row which loses a clash in a unique index: they go with it, on every node.

use meld_cluster_tests::{Cluster, Node, Plan, compare, mesh, settle, stamps};
use serde_json::json;

const TABLES: &str = "CREATE TABLE p (id int PRIMARY KEY, u int UNIQUE);
    CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE SET NULL);
    CREATE TABLE g (id int PRIMARY KEY, c int NOT NULL REFERENCES c ON DELETE CASCADE);
    CREATE TABLE ring (id int PRIMARY KEY, u int UNIQUE, next int REFERENCES ring)";

/// Keys in a table that is equal on all nodes.
#[track_caller]
fn assert_ids(cluster: &Cluster, table: &str, expected: &[i32]) {
    for node in cluster.nodes() {
        let ids: Vec<i32> = node.values(&format!("SELECT id FROM {table} ORDER BY id"));
        assert_eq!(ids, expected, "{table} on {}", node.name);
    }
}

#[track_caller]
fn assert_settled(cluster: &Cluster) {
    settle::settle(cluster);
    compare::equal(cluster);
    let nodes: Vec<&Node> = cluster.nodes().iter().collect();
    for (table, ids) in [("p", 1..3), ("c", 10..31), ("g", 100..102), ("ring", 1..5)] {
        let keys: Vec<_> = ids.map(|id| json!({ "id": id })).collect();
        stamps::agree(&nodes, table, &keys);
    }
    for node in cluster.nodes() {
        let orphans: i64 = node.value(
            "SELECT (SELECT count(*) FROM c WHERE p NOT IN (SELECT id FROM p))
                  + (SELECT count(*) FROM g WHERE c NOT IN (SELECT id FROM c))
                  + (SELECT count(*) FROM ring WHERE next NOT IN (SELECT id FROM ring))",
        );
        assert_eq!(orphans, 0, "on {}", node.name);
    }
}

#[test]
fn children_of_a_removed_row_go_with_it() {
    let cluster = Plan::new("removed_children", 2).start_mesh();
    mesh::replicate(&cluster, TABLES);
    for (early, late) in [(cluster.node(1), cluster.node(2)), (cluster.node(2), cluster.node(1))] {
        mesh::disconnect(&cluster);
        early.batch("INSERT INTO p VALUES (1, 5); INSERT INTO c VALUES (10, 1), (11, 1), (12, NULL)");
        early.batch("INSERT INTO g VALUES (100, 10), (101, 12)");
        late.batch("INSERT INTO p VALUES (2, 5); INSERT INTO c VALUES (20, 2)");
        mesh::reconnect(&cluster);
        assert_settled(&cluster);
        assert_ids(&cluster, "p", &[2]);
        assert_ids(&cluster, "c", &[12, 20]);
        assert_ids(&cluster, "g", &[101]);
        // whole rows, each lost once on the node that decided or heard of it first
        let lost = "SELECT relname || key::text FROM meld.resolutions WHERE relname IN ('c', 'g') ORDER BY 1";
        let told: Vec<Vec<String>> = cluster.nodes().iter().map(|node| node.values(lost)).collect();
        for row in ["c{\"id\": 10}", "c{\"id\": 11}", "g{\"id\": 100}"] {
            assert!(told.iter().flatten().any(|entry| entry == row), "{row} in {told:?}");
        }
        early.batch("DELETE FROM g; DELETE FROM c; DELETE FROM p");
        settle::settle(&cluster);
        cluster.batch("DELETE FROM meld.resolutions");
    }
    cluster.finish();
}

#[test]
fn rows_that_refer_to_each_other_go_together() {
    let cluster = Plan::new("removed_ring", 2).start_mesh();
    mesh::replicate(&cluster, TABLES);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    mesh::disconnect(&cluster);
    n1.batch("INSERT INTO ring VALUES (1, 7, NULL), (3, 8, 1), (4, 9, 4); UPDATE ring SET next = 3 WHERE id = 1");
    n2.batch("INSERT INTO ring VALUES (2, 7, 2)");
    mesh::reconnect(&cluster);
    assert_settled(&cluster);
    assert_ids(&cluster, "ring", &[2, 4]);
    cluster.finish();
}

#[test]
fn children_that_the_author_of_a_removal_has_not_seen_go_too() {
    let cluster = Plan::new("removed_unseen", 3).start_mesh();
    mesh::replicate(&cluster, TABLES);
    let [n1, n2, n3] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    for (one, other) in [(n1, n2), (n2, n1), (n2, n3), (n3, n2)] {
        mesh::set_enabled(one, other, false);
    }
    n1.batch("INSERT INTO p VALUES (1, 5)");
    mesh::deliver(n1, n3);
    // n1 does not hear of this one before it decides
    mesh::set_enabled(n1, n3, false);
    n3.batch("INSERT INTO c VALUES (30, 1)");
    n2.batch("INSERT INTO p VALUES (2, 5)");
    mesh::set_enabled(n1, n2, true);
    mesh::deliver(n2, n1);
    assert_eq!(n1.values::<i32>("SELECT id FROM p"), [2]);
    mesh::reconnect(&cluster);
    assert_settled(&cluster);
    assert_ids(&cluster, "p", &[2]);
    assert_ids(&cluster, "c", &[]);
    cluster.finish();
}
