//! Which version a change replaced: nodes that take turns on a row leave no history, those that write at the same time
//! always do, in whatever form the statement comes.

use meld_cluster_tests::{Cluster, Node, Plan, compare, mesh, pgbench, resolutions, settle};
use std::time::Duration;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

fn start(name: &str, nodes: usize, tables: &str) -> Cluster {
    let cluster = Plan::new(name, nodes).start_mesh();
    mesh::replicate(&cluster, tables);
    cluster
}

#[track_caller]
fn assert_no_history(cluster: &Cluster) {
    for node in cluster.nodes() {
        let history: Vec<String> =
            node.values("SELECT concat_ws(' ', relname, conflict_type, key, local_origin) FROM meld.resolutions");
        assert!(history.is_empty(), "{}: {history:#?}", node.name);
    }
}

/// A statement on a node, which all others then have.
#[track_caller]
fn turn(cluster: &Cluster, place: usize, sql: &str) {
    cluster.node(place).batch(sql);
    settle::settle(cluster);
}

/// A slot that shows what the node writes from now on.
#[track_caller]
fn watch(node: &Node) {
    node.batch("SELECT pg_create_logical_replication_slot('watch', 'test_decoding')");
}

/// Version messages that the node has written since.
#[track_caller]
fn version_messages(node: &Node) -> i64 {
    node.value(
        "SELECT count(*) FROM pg_logical_slot_peek_changes('watch', NULL, NULL) \
         WHERE data LIKE 'message: transactional: 1 prefix: meld,%'",
    )
}

#[test]
fn two_nodes_that_take_turns_leave_no_history() {
    let cluster = start("turns", 2, TABLE);
    turn(&cluster, 1, "INSERT INTO t VALUES (1, '')");
    for round in 0..20 {
        turn(&cluster, 2 - round % 2, &format!("UPDATE t SET v = v || '{round} '"));
    }
    turn(&cluster, 1, "DELETE FROM t");
    turn(&cluster, 2, "INSERT INTO t VALUES (1, 'again')");
    turn(&cluster, 1, "UPDATE t SET id = 2");
    turn(&cluster, 2, "DELETE FROM t");
    compare::equal(&cluster);
    assert_no_history(&cluster);
    cluster.finish();
}

#[test]
fn writes_at_the_same_time_are_listed_also_between_turns() {
    let cluster = start("at_once", 2, TABLE);
    turn(&cluster, 1, "INSERT INTO t VALUES (1, '')");
    for round in 0..3 {
        turn(&cluster, 1, "UPDATE t SET v = 'turn of 1'");
        turn(&cluster, 2, "UPDATE t SET v = 'turn of 2'");
        mesh::disconnect(&cluster);
        let (first, second) = (1 + round % 2, 2 - round % 2);
        cluster.node(first).batch("UPDATE t SET v = 'lost'");
        cluster.node(second).batch("UPDATE t SET v = 'kept'; UPDATE t SET v = v || ' twice'");
        mesh::reconnect(&cluster);
        compare::equal(&cluster);
        for (place, resolution) in [(first, "apply_remote"), (second, "keep_local")] {
            let node = cluster.node(place);
            let history = resolutions::of(node, "t");
            assert_eq!(history.len(), 1, "round {round}, {}: {history:#?}", node.name);
            let kind = (history[0].conflict.as_str(), history[0].resolution.as_str());
            assert_eq!(kind, ("update_origin_differs", resolution), "round {round}, {}", node.name);
        }
        cluster.batch("DELETE FROM meld.resolutions");
    }
    cluster.finish();
}

#[test]
fn three_nodes_take_turns() {
    let cluster = start("three_turns", 3, TABLE);
    turn(&cluster, 1, "INSERT INTO t SELECT i, '' FROM generate_series(1, 3) i");
    for round in 0..12 {
        turn(&cluster, 1 + round % 3, &format!("UPDATE t SET v = v || '{round} ' WHERE id <= 2"));
    }
    turn(&cluster, 2, "DELETE FROM t WHERE id = 2");
    turn(&cluster, 3, "DELETE FROM t WHERE id = 3");
    compare::equal(&cluster);
    assert_no_history(&cluster);
    mesh::disconnect(&cluster);
    cluster.node(1).batch("UPDATE t SET v = 'lost'");
    cluster.node(3).batch("UPDATE t SET v = 'kept'");
    mesh::reconnect(&cluster);
    compare::equal(&cluster);
    for node in cluster.nodes() {
        assert_eq!(resolutions::of(node, "t").len(), 1, "{}", node.name);
    }
    cluster.finish();
}

const FORMS: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
    CREATE TABLE child (id int PRIMARY KEY, t_id int REFERENCES t ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TABLE named (name text, part int, v text, PRIMARY KEY (part, name));
    CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
    CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200)";

const SUPPRESS: &str = "CREATE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RETURN CASE WHEN OLD.id = 11 THEN NULL ELSE NEW END; END $$;
    CREATE TRIGGER \"~~~last\" BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION suppress()";

#[test]
fn every_form_of_statement_tells_what_it_replaced() {
    let cluster = start("forms", 2, FORMS);
    cluster.node(1).batch(
        "INSERT INTO t SELECT i, '' FROM generate_series(1, 12) i;
         INSERT INTO child SELECT i, i FROM generate_series(1, 12) i;
         INSERT INTO named SELECT repeat('name', i * 200), i, '' FROM generate_series(1, 3) i;
         INSERT INTO p SELECT i, '' FROM generate_series(1, 3) i",
    );
    settle::settle(&cluster);
    let n2 = cluster.node(2);
    watch(n2);
    let forms = [
        ("UPDATE t SET v = 'many' WHERE id <= 2", 2),
        ("UPDATE t SET v = 'from' FROM child c WHERE c.t_id = t.id AND t.id = 3", 1),
        ("INSERT INTO t VALUES (4, 'upsert') ON CONFLICT (id) DO UPDATE SET v = excluded.v", 1),
        ("INSERT INTO t VALUES (5, 'nothing') ON CONFLICT (id) DO NOTHING", 0),
        (
            "BEGIN; SAVEPOINT s; UPDATE t SET v = 'undone' WHERE id = 5; ROLLBACK TO s; UPDATE t SET v = 'x' WHERE id = 5; COMMIT",
            1,
        ),
        ("BEGIN; UPDATE t SET v = 'one' WHERE id = 6; SAVEPOINT s; UPDATE t SET v = 'two' WHERE id = 6; COMMIT", 1),
        (
            "SET session_replication_role = replica; UPDATE t SET v = 'replica' WHERE id = 7; RESET session_replication_role",
            1,
        ),
        ("DELETE FROM t WHERE id = 8", 2),
        ("UPDATE t SET id = 20 WHERE id = 9", 2),
        ("UPDATE named SET v = 'long key'", 3),
        ("UPDATE p SET v = 'leaf' WHERE id = 1", 1),
        ("UPDATE p SET id = 150 WHERE id = 2", 2),
        ("DELETE FROM p WHERE id = 3", 1),
        ("UPDATE t SET v = v || ' own now' WHERE id <= 3", 0),
    ];
    let mut before = 0;
    for (sql, messages) in forms {
        n2.batch(sql);
        let now = version_messages(n2);
        // what was rolled back is not shown
        assert!((now - before) == messages, "{sql}: {} messages", now - before);
        before = now;
    }
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_no_history(&cluster);
    cluster.finish();
}

/// A message whose change never came says nothing about the next one.
#[test]
fn a_suppressed_change_leaves_the_next_one_alone() {
    let cluster = start("suppressed", 2, TABLE);
    turn(&cluster, 1, "INSERT INTO t VALUES (11, 'n1'), (12, 'n1')");
    let (n1, n2) = (cluster.node(1), cluster.node(2));
    turn(&cluster, 2, "UPDATE t SET v = 'n2' WHERE id = 12");
    n2.batch(SUPPRESS);
    watch(n2);
    n2.batch("UPDATE t SET v = 'suppressed and not'");
    assert_eq!(version_messages(n2), 1, "for the row of n1 only");
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_no_history(&cluster);
    // and somebody else's message is not taken for one of ours
    n1.batch("SELECT pg_logical_emit_message(false, 'other', 'x'); UPDATE t SET v = 'n1' WHERE id = 12");
    settle::settle(&cluster);
    assert_no_history(&cluster);
    cluster.finish();
}

#[test]
fn a_node_that_writes_alone_writes_no_message() {
    let cluster = Plan::new("alone", 3).start_mesh();
    pgbench::prepare(&cluster, 1);
    let n1 = cluster.node(1);
    watch(n1);
    assert!(pgbench::wait(pgbench::start(n1, 2, Duration::from_secs(4))));
    let changes: i64 =
        n1.value("SELECT count(*) FROM pg_logical_slot_peek_changes('watch', NULL, NULL) WHERE data LIKE '%UPDATE%'");
    assert!(changes > 0);
    assert_eq!(version_messages(n1), 0);
    // so that the zero means something
    settle::settle(&cluster);
    let n2 = cluster.node(2);
    watch(n2);
    n2.batch("UPDATE pgbench_tellers SET tbalance = 0 WHERE tid = 1");
    assert_eq!(version_messages(n2), 1);
    settle::settle(&cluster);
    assert_no_history(&cluster);
    cluster.finish();
}

/// A session that has met rows of a writer, of which there was nothing to say, meets more of them when there is.
#[test]
fn what_was_true_of_a_writers_rows_need_not_stay_true() {
    let cluster = start("verdicts", 2, "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, v text)");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("INSERT INTO t SELECT i, 0, 'x' FROM generate_series(1, 40) i");
    // one statement over rows of both nodes, by turns
    turn(&cluster, 2, "UPDATE t SET v = 'n2' WHERE id % 2 = 0");
    turn(&cluster, 1, "UPDATE t SET v = 'n1' WHERE id <= 20");
    turn(&cluster, 1, "UPDATE t SET v = v || '.' WHERE id <= 30");
    assert_no_history(&cluster);
    compare::equal(&cluster);

    // the rows that n1 wrote first, with counters from here on
    n1.batch("UPDATE t SET v = 'seen' WHERE id = 31");
    cluster.batch("SELECT meld.delta_add_column('t', 'n')");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    n1.batch("UPDATE t SET n = n + 5 WHERE id > 30");
    n2.batch("UPDATE t SET n = n + 7 WHERE id > 30");
    mesh::reconnect(&cluster);
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(n1.values::<i32>("SELECT DISTINCT n FROM t WHERE id > 30"), [12]);

    // and with explicit stamps: n1's row took what n2 added and kept the stamp of n2, or its own
    let before = n1.value::<i64>("SELECT count(*) FROM meld.resolutions");
    turn(&cluster, 1, "UPDATE t SET v = 'last' WHERE id > 25");
    turn(&cluster, 2, "UPDATE t SET v = 'very last' WHERE id > 25");
    assert_eq!(n1.value::<i64>("SELECT count(*) FROM meld.resolutions"), before);
    compare::equal(&cluster);
    cluster.finish();
}
