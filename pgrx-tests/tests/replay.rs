//! Parked transactions are applied when their cause is gone: nothing of them is lost, counted twice or brought back.

use std::thread;

use meld_cluster_tests::{Cluster, Node, Plan, compare, fault, mesh, settle, wait};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0)";
const CHECK: &str = "ALTER TABLE t ADD CONSTRAINT not_bad CHECK (v <> 'bad')";
const NO_CHECK: &str = "ALTER TABLE t DROP CONSTRAINT not_bad";

/// The second node refuses some rows.
fn start(name: &str, nodes: usize, tables: &str) -> Cluster {
    let cluster = Plan::new(name, nodes)
        .setting("meld.exception_retry_delay = 1")
        .setting("meld.exception_retries = 1")
        .start_mesh();
    mesh::replicate(&cluster, tables);
    cluster.node(2).batch(CHECK);
    cluster.expect_log("violates check constraint \"not_bad\"");
    cluster.expect_log("was parked as");
    cluster
}

/// Replayed, still parked.
fn replay(node: &Node) -> (i64, i64) {
    let row = &node.rows("SELECT * FROM meld.parked_replay()", &[])[0];
    (row.get(0), row.get(1))
}

fn parked(node: &Node) -> i64 {
    node.value("SELECT count(*) FROM meld.parked_transaction WHERE state = 'parked'")
}

#[test]
fn a_replay_applies_what_can_be_applied_and_keeps_the_rest() {
    let cluster = start("replay_some", 2, TABLE);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("INSERT INTO t VALUES (1, 'bad')");
    n1.batch("INSERT INTO t VALUES (2, 'bad'); UPDATE t SET v = 'worse' WHERE id = 1");
    n1.batch("UPDATE t SET v = 'bad' WHERE id = 1");
    settle::settle(&cluster);
    assert_eq!(parked(n2), 3, "n1's second statement was one transaction");
    assert_eq!(replay(n2), (0, 3));
    n2.batch("ALTER TABLE t DROP CONSTRAINT not_bad; ALTER TABLE t ADD CONSTRAINT not_bad CHECK (id <> 2)");
    assert_eq!(replay(n2), (2, 1));
    let error: String = n2.value("SELECT error_message FROM meld.exceptions WHERE state = 'parked'");
    assert!(error.contains("not_bad"), "{error}");
    // once in the first call, twice in the second, where others had made way
    assert_eq!(n2.value::<i32>("SELECT replays FROM meld.parked_transaction"), 3);
    n2.batch(NO_CHECK);
    assert_eq!(replay(n2), (1, 0));
    assert_eq!(replay(n2), (0, 0));
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM meld.parked_chunk"), 0);
    settle::settle(&cluster);
    compare::equal(&cluster);
    let refused = n2.error("BEGIN; SELECT * FROM meld.parked_replay()");
    assert_eq!(refused.sqlstate, "25001");
    cluster.finish();
}

#[test]
fn what_was_deleted_or_overwritten_meanwhile_does_not_come_back() {
    let cluster = start("replay_late", 3, TABLE);
    let [n1, n2, n3] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    n1.batch("INSERT INTO t SELECT i, 'start' FROM generate_series(1, 3) i");
    settle::settle(&cluster);
    n1.batch("UPDATE t SET v = 'bad' WHERE id IN (1, 2)");
    settle::settle(&cluster);
    assert_eq!(parked(n2), 1);
    n3.batch("DELETE FROM t WHERE id = 1; UPDATE t SET v = 'later' WHERE id = 2");
    settle::settle(&cluster);
    let deleted: String = n3.value("SELECT clock_timestamp()::text");
    // the tombstone stays for as long as anything is parked
    for node in cluster.nodes() {
        // without the parked transaction it would go within a few seconds of everybody's promises
        let is_told = format!(
            "SELECT bool_and(coalesce(promise > '{deleted}'::timestamptz + interval '8 s', false)) FROM meld.cluster_status"
        );
        wait::until_equal("promises well past the delete", true, || node.value::<bool>(&is_told));
        assert!(node.value::<i64>("SELECT count(*) FROM meld.tombstone") > 0, "{}", node.name);
    }
    n2.batch(NO_CHECK);
    assert_eq!(replay(n2), (1, 0));
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(n2.value::<String>("SELECT string_agg(id || v, ' ' ORDER BY id) FROM t"), "2later 3start");
    for node in cluster.nodes() {
        let kept = || node.value::<i64>("SELECT count(*) FROM meld.tombstone");
        wait::until_equal("tombstones to go again", 0, kept);
    }
    cluster.finish();
}

/// All changes of a row in one transaction have one stamp, which stands for one content of the row on all nodes.
#[test]
fn all_changes_of_a_row_are_parked_with_the_one_that_failed() {
    let cluster = start("replay_parts", 2, TABLE);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    cluster.expect_log("could not be applied and were parked");
    n2.batch("ALTER SYSTEM SET meld.exception_behaviour = 'discard'");
    n2.batch("SELECT pg_reload_conf()");
    wait::until_equal("the setting", "discard".to_owned(), || n2.value("SHOW meld.exception_behaviour"));
    n1.batch(
        "BEGIN; INSERT INTO t VALUES (1, 'bad'); INSERT INTO t VALUES (2, 'good'); UPDATE t SET v = 'fine' WHERE id = 1; \
         INSERT INTO t VALUES (3, 'fine'); \
         UPDATE t SET v = 'bad' WHERE id = 3; DELETE FROM t WHERE id = 3; COMMIT",
    );
    settle::settle(&cluster);
    assert_eq!(n2.value::<String>("SELECT string_agg(id || v, ' ') FROM t"), "2good");
    assert_eq!(n2.value::<i64>("SELECT changes FROM meld.parked_transaction"), 5);
    n2.batch(NO_CHECK);
    assert_eq!(replay(n2), (1, 0));
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(n2.value::<String>("SELECT string_agg(id || v, ' ' ORDER BY id) FROM t"), "1fine 2good");
    cluster.finish();
}

#[test]
fn a_contribution_counts_once_however_often_it_is_replayed() {
    let cluster = start("replay_counter", 3, TABLE);
    cluster.batch("SELECT meld.delta_add_column('t', 'n')");
    cluster.expect_log("terminating connection");
    let [n1, n2, n3] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    n1.batch("INSERT INTO t VALUES (1, 'start', 10)");
    settle::settle(&cluster);
    n1.batch("UPDATE t SET v = 'bad', n = n + 5");
    settle::settle(&cluster);
    n3.batch("UPDATE t SET v = 'good', n = n + 100");
    settle::settle(&cluster);
    assert_eq!(n2.value::<i32>("SELECT n FROM t"), 110);
    let refused = n2.error("SELECT meld.parked_discard((SELECT id FROM meld.parked_transaction))");
    assert_eq!(refused.sqlstate, "55000");
    n2.batch(NO_CHECK);
    // two at once: one of them does it
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = n2.client();
                if let Err(error) = client.batch_execute("SELECT * FROM meld.parked_replay()") {
                    assert_eq!(error.code().map(|code| code.code().to_owned()), Some("55P03".to_owned()), "{error:?}");
                }
            });
        }
    });
    assert_eq!(replay(n2), (0, 0));
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(n2.value::<i32>("SELECT n FROM t"), 115);
    cluster.finish();
}

#[test]
fn a_transaction_may_be_skipped_or_given_up() {
    let cluster = start("replay_skip", 2, TABLE);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    cluster.expect_log("was disabled at remote transaction");
    cluster.expect_log("was skipped, and is kept as");
    cluster.expect_log("exited with exit code 1");
    n2.batch("ALTER SYSTEM SET meld.exception_behaviour = 'sub_disable'");
    n2.batch("SELECT pg_reload_conf()");
    wait::until_equal("the setting", "sub_disable".to_owned(), || n2.value("SHOW meld.exception_behaviour"));
    n1.batch("INSERT INTO t VALUES (1, 'bad')");
    n1.batch("INSERT INTO t VALUES (2, 'good')");
    wait::until_equal("the subscription to be disabled", "disabled".to_owned(), || mesh::status(n2, n1));
    let wrong = n2.error("SELECT meld.sub_alter_skiplsn('n2_n1', '0/1')");
    assert_eq!(wrong.sqlstate, "22023");
    let lsn: String = n2.value("SELECT remote_commit_lsn::text FROM meld.exceptions WHERE state = 'disabled'");
    assert_eq!(lsn, n2.value::<String>("SELECT DISTINCT remote_commit_lsn::text FROM meld.exception_log"));
    n2.batch(&format!("SELECT meld.sub_alter_skiplsn('n2_n1', '{lsn}'); SELECT meld.sub_enable('n2_n1')"));
    settle::settle(&cluster);
    assert_eq!(n2.value::<String>("SELECT string_agg(id || v, ' ') FROM t"), "2good");
    assert_eq!(n2.value::<String>("SELECT state FROM meld.parked_transaction"), "skipped");
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM meld.apply_failure"), 0);
    n2.batch("SELECT meld.parked_discard((SELECT id FROM meld.parked_transaction))");
    assert_eq!(n2.value::<String>("SELECT state FROM meld.parked_transaction"), "discarded");
    assert_eq!(n2.error("SELECT meld.parked_discard(4711)").sqlstate, "42704");
    cluster.finish();
}

/// The worker is killed again and again while it replays: each transaction is applied once, or still parked.
#[test]
fn kill_9_of_a_replay() {
    let cluster = start("replay_killed", 2, TABLE);
    fault::expect_lost_links(&cluster);
    cluster.batch("SELECT meld.delta_add_column('t', 'n')");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    let count = 300;
    for i in 0..count {
        n1.batch(&format!("INSERT INTO t VALUES ({}, 'bad', 1) ON CONFLICT (id) DO UPDATE SET n = t.n + 1", i % 7));
    }
    settle::settle(&cluster);
    assert_eq!(parked(n2), count);
    n2.batch(NO_CHECK);
    let mut killed = 0_u32;
    for round in 1..=4 {
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut client = n2.client();
                // the crash of the worker takes the session with it
                let _ = client.batch_execute("SELECT * FROM meld.parked_replay()");
            });
            let running = "SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE application_name = 'meld_replay'";
            let left = count - 60 * round;
            let progress = || (n2.try_value::<i32>(running).unwrap_or(0), n2.try_value(PARKED).unwrap_or(count));
            let (pid, _) = wait::until_value("a replay at work", progress, |(pid, parked)| {
                *pid != 0 && *parked < left || *parked == 0
            });
            if pid != 0 {
                killed += u32::from(fault::kill_backend_if_there(n2, pid.unsigned_abs()));
            }
        });
        n2.forget_session();
        let settled = || n2.try_value::<i64>(PARKED).is_some();
        wait::until_equal("the server to be back", true, settled);
    }
    assert!(killed > 0, "each replay had ended before it was killed");
    let done = || replay(n2);
    wait::until_equal("everything to be replayed", (0, 0), done);
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(n2.value::<i64>("SELECT sum(n) FROM t"), count);
    cluster.finish();
}

const PARKED: &str = "SELECT count(*) FROM meld.parked_transaction";
