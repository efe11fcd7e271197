//! What must not be an exception: row-level security, timeouts of the database, cancels, an exclusion. And one exception that is much
//! larger than the memory that its worker may take.

use meld_cluster_tests::server::peak_memory_kb;
use meld_cluster_tests::wait::{self, Look};
use meld_cluster_tests::{Cluster, Node, Plan, compare, fault, log_scan, mesh, settle};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

fn start(name: &str, settings: &[&str]) -> Cluster {
    let plan = Plan::new(name, 2).setting("meld.exception_retry_delay = 1").setting("meld.exception_retries = 1");
    settings.iter().fold(plan, |plan, line| plan.setting(line)).start_mesh()
}

fn parked(node: &Node) -> Vec<String> {
    node.values("SELECT sqlstate FROM meld.parked_transaction ORDER BY id")
}

fn apply_pid(node: &Node) -> i32 {
    node.value("SELECT pid FROM meld.worker_status WHERE worker_kind = 'apply'")
}

/// The older row goes, on both nodes, as with a unique index: it is told, and nothing is parked.
#[test]
fn rows_that_exclude_each_other_only_on_the_subscriber() {
    let cluster = start("exclusion", &[]);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    mesh::replicate(&cluster, "CREATE TABLE room (id int PRIMARY KEY, taken int4range NOT NULL)");
    n2.batch("ALTER TABLE room ADD CONSTRAINT once EXCLUDE USING gist (taken WITH &&)");
    n1.batch("INSERT INTO room VALUES (1, '[1,5)')");
    n1.batch("INSERT INTO room VALUES (2, '[4,9)')");
    n1.batch("INSERT INTO room VALUES (3, '[9,12)')");
    settle::settle_decisions(&cluster);
    assert_eq!(parked(n2), [""; 0]);
    assert_eq!(n2.values::<i32>("SELECT id FROM room ORDER BY id"), [2, 3]);
    compare::equal(&cluster);
    let told = "SELECT conflict_resolution || ': ' || (local_row ->> 'id') || ' for ' || (remote_row ->> 'id')
                FROM meld.resolutions WHERE relname = 'room' AND index_name = 'once'";
    assert_eq!(n2.values::<String>(told), ["apply_remote: 1 for 2"]);
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM meld.resolutions WHERE relname = 'room'"), 1);
    cluster.finish();
}

/// Policies are for those who ask; what they hide is replicated like all else, also if they bind the owner.
#[test]
fn row_level_security_hides_nothing_from_apply() {
    let cluster = start("row_security", &[]);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n2.batch("CREATE ROLE keeper");
    mesh::replicate(&cluster, TABLE);
    n2.batch(
        "ALTER TABLE t OWNER TO keeper; ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY;
         CREATE POLICY nothing ON t USING (false) WITH CHECK (false)",
    );
    n1.batch("INSERT INTO t VALUES (1, 'kept'), (2, 'changed'), (3, 'deleted')");
    n1.batch("UPDATE t SET v = 'new' WHERE id = 2");
    n1.batch("DELETE FROM t WHERE id = 3");
    settle::settle(&cluster);
    assert_eq!(parked(n2), [""; 0]);
    assert_eq!(n2.values::<String>("SELECT id || v FROM t ORDER BY id"), ["1kept", "2new"]);
    compare::equal(&cluster);
    cluster.finish();
}

/// Timeouts that an administrator gives the sessions of a database do not end what apply waits for; and a wait that is
/// cancelled, even with no tries left, is begun again.
#[test]
fn timeouts_and_cancels_park_nothing() {
    let cluster = start("cancelled", &["meld.exception_retries = 0"]);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    cluster.expect_log("canceling statement due to user request");
    fault::expect_lost_links(&cluster);
    mesh::replicate(&cluster, TABLE);
    n1.batch("INSERT INTO t VALUES (1, 'old'), (2, 'old')");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    n2.batch(
        "ALTER DATABASE app SET lock_timeout = '5ms'; ALTER DATABASE app SET statement_timeout = '20s';
         ALTER DATABASE app SET idle_in_transaction_session_timeout = '20s'",
    );
    mesh::reconnect(&cluster);
    let waits =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND backend_type LIKE 'meld apply%'";
    for round in 0..3 {
        let mut client = n2.client();
        let mut local = client.transaction().expect("begin");
        local.batch_execute("UPDATE t SET v = 'local' WHERE id = 1").expect("write");
        n1.batch(&format!(
            "BEGIN; UPDATE t SET v = 'remote {round}' WHERE id = 2; UPDATE t SET v = 'x' WHERE id = 1; COMMIT"
        ));
        for _ in 0..3 {
            wait::until_equal("apply to wait", 1, || n2.value::<i64>(waits));
            let pid = apply_pid(n2);
            assert!(n2.value::<bool>(&format!("SELECT pg_cancel_backend({pid})")));
        }
        wait::until_equal("apply to wait again", 1, || n2.value::<i64>(waits));
        local.rollback().expect("rollback");
        settle::settle(&cluster);
        compare::equal(&cluster);
        assert_eq!(n2.value::<String>("SELECT v FROM t WHERE id = 2"), format!("remote {round}"));
    }
    assert_eq!(parked(n2), [""; 0]);
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM meld.exception_log"), 0);
    let cancelled = log_scan::entries_with(&n2.server.log, "canceling statement due to user request");
    let cancelled = cancelled.iter().filter(|entry| entry.text.contains("<meld apply")).count();
    assert!(cancelled > 0, "no cancel has reached apply");
    cluster.finish();
}

/// With every operation in the log, and a queue of the default size: `MELD_PARKED_MB` megabytes, or 200.
#[test]
fn a_worker_that_parks_a_large_transaction_stays_small() {
    let megabytes: i32 = std::env::var("MELD_PARKED_MB").ok().and_then(|size| size.parse().ok()).unwrap_or(200);
    let cluster = start("parked_memory", &["max_wal_size = '4GB'"]);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    mesh::replicate(&cluster, TABLE);
    n2.batch("ALTER TABLE t ADD CONSTRAINT not_bad CHECK (v <> 'bad')");
    cluster.expect_log("violates check constraint \"not_bad\"");
    cluster.expect_log("was parked as");
    cluster.expect_log("exited with exit code 1");
    cluster.expect_log("<walsender|meld_*canceling statement due to user request");
    let rows = megabytes * 100;
    n1.batch(&format!(
        "INSERT INTO t SELECT i, CASE i WHEN {rows} THEN 'bad' ELSE repeat(md5(i::text), 320) END \
         FROM generate_series(1, {rows}) i"
    ));
    n1.batch("INSERT INTO t VALUES (0, 'good')");
    wait::until("the row behind it", wait::DEADLINE * 5, || {
        let there: i64 = n2.value("SELECT count(*) FROM t WHERE id = 0");
        if there == 1 { Look::Done(()) } else { Look::Seen("it is not there".into()) }
    });
    assert_eq!(parked(n2), ["23514"]);
    let body_kb: i64 = n2.value("SELECT size_bytes / 1024 FROM meld.parked_transaction");
    assert!(body_kb > i64::from(megabytes) * 900, "only {body_kb} kB");
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM meld.exception_log"), i64::from(rows));
    // the worker that is there now has parked it
    let peak_kb = peak_memory_kb(apply_pid(n2));
    eprintln!("parked {body_kb} kB by a worker that has taken {peak_kb} kB at most");
    // shared buffers of 64 MB, a queue of 16 MB, and as much again
    assert!(peak_kb < 160 * 1024, "{peak_kb} kB of memory for {body_kb} kB");
    settle::settle(&cluster);
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM t"), 1);
    cluster.finish();
}
