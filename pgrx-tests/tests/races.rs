//! Remote changes that meet local transactions under way, and tables that change while they replicate.

use std::sync::mpsc;

use meld_cluster_tests::wait::{self, Look};
use meld_cluster_tests::{Cluster, Node, Plan, compare, fault, mesh, resolutions, settle};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

fn start(name: &str) -> Cluster {
    let cluster = Plan::new(name, 2).start_mesh();
    mesh::replicate(&cluster, TABLE);
    cluster.node(1).batch("INSERT INTO t VALUES (1, 'old'), (2, 'old'), (3, 'old')");
    settle::settle(&cluster);
    cluster
}

/// Waits until the apply worker of a node waits for a lock.
#[track_caller]
fn until_apply_waits(node: &Node) {
    wait::until("apply to wait for a lock", wait::DEADLINE, || {
        let waiting: Vec<String> = node.values(
            "SELECT backend_type FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND backend_type LIKE 'meld apply%'",
        );
        if waiting.is_empty() { Look::Seen("it does not wait".into()) } else { Look::Done(()) }
    });
}

/// The local transaction commits after the remote one, so it wins, although apply came to the row before the commit.
#[test]
fn apply_waits_for_a_local_writer_and_loses_to_it() {
    let cluster = start("local_writer");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    let mut client = n2.client();
    let mut local = client.transaction().expect("begin");
    local.batch_execute("UPDATE t SET v = 'local' WHERE id = 1; INSERT INTO t VALUES (10, 'local')").expect("write");
    n1.batch("UPDATE t SET v = 'remote' WHERE id = 1; INSERT INTO t VALUES (10, 'remote')");
    until_apply_waits(n2);
    local.commit().expect("commit");
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(n1.value::<i64>("SELECT count(*) FROM t WHERE v = 'local'"), 2);
    let kinds: Vec<String> =
        resolutions::of(n2, "t").into_iter().map(|r| format!("{} {}", r.conflict, r.resolution)).collect();
    assert_eq!(kinds, ["update_origin_differs keep_local", "insert_exists keep_local"]);
    cluster.finish();
}

#[test]
fn apply_waits_for_a_local_writer_that_rolls_back() {
    let cluster = start("local_rollback");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    let statements = [
        "UPDATE t SET v = 'local' WHERE id = 1",
        "DELETE FROM t WHERE id = 1",
        "UPDATE t SET id = 99 WHERE id = 1",
        "INSERT INTO t VALUES (23, 'local')",
        "SELECT * FROM t WHERE id = 1 FOR UPDATE",
    ];
    for (key, local_sql) in (20..).zip(statements) {
        let mut client = n2.client();
        let mut local = client.transaction().expect("begin");
        local.batch_execute(local_sql).expect("write");
        n1.batch(&format!("INSERT INTO t VALUES ({key}, 'remote'); UPDATE t SET v = v || '!' WHERE id = 1"));
        until_apply_waits(n2);
        local.rollback().expect("rollback");
        settle::settle(&cluster);
        compare::equal(&cluster);
    }
    assert_eq!(n2.value::<String>("SELECT v FROM t WHERE id = 1"), "old!!!!!");
    let kept: i64 = n2.value("SELECT count(*) FROM meld.resolutions WHERE conflict_resolution = 'keep_local'");
    assert_eq!(kept, 0);
    cluster.finish();
}

/// Whoever is the victim, both transactions are there in the end: the local one is told, apply tries again.
#[test]
fn a_deadlock_between_apply_and_a_session_resolves_itself() {
    let cluster = start("deadlock");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n2.expect_log("deadlock detected");
    fault::expect_worker_exits(n2);
    let mut client = n2.client();
    let mut local = client.transaction().expect("begin");
    local.batch_execute("UPDATE t SET v = 'local' WHERE id = 2").expect("first row");
    n1.batch("BEGIN; UPDATE t SET v = 'remote' WHERE id = 1; UPDATE t SET v = 'remote' WHERE id = 2; COMMIT");
    until_apply_waits(n2);
    let outcome = local.batch_execute("UPDATE t SET v = 'local' WHERE id = 1");
    let committed = match outcome {
        Ok(()) => local.commit().is_ok(),
        Err(error) => {
            assert_eq!(error.code().map(|code| code.code()), Some("40P01"), "{error}");
            false
        }
    };
    settle::settle(&cluster);
    compare::equal(&cluster);
    let values = n1.values::<String>("SELECT DISTINCT v FROM t WHERE id < 3");
    assert_eq!(values, [if committed { "local" } else { "remote" }]);
    cluster.finish();
}

/// Local writers that hammer the same few rows while remote changes to them arrive.
#[test]
fn writers_on_all_nodes_hammer_a_few_rows() {
    let cluster = start("hammer");
    let (sender, receiver) = mpsc::channel::<usize>();
    std::thread::scope(|scope| {
        for node in cluster.nodes() {
            let sender = sender.clone();
            scope.spawn(move || {
                let mut client = node.client();
                let update = client
                    .prepare("INSERT INTO t VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET v = excluded.v")
                    .expect("prepare");
                let mut done = 0;
                for round in 0..600_i32 {
                    let value = format!("{} {round}", node.name);
                    match client.execute(&update, &[&(round % 3 + 1), &value]) {
                        Ok(_) => done += 1,
                        // a session may be the victim of a deadlock, nothing else may go wrong
                        Err(error) => assert_eq!(error.code().map(|code| code.code()), Some("40P01"), "{error}"),
                    }
                }
                let _ = sender.send(done);
            });
        }
    });
    drop(sender);
    assert!(receiver.iter().sum::<usize>() > 1000);
    settle::settle(&cluster);
    compare::equal(&cluster);
    cluster.finish();
}

/// Both ends change their tables in the middle of the stream; what was written before is decoded as it was then.
#[test]
fn tables_change_between_transactions() {
    let cluster = start("alter");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    let on_both = |subscriber_first: &str| {
        settle::settle(&cluster);
        n2.batch(subscriber_first);
        n1.batch(subscriber_first);
    };
    on_both("ALTER TABLE t ADD COLUMN n int NOT NULL DEFAULT 7");
    n1.batch("INSERT INTO t VALUES (4, 'new', 8)");
    n2.batch("UPDATE t SET n = 9 WHERE id = 1");
    settle::settle(&cluster);
    compare::compare(&[n1, n2], None, compare::Aspect::Rows).expect("equal after ADD COLUMN");
    on_both("ALTER TABLE t DROP COLUMN v");
    n1.batch("INSERT INTO t VALUES (5, 10)");
    on_both("ALTER TABLE t RENAME COLUMN n TO m");
    n2.batch("INSERT INTO t VALUES (6, 11)");
    on_both("ALTER TABLE t ALTER COLUMN m TYPE text");
    n1.batch("UPDATE t SET m = m || ' as text'");
    on_both("ALTER TABLE t RENAME TO renamed");
    n1.batch("INSERT INTO renamed VALUES (7, 'renamed')");
    on_both("CREATE SCHEMA other; ALTER TABLE renamed SET SCHEMA other");
    n2.batch("DELETE FROM other.renamed WHERE id = 7");
    on_both("ALTER TABLE other.renamed DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, m)");
    n1.batch("UPDATE other.renamed SET m = 'x' WHERE id = 5");
    settle::settle(&cluster);
    compare::compare(&[n1, n2], None, compare::Aspect::Rows).expect("equal after all changes");
    let rows: String = n2.value("SELECT string_agg(concat(id, m), ', ' ORDER BY id) FROM other.renamed");
    assert_eq!(rows, "19 as text, 27 as text, 37 as text, 48 as text, 5x, 611 as text");

    // changes for a table that was dropped here while they were on their way are parked, and its return mends that
    n2.batch("DROP TABLE other.renamed");
    n2.expect_log("\"other.renamed\"");
    n2.expect_log("was parked as");
    n1.batch("INSERT INTO other.renamed VALUES (8, 'late')");
    settle::settle_link(n1, n2);
    n2.batch("CREATE TABLE other.renamed (id int, m text, PRIMARY KEY (id, m))");
    assert_eq!(n2.value::<i64>("SELECT replayed FROM meld.parked_replay()"), 1);
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM other.renamed"), 1);
    cluster.finish();
}
