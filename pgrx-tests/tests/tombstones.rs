//! Which tombstones a node keeps of its own deletes.

use meld_cluster_tests::{Node, Plan, compare, fault, mesh, settle, stamps};

/// Number of tombstones of a table.
fn kept(node: &Node, table: &str) -> i64 {
    stamps::tombstones(node, Some(table))
}

#[test]
fn every_way_to_delete_leaves_a_tombstone_and_what_is_undone_leaves_none() {
    let cluster = Plan::new("deaths", 1).start();
    let node = cluster.node(1);
    mesh::create_node(node);
    keep_all(node);
    node.batch(
        "CREATE TABLE t (id int PRIMARY KEY, v text);
         CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t ON DELETE CASCADE);
         CREATE TABLE unreplicated (id int PRIMARY KEY);
         SELECT meld.repset_add_table('default', 't');
         SELECT meld.repset_add_table('default', 'child');
         INSERT INTO t SELECT i, 'x' FROM generate_series(1, 100) i;
         INSERT INTO child SELECT i, i FROM generate_series(1, 10) i;
         INSERT INTO unreplicated VALUES (1);
         DELETE FROM unreplicated;",
    );
    let mut expected = 0;
    let mut check = |what: &str, sql: &str, more: i64| {
        node.batch(sql);
        expected += more;
        assert_eq!(kept(node, "t"), expected, "{what}");
    };
    check("plain", "DELETE FROM t WHERE id = 11", 1);
    check("several", "DELETE FROM t WHERE id IN (12, 13, 14)", 3);
    check("in a CTE", "WITH d AS (DELETE FROM t WHERE id = 15 RETURNING *) SELECT * FROM d", 1);
    check("MERGE", "MERGE INTO t USING (VALUES (16)) s (id) ON t.id = s.id WHEN MATCHED THEN DELETE", 1);
    check(
        "cursor",
        "BEGIN; DECLARE c CURSOR FOR SELECT * FROM t WHERE id = 17 FOR UPDATE; FETCH c;
         DELETE FROM t WHERE CURRENT OF c; COMMIT",
        1,
    );
    check("key change", "UPDATE t SET id = 1018 WHERE id = 18", 1);
    check("update that keeps the key", "UPDATE t SET id = id, v = 'y' WHERE id = 19", 0);
    check("rollback", "BEGIN; DELETE FROM t WHERE id = 20; ROLLBACK", 0);
    check(
        "savepoint undone",
        "BEGIN; DELETE FROM t WHERE id = 21; SAVEPOINT s; DELETE FROM t WHERE id = 22; ROLLBACK TO s; COMMIT",
        1,
    );
    check(
        "savepoint released",
        "BEGIN; SAVEPOINT s; DELETE FROM t WHERE id = 23; SAVEPOINT s2; DELETE FROM t WHERE id = 24; RELEASE s; COMMIT",
        2,
    );
    check(
        "released, then undone above",
        "BEGIN; SAVEPOINT s; SAVEPOINT s2; DELETE FROM t WHERE id = 25; RELEASE s2; ROLLBACK TO s; COMMIT",
        0,
    );
    check(
        "exception block",
        "DO $$BEGIN
            BEGIN DELETE FROM t WHERE id = 26; RAISE EXCEPTION 'x'; EXCEPTION WHEN OTHERS THEN NULL; END;
            BEGIN DELETE FROM t WHERE id = 27; EXCEPTION WHEN OTHERS THEN NULL; END;
         END$$",
        1,
    );
    check(
        "replica role",
        "SET session_replication_role = replica; DELETE FROM t WHERE id = 28; RESET session_replication_role",
        1,
    );
    check("cascade", "DELETE FROM t WHERE id IN (1, 2)", 2);
    assert_eq!(kept(node, "child"), 2);
    assert_eq!(kept(node, "unreplicated"), 0);
    cluster.finish();
}

#[test]
fn more_deletes_than_are_kept_in_memory() {
    let cluster = Plan::new("many_deaths", 1).start();
    let node = cluster.node(1);
    mesh::create_node(node);
    node.batch(
        "CREATE TABLE t (id int PRIMARY KEY);
         SELECT meld.repset_add_table('default', 't');
         INSERT INTO t SELECT generate_series(1, 190000);",
    );
    node.batch("BEGIN; DELETE FROM t; ROLLBACK");
    assert_eq!(kept(node, "t"), 0);
    // in part of a subtransaction, written in between too
    node.batch("BEGIN; DELETE FROM t WHERE id = 1; SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; COMMIT");
    assert_eq!(kept(node, "t"), 1);
    node.batch("DELETE FROM t");
    assert_eq!(kept(node, "t"), 190_000);
    let rows: i64 =
        node.value("SELECT (SELECT count(*) FROM meld.tombstone) + (SELECT count(*) FROM meld.tombstone_bundle)");
    assert!(rows < 2_000, "{rows} rows are kept of them");
    cluster.finish();
}

#[test]
fn prepared_deletes_leave_their_tombstones_when_they_are_committed() {
    let cluster = Plan::new("prepared", 1).setting("max_prepared_transactions = 5").start();
    let node = cluster.node(1);
    mesh::create_node(node);
    node.batch(
        "CREATE TABLE t (id int PRIMARY KEY);
         SELECT meld.repset_add_table('default', 't');
         INSERT INTO t SELECT generate_series(1, 3);",
    );
    node.batch("BEGIN; DELETE FROM t WHERE id = 1; PREPARE TRANSACTION 'one'");
    node.batch("BEGIN; DELETE FROM t WHERE id = 2; PREPARE TRANSACTION 'two'");
    assert_eq!(kept(node, "t"), 0);
    node.batch("COMMIT PREPARED 'one'");
    node.batch("ROLLBACK PREPARED 'two'");
    assert_eq!(kept(node, "t"), 1);
    let is_stamped: bool = node.value(
        "SELECT pg_xact_commit_timestamp(xmin) > now() - interval '1 min' AND stamp_ts IS NULL FROM meld.tombstone",
    );
    assert!(is_stamped);
    cluster.finish();
}

#[test]
fn an_empty_key_is_a_key_like_any_other() {
    let cluster = Plan::new("empty_key", 2).start_mesh();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    mesh::replicate(&cluster, "CREATE TABLE t (id text PRIMARY KEY, v int); CREATE TABLE b (id char(3) PRIMARY KEY)");
    n1.batch("INSERT INTO t VALUES ('', 1); INSERT INTO b VALUES ('')");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    n2.batch("INSERT INTO t VALUES ('x', 2); INSERT INTO b VALUES ('x')");
    // later, and not the end of what came before
    n1.batch("DELETE FROM t WHERE id = ''; DELETE FROM b");
    mesh::reconnect(&cluster);
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(n1.value::<i64>("SELECT (SELECT count(*) FROM t) + (SELECT count(*) FROM b)"), 2);
    // a truncate is the end of it
    mesh::disconnect(&cluster);
    n2.batch("INSERT INTO t VALUES ('', 3), ('y', 3)");
    n1.batch("TRUNCATE t");
    mesh::reconnect(&cluster);
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM t"), 0);
    cluster.finish();
}

/// A member that never says anything, for which all tombstones are kept.
fn keep_all(node: &Node) {
    node.batch(
        "INSERT INTO meld.node (node_id, node_name, system_identifier, database, snowflake_node)
         VALUES (1000, 'away', 1, 'away', 1000);
         INSERT INTO meld.node_interface (if_name, if_nodeid, if_dsn) VALUES ('away', 1000, 'dbname=away');
         INSERT INTO meld.subscription (sub_name, sub_provider, sub_interface, sub_enabled, sub_slot_name, sub_origin_name,
             sub_replication_sets)
         SELECT 'away', 1000, if_id, false, 'away', 'away', '{default}' FROM meld.node_interface WHERE if_name = 'away'",
    );
    // who collects them has to know of it
    fault::restart(node);
}
