//! Deletes and updates that come by byways: prepared transactions, sessions that switch triggers off, tables that become
//! partitions. Tombstones and versions are right there, too.

use meld_cluster_tests::stamps::{self, Known};
use meld_cluster_tests::{Cluster, Node, Plan, compare, fault, mesh, resolutions, settle};
use serde_json::json;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

fn start(name: &str) -> Cluster {
    let cluster = Plan::new(name, 2).setting("max_prepared_transactions = 10").start_mesh();
    mesh::replicate(&cluster, TABLE);
    cluster.node(1).batch("INSERT INTO t SELECT i, 'base' FROM generate_series(1, 9) i");
    settle::settle(&cluster);
    cluster
}

#[track_caller]
fn assert_rows(cluster: &Cluster, expected: &str) {
    compare::equal(cluster);
    let rows: String = cluster.node(1).value("SELECT string_agg(concat(id, ' ', v), ', ' ORDER BY id) FROM t");
    assert_eq!(rows, expected);
    let nodes: Vec<&Node> = cluster.nodes().iter().collect();
    let keys: Vec<_> = (1..=20).map(|id| json!({ "id": id })).collect();
    stamps::agree(&nodes, "t", &keys);
}

fn history(node: &Node) -> Vec<String> {
    let key = |entry: &resolutions::Resolution| entry.key.as_ref().map(|key| key["id"].to_string()).unwrap_or_default();
    let entries = resolutions::of(node, "t");
    entries.iter().map(|entry| format!("{} {} {}", key(entry), entry.conflict, entry.resolution)).collect()
}

/// What is written by a prepared transaction has the stamp of its COMMIT PREPARED, tombstones included.
#[test]
fn prepared_transactions_count_from_their_commit() {
    let cluster = start("byways_prepared");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    mesh::disconnect(&cluster);
    n1.batch(
        "BEGIN; DELETE FROM t WHERE id IN (1, 3); UPDATE t SET v = 'prepared' WHERE id = 2; UPDATE t SET id = 12 WHERE id = 6;
         INSERT INTO t VALUES (11, 'prepared'); PREPARE TRANSACTION 'p'",
    );
    n2.batch("UPDATE t SET v = 'between' WHERE id IN (1, 2, 6)");
    n1.batch("COMMIT PREPARED 'p'");
    n2.batch("UPDATE t SET v = 'later' WHERE id = 3");
    n1.batch("BEGIN; DELETE FROM t WHERE id = 4; PREPARE TRANSACTION 'q'");
    n1.batch("ROLLBACK PREPARED 'q'");
    n2.batch("UPDATE t SET v = 'n2' WHERE id = 4");
    assert!(matches!(stamps::of(n1, "t", &[json!({ "id": 4 })])[0], Known::Live(_)));
    mesh::reconnect(&cluster);
    assert_rows(&cluster, "2 prepared, 3 later, 4 n2, 5 base, 7 base, 8 base, 9 base, 11 prepared, 12 base");
    assert_eq!(
        history(n1),
        [
            "1 update_deleted skip",
            "2 update_origin_differs keep_local",
            "6 update_deleted skip",
            "3 update_deleted apply_remote"
        ]
    );
    let mut at_n2 = history(n2);
    at_n2.sort();
    assert_eq!(
        at_n2,
        [
            "1 delete_origin_differs apply_remote",
            "2 update_origin_differs apply_remote",
            "3 delete_exists keep_local",
            "6 delete_origin_differs apply_remote"
        ]
    );
    cluster.finish();
}

/// A transaction that was prepared before a crash is committed after it.
#[test]
fn prepared_transactions_outlive_a_crash() {
    let cluster = start("byways_crash");
    fault::expect_lost_links(&cluster);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    mesh::disconnect(&cluster);
    n1.batch("BEGIN; DELETE FROM t WHERE id < 9; UPDATE t SET v = 'n1'; PREPARE TRANSACTION 'p'");
    fault::kill_postmaster(n1);
    fault::start(n1);
    n2.batch("UPDATE t SET v = 'between' WHERE id IN (1, 9)");
    n1.batch("COMMIT PREPARED 'p'");
    n2.batch("UPDATE t SET v = 'later' WHERE id = 2");
    mesh::reconnect(&cluster);
    assert_rows(&cluster, "2 later, 9 n1");
    cluster.finish();
}

/// As `pg_dump --disable-triggers` and some tools do it; and sessions that replicate by other means.
#[test]
fn deletes_behind_disabled_triggers_leave_tombstones() {
    let cluster = start("byways_disabled");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n2.batch("UPDATE t SET v = 'n2' WHERE id < 8");
    settle::settle(&cluster);
    n1.batch(
        "ALTER TABLE t DISABLE TRIGGER ALL; UPDATE t SET v = 'disabled' WHERE id = 1; ALTER TABLE t ENABLE TRIGGER ALL",
    );
    n1.batch("BEGIN; SET LOCAL session_replication_role = replica; UPDATE t SET v = 'replica' WHERE id = 2; COMMIT");
    settle::settle(&cluster);
    assert_eq!(history(n2), Vec::<String>::new(), "they replaced what they had seen");

    mesh::disconnect(&cluster);
    n2.batch("UPDATE t SET v = 'older' WHERE id IN (3, 4, 5, 6)");
    n1.batch("ALTER TABLE t DISABLE TRIGGER ALL; DELETE FROM t WHERE id = 3; ALTER TABLE t ENABLE TRIGGER ALL");
    n1.batch("DELETE FROM t WHERE id = 4");
    n1.batch("BEGIN; SET LOCAL session_replication_role = replica; DELETE FROM t WHERE id = 5; COMMIT");
    n1.batch("ALTER TABLE t DISABLE TRIGGER USER; DELETE FROM t WHERE id = 6; ALTER TABLE t ENABLE TRIGGER USER");
    mesh::reconnect(&cluster);
    assert_rows(&cluster, "1 disabled, 2 replica, 7 n2, 8 base, 9 base");
    let skipped: Vec<String> = [3, 4, 5, 6].map(|id| format!("{id} update_deleted skip")).into();
    assert_eq!(history(n1), skipped);
    cluster.finish();
}

/// A table has all that it needs from the moment on in which it becomes a partition of a replicated one.
#[test]
fn attached_partitions_leave_tombstones() {
    let cluster = Plan::new("byways_attach", 2).start_mesh();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    mesh::replicate(
        &cluster,
        "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100)",
    );
    cluster.batch("CREATE TABLE p2 (id int PRIMARY KEY, v text)");
    n1.batch("INSERT INTO p2 VALUES (101, 'before')");
    n2.batch("INSERT INTO p2 VALUES (101, 'before')");
    cluster.batch("ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (100) TO (200)");
    cluster.batch("CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (200) TO (300)");
    cluster.batch("SELECT meld.repset_add_all_tables('default', '{public}')");
    n1.batch("INSERT INTO p SELECT i, 'base' FROM generate_series(1, 300 - 1, 33) i");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    n2.batch("UPDATE p SET v = 'older'");
    n1.batch("DELETE FROM p WHERE id > 30");
    n2.batch("UPDATE p SET v = 'newer' WHERE id IN (34, 101, 133, 232)");
    n1.batch("UPDATE p SET id = 250 WHERE id = 1");
    mesh::reconnect(&cluster);
    compare::equal(&cluster);
    let rows: String = n2.value("SELECT string_agg(concat(id, ' ', v), ', ' ORDER BY id) FROM p");
    assert_eq!(rows, "34 newer, 101 newer, 133 newer, 232 newer, 250 base");
    cluster.finish();
}
