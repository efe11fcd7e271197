//! Tombstones where deletes take unusual ways: truncates, partitions, triggers of users, tables of no set.

use meld_cluster_tests::{Cluster, Node, Plan, compare, mesh, resolutions, settle, stamps, wait};

/// The tombstones of a table, floors not counted.
#[track_caller]
fn kept(node: &Node, table: &str) -> i64 {
    node.value(&format!("SELECT count(*) FROM meld.tombstone WHERE relid = '{table}'::regclass AND key <> ''"))
}

#[track_caller]
fn floors(node: &Node, table: &str) -> i64 {
    node.value(&format!("SELECT count(*) FROM meld.tombstone WHERE relid = '{table}'::regclass AND key = ''"))
}

fn alone(name: &str) -> Cluster {
    let cluster = Plan::new(name, 1).setting("max_prepared_transactions = 5").start();
    mesh::create_node(cluster.node(1));
    cluster
}

#[test]
fn a_truncate_leaves_a_floor() {
    let cluster = alone("floors");
    let node = cluster.node(1);
    node.batch(
        "CREATE TABLE t (id int PRIMARY KEY);
         CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t);
         CREATE TABLE unreplicated (id int PRIMARY KEY, t int REFERENCES t);
         CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200);
         SELECT meld.repset_add_table('default', x) FROM unnest('{t,child,p}'::regclass[]) x;
         INSERT INTO t SELECT generate_series(1, 5)",
    );
    node.batch("BEGIN; TRUNCATE t, child, unreplicated; ROLLBACK");
    node.batch("BEGIN; SAVEPOINT s; TRUNCATE t CASCADE; ROLLBACK TO s; COMMIT");
    assert_eq!([floors(node, "t"), floors(node, "child")], [0, 0]);
    node.batch("TRUNCATE t CASCADE");
    assert_eq!([floors(node, "t"), floors(node, "child"), floors(node, "unreplicated")], [1, 1, 0]);
    node.batch("SET session_replication_role = replica; TRUNCATE child; RESET session_replication_role");
    assert_eq!(floors(node, "child"), 2);
    node.batch("TRUNCATE p");
    assert_eq!([floors(node, "p1"), floors(node, "p2")], [1, 1]);
    node.batch("BEGIN; TRUNCATE p1; PREPARE TRANSACTION 'one'");
    assert_eq!(floors(node, "p1"), 1);
    node.batch("COMMIT PREPARED 'one'");
    assert_eq!(floors(node, "p1"), 2);
    let are_implied: bool = node.value("SELECT bool_and(stamp_ts IS NULL AND since_ts IS NULL) FROM meld.tombstone");
    assert!(are_implied);
    cluster.finish();
}

#[test]
fn rows_that_move_stay_or_were_never_replicated() {
    let cluster = alone("odd_deaths");
    let node = cluster.node(1);
    node.batch(
        "CREATE TABLE p (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200);
         CREATE TABLE t (id int PRIMARY KEY, v text);
         CREATE TABLE left_the_set (id int PRIMARY KEY);
         CREATE TABLE never (id int PRIMARY KEY);
         SELECT meld.repset_add_table('default', x) FROM unnest('{p,t,left_the_set}'::regclass[]) x;
         SELECT meld.repset_remove_table('default', 'left_the_set');
         CREATE FUNCTION spare() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER spare BEFORE DELETE ON t FOR EACH ROW WHEN (old.v = 'spared') EXECUTE FUNCTION spare();
         INSERT INTO p VALUES (1, 'moves'), (2, 'stays');
         INSERT INTO t VALUES (1, 'spared'), (2, 'dies'), (3, 'nulled');
         INSERT INTO left_the_set VALUES (1); INSERT INTO never VALUES (1)",
    );
    node.batch("UPDATE p SET id = 150 WHERE id = 1; UPDATE p SET v = 'x' WHERE id = 2");
    assert_eq!([kept(node, "p1"), kept(node, "p2")], [1, 0]);
    node.batch("UPDATE p SET id = 151 WHERE id = 150");
    assert_eq!([kept(node, "p1"), kept(node, "p2")], [1, 1]);
    node.batch("DELETE FROM t WHERE id < 3");
    assert_eq!(kept(node, "t"), 1, "the spared row is not noted");
    assert_eq!(node.value::<i64>("SELECT count(*) FROM t"), 2);
    node.batch("DELETE FROM left_the_set; DELETE FROM never; TRUNCATE never");
    assert_eq!([kept(node, "left_the_set"), kept(node, "never"), floors(node, "never")], [0, 0, 0]);

    // a key that is changed by a trigger of the table's
    node.batch(
        "CREATE FUNCTION other_key() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN new.id := new.id + 10; RETURN new; END';
         CREATE TRIGGER other_key BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION other_key();
         UPDATE t SET v = 'y' WHERE id = 3",
    );
    assert_eq!(kept(node, "t"), 2);

    // what is dropped is forgotten
    node.batch("DROP TABLE t");
    let left: i64 = node.value("SELECT count(*) FROM meld.tombstone WHERE relid NOT IN (SELECT oid FROM pg_class)");
    assert_eq!(left, 0);
    cluster.finish();
}

#[test]
fn keys_without_bytes_are_refused() {
    let cluster = alone("keys_refused");
    let node = cluster.node(1);
    node.batch(
        "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE TABLE loose (name text COLLATE blind PRIMARY KEY);
         CREATE TABLE spans (span interval PRIMARY KEY);
         CREATE TABLE p (name text COLLATE blind PRIMARY KEY) PARTITION BY LIST (name);
         CREATE TABLE p1 PARTITION OF p FOR VALUES IN ('a');
         CREATE TABLE fine (a numeric, b float8, c text, d uuid, e char(5), PRIMARY KEY (a, b, c, d, e))",
    );
    for (table, column) in [("loose", "name"), ("spans", "span"), ("p", "name")] {
        let error = node.error(&format!("SELECT meld.repset_add_table('default', '{table}')"));
        assert_eq!(error.sqlstate, "0A000", "{error:?}");
        assert!(error.message.contains(&format!("\"{column}\"")), "{error:?}");
        assert!(!error.detail.is_empty() && error.hint.contains("replica identity"), "{error:?}");
    }
    node.batch(
        "SELECT meld.repset_add_table('default_insert_only', 'loose');
         SELECT meld.repset_add_table('default', 'fine')",
    );
    let error = node.error("SELECT meld.repset_alter('default_insert_only', replicate_update => true)");
    assert_eq!(error.sqlstate, "0A000", "{error:?}");
    cluster.finish();
}

#[test]
fn switched_off_triggers_are_repaired_all_of_them() {
    let cluster = alone("both_repaired");
    let node = cluster.node(1);
    node.batch("CREATE TABLE t (id int PRIMARY KEY); SELECT meld.repset_add_table('default', 't')");
    let state = || -> String {
        node.value(
            "SELECT string_agg(tgfoid::regproc::text || ' ' || tgenabled::text, ', ' ORDER BY tgfoid::regproc::text) \
             FROM pg_trigger WHERE tgrelid = 't'::regclass",
        )
    };
    let right = "meld.row_trigger A, meld.truncate_trigger A".to_owned();
    assert_eq!(state(), right);
    for statement in ["DISABLE TRIGGER ALL", "ENABLE TRIGGER ALL", "DISABLE TRIGGER ALL"] {
        node.batch(&format!("ALTER TABLE t {statement}"));
        wait::until_equal(statement, right.clone(), &state);
    }
    node.batch("INSERT INTO t VALUES (1), (2); DELETE FROM t WHERE id = 1; TRUNCATE t");
    assert_eq!([kept(node, "t"), floors(node, "t")], [1, 1]);
    node.batch("SELECT meld.repset_remove_table('default', 't')");
    let left: i64 = node.value("SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass");
    assert_eq!(left, 0);
    cluster.finish();
}

/// What a node truncated does not come back by a write that was made before, elsewhere.
#[test]
fn an_older_insert_stays_out_after_a_truncate_and_a_newer_one_comes() {
    let cluster = Plan::new("floor_wins", 2).start_mesh();
    mesh::replicate(&cluster, "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let (n1, n2) = (cluster.node(1), cluster.node(2));
    n1.batch("INSERT INTO t VALUES (1, 'both')");
    settle::settle(&cluster);
    mesh::set_enabled(n1, n2, false);
    mesh::set_enabled(n2, n1, false);
    n2.batch("INSERT INTO t VALUES (2, 'older')");
    n1.batch("TRUNCATE t");
    n2.batch("INSERT INTO t VALUES (3, 'newer')");
    mesh::set_enabled(n1, n2, true);
    mesh::set_enabled(n2, n1, true);
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(n1.value::<String>("SELECT string_agg(v, ' ') FROM t"), "newer");
    cluster.finish();
}

/// A version that carries the stamp of another than its writer is told by that stamp.
#[test]
fn a_change_of_a_row_with_an_explicit_stamp_is_no_conflict() {
    let cluster = Plan::new("explicit_versions", 2).start_mesh();
    mesh::replicate(&cluster, "CREATE TABLE t (id int PRIMARY KEY, v text, n int NOT NULL)");
    cluster.batch("SELECT meld.delta_add_column('t', 'n')");
    let (n1, n2) = (cluster.node(1), cluster.node(2));
    n1.batch("INSERT INTO t VALUES (1, 'x', 0)");
    settle::settle(&cluster);
    // n2 keeps its own later version, with n1's amount in it
    mesh::set_enabled(n1, n2, false);
    mesh::set_enabled(n2, n1, false);
    n1.batch("UPDATE t SET n = n + 1");
    n2.batch("UPDATE t SET n = n + 10");
    mesh::set_enabled(n1, n2, true);
    mesh::set_enabled(n2, n1, true);
    settle::settle(&cluster);
    assert!(stamps::are_explicit(n2, "t"), "n2's row took an amount and kept its stamp");
    let before = resolutions::of(n1, "t").len();
    n2.batch("UPDATE t SET v = 'y'");
    settle::settle(&cluster);
    n1.batch("UPDATE t SET v = 'z'");
    settle::settle(&cluster);
    assert_eq!(resolutions::of(n1, "t").len(), before, "sequential");
    compare::equal(&cluster);
    cluster.finish();
}
