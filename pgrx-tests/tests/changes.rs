//! Changes and transactions of all kinds, without conflicts, on nodes that all take writes.

use std::sync::atomic::{AtomicBool, Ordering};

use meld_cluster_tests::{Plan, compare, mesh, settle};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, n int)";

#[test]
fn inserts_updates_deletes_and_truncates_replicate_between_three_nodes() {
    let cluster = Plan::new("changes", 3).start_mesh();
    mesh::replicate(&cluster, &format!("{TABLE}; CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t)"));
    for node in cluster.nodes() {
        let k = node.place * 100;
        node.batch(&format!("INSERT INTO t SELECT i, 'by {}', 0 FROM generate_series({k}, {k} + 49) i", node.name));
        node.batch(&format!("INSERT INTO child SELECT i, i FROM generate_series({k}, {k} + 9) i"));
    }
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(cluster.node(3).value::<i64>("SELECT count(*) FROM t"), 150);

    // each node changes what the next one has written
    for node in cluster.nodes() {
        let k = (node.place % 3 + 1) * 100;
        node.batch(&format!(
            "UPDATE t SET n = n + 1, v = v || '!' WHERE id BETWEEN {k} AND {k} + 19;
             DELETE FROM t WHERE id BETWEEN {k} + 20 AND {k} + 24;
             UPDATE t SET id = id + 1000 WHERE id BETWEEN {k} + 25 AND {k} + 29"
        ));
    }
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(cluster.node(1).value::<i64>("SELECT count(*) FROM t WHERE id > 1000"), 15);
    assert_eq!(cluster.node(2).value::<i64>("SELECT count(*) FROM t"), 135);

    cluster.node(2).batch("TRUNCATE child");
    settle::settle(&cluster);
    cluster.nodes().iter().for_each(|node| assert_eq!(node.value::<i64>("SELECT count(*) FROM child"), 0));
    cluster.node(3).batch("BEGIN; TRUNCATE t, child; INSERT INTO t VALUES (1, 'after', 1); COMMIT");
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(cluster.node(1).value::<String>("SELECT string_agg(v, ',') FROM t"), "after");
    cluster.finish();
}

#[test]
fn large_transactions_arrive_whole() {
    let cluster = Plan::new("large_transactions", 2).setting("logical_decoding_work_mem = '1MB'").start_mesh();
    mesh::replicate(&cluster, TABLE);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("INSERT INTO t SELECT i, md5(i::text), 0 FROM generate_series(1, 100000) i");
    settle::settle(&cluster);
    compare::equal(&cluster);
    n2.batch("UPDATE t SET n = 1");
    n1.batch("INSERT INTO t SELECT i, md5(i::text), 0 FROM generate_series(100001, 101000) i");
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(n1.value::<i64>("SELECT sum(n) FROM t"), 100_000);
    n1.batch("DELETE FROM t");
    settle::settle(&cluster);
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM t"), 0);
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"), 0);
    cluster.finish();
}

#[test]
fn only_what_was_committed_arrives() {
    let cluster = Plan::new("savepoints", 2).setting("max_prepared_transactions = 5").start_mesh();
    mesh::replicate(&cluster, TABLE);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("BEGIN; INSERT INTO t VALUES (1, 'never', 0); ROLLBACK");
    n1.batch(
        "BEGIN; INSERT INTO t VALUES (2, 'a', 0); SAVEPOINT one; INSERT INTO t VALUES (3, 'gone', 0);
         UPDATE t SET v = 'gone'; ROLLBACK TO one; INSERT INTO t VALUES (4, 'b', 0); SAVEPOINT two;
         UPDATE t SET n = n + 1; SAVEPOINT three; DELETE FROM t; ROLLBACK TO three; RELEASE two; COMMIT",
    );
    n1.batch(
        "DO $$ BEGIN FOR i IN 10..19 LOOP BEGIN INSERT INTO t VALUES (i, 'x', 1 / (i % 2));
              EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$",
    );
    n1.batch("BEGIN; INSERT INTO t VALUES (30, 'prepared', 0); PREPARE TRANSACTION 'p1'");
    n1.batch("BEGIN; INSERT INTO t VALUES (31, 'prepared', 0); PREPARE TRANSACTION 'p2'");
    settle::settle(&cluster);
    assert_eq!(n2.value::<String>("SELECT string_agg(id::text, ' ' ORDER BY id) FROM t"), "2 4 11 13 15 17 19");
    assert_eq!(n2.value::<i64>("SELECT sum(n) FROM t WHERE id < 10"), 2);
    n1.batch("COMMIT PREPARED 'p1'");
    n1.batch("ROLLBACK PREPARED 'p2'");
    // inserted, changed and removed in one transaction, in the order of the statements
    n1.batch("BEGIN; INSERT INTO t VALUES (40, 'a', 0); UPDATE t SET v = 'b' WHERE id = 40; DELETE FROM t WHERE id = 40;
              INSERT INTO t VALUES (40, 'c', 0); UPDATE t SET id = 41 WHERE id = 40; INSERT INTO t VALUES (40, 'd', 0); COMMIT");
    // keys that move through one another
    n1.batch("BEGIN; UPDATE t SET id = id + 100 WHERE id < 20; UPDATE t SET id = id - 99 WHERE id >= 100; COMMIT");
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(n2.value::<String>("SELECT string_agg(v, '' ORDER BY id) FROM t WHERE id IN (40, 41)"), "dc");
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM t WHERE id = 30"), 1);
    assert_eq!(n1.value::<i64>("SELECT count(*) FROM meld.resolutions"), 0);
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM meld.resolutions"), 0);
    cluster.finish();
}

/// Each node's WAL holds every transaction once: nothing comes back to where it was made, or twice over two ways.
#[test]
fn changes_do_not_echo() {
    const TRANSACTIONS: usize = 10;
    let cluster = Plan::new("echo", 3).start_mesh();
    mesh::replicate(&cluster, TABLE);
    settle::settle(&cluster);
    cluster.batch("SELECT pg_create_logical_replication_slot('probe', 'test_decoding')");
    for round in 0..TRANSACTIONS {
        for node in cluster.nodes() {
            let id = node.place * 1000 + round;
            node.batch(&format!("INSERT INTO t VALUES ({id}, 'x', 0)"));
        }
    }
    settle::settle(&cluster);
    settle::settle(&cluster);
    for node in cluster.nodes() {
        let changes: Vec<String> = node.values(
            "SELECT data FROM pg_logical_slot_get_changes('probe', NULL, NULL) WHERE data LIKE 'table public.t:%'",
        );
        assert_eq!(changes.len(), 3 * TRANSACTIONS, "{}: {changes:?}", node.name);
        node.batch("SELECT pg_drop_replication_slot('probe')");
        let by_origin: Vec<i64> = node.values(
            "SELECT count(*) FROM t CROSS JOIN LATERAL pg_xact_commit_timestamp_origin(t.xmin) s GROUP BY s.roident",
        );
        assert_eq!(by_origin, [TRANSACTIONS as i64; 3], "{}", node.name);
    }
    compare::equal(&cluster);
    cluster.finish();
}

#[test]
fn sets_choose_what_replicates() {
    let cluster = Plan::new("sets", 2).start_mesh();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    cluster.batch(
        "CREATE TABLE everything (id int PRIMARY KEY, v text); CREATE TABLE inserts (id int PRIMARY KEY, v text);
         CREATE TABLE keyless (v text); CREATE TABLE nothing (id int PRIMARY KEY, v text);
         CREATE TABLE deletes (id int PRIMARY KEY, v text); CREATE TABLE later (id int PRIMARY KEY, v text)",
    );
    n1.batch("SELECT meld.repset_add_table('default', 'everything')");
    n1.batch("SELECT meld.repset_add_table('default_insert_only', 'inserts')");
    n1.batch("SELECT meld.repset_add_table('default_insert_only', 'keyless')");
    n1.batch("SELECT meld.repset_create('unsubscribed'); SELECT meld.repset_add_table('unsubscribed', 'later')");
    let write = "INSERT INTO everything VALUES (1, 'a'), (2, 'a'); INSERT INTO inserts VALUES (1, 'a'), (2, 'a');
        INSERT INTO keyless VALUES ('a'), ('a'); INSERT INTO nothing VALUES (1, 'a'); INSERT INTO later VALUES (1, 'a')";
    n1.batch(write);
    n1.batch("UPDATE everything SET v = 'b' WHERE id = 1; DELETE FROM everything WHERE id = 2");
    n1.batch("UPDATE inserts SET v = 'b' WHERE id = 1; DELETE FROM inserts WHERE id = 2");
    settle::settle(&cluster);
    let count = |table: &str, v: &str| n2.value::<i64>(&format!("SELECT count(*) FROM {table} WHERE v = '{v}'"));
    assert_eq!((count("everything", "a"), count("everything", "b")), (0, 1));
    assert_eq!((count("inserts", "a"), count("inserts", "b")), (2, 0));
    assert_eq!((count("keyless", "a"), count("nothing", "a"), count("later", "a")), (2, 0, 0));

    // a subscription and a set can be changed while all runs
    mesh::alter(n2, n1, "SELECT meld.sub_add_repset('n2_n1', 'unsubscribed')");
    n1.batch("SELECT meld.repset_remove_table('default', 'everything'); INSERT INTO everything VALUES (3, 'c')");
    n1.batch("INSERT INTO later VALUES (2, 'b')");
    settle::settle(&cluster);
    assert_eq!((count("later", "b"), count("everything", "c")), (1, 0));
    mesh::alter(n2, n1, "SELECT meld.sub_remove_repset('n2_n1', 'unsubscribed')");
    n1.batch("INSERT INTO later VALUES (3, 'c')");
    n1.batch("SELECT meld.repset_alter('default_insert_only', replicate_insert => false)");
    n1.batch("INSERT INTO inserts VALUES (3, 'c')");
    settle::settle(&cluster);
    assert_eq!((count("later", "c"), count("inserts", "c")), (0, 0));
    cluster.finish();
}

/// A reader on the other node never sees half of a transaction, nor a later one without an earlier one.
#[test]
fn transactions_become_visible_whole_and_in_order() {
    let cluster = Plan::new("visibility", 2).start_mesh();
    mesh::replicate(&cluster, TABLE);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("INSERT INTO t SELECT i, 'x', 0 FROM generate_series(1, 50) i");
    settle::settle(&cluster);
    let done = AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut client = n2.client();
            let (mut last, mut looks) = (0, 0);
            while !done.load(Ordering::SeqCst) {
                let row = client.query_one("SELECT min(n), max(n) FROM t", &[]).expect("read");
                let (min, max): (i32, i32) = (row.get(0), row.get(1));
                assert!(min == max && min >= last, "min {min}, max {max}, before {last}");
                (last, looks) = (min, looks + 1);
            }
            looks
        });
        for _ in 0..200 {
            n1.batch("UPDATE t SET n = n + 1");
        }
        settle::settle(&cluster);
        done.store(true, Ordering::SeqCst);
        reader.join().expect("the reader saw only whole transactions")
    });
    assert!(looks > 10, "only {looks} looks");
    compare::equal(&cluster);
    cluster.finish();
}
