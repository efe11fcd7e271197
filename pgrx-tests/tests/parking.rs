//! Transactions that can't be applied: what each policy makes of them, and that everything else goes on.

use meld_cluster_tests::server::peak_memory_kb;
use meld_cluster_tests::{Cluster, Node, Plan, compare, fault, mesh, settle, wait};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0)";
/// What n2 does not take.
const CHECK: &str = "ALTER TABLE t ADD CONSTRAINT not_bad CHECK (v <> 'bad')";

/// Two nodes, the second of which refuses some rows.
fn start(name: &str, behaviour: &str) -> Cluster {
    let cluster = Plan::new(name, 2)
        .setting(&format!("meld.exception_behaviour = '{behaviour}'"))
        .setting("meld.exception_retry_delay = 1")
        .start_mesh();
    mesh::replicate(&cluster, TABLE);
    cluster.node(2).batch(CHECK);
    cluster.expect_log("violates check constraint \"not_bad\"");
    cluster.expect_log("was parked as");
    cluster
}

fn parked(node: &Node) -> i64 {
    node.value("SELECT count(*) FROM meld.parked_transaction WHERE state = 'parked'")
}

/// Rows as one text.
fn rows(node: &Node) -> String {
    node.value("SELECT coalesce(string_agg(id || v, ' ' ORDER BY id), '') FROM t")
}

#[test]
fn a_transaction_that_fails_is_parked_whole_and_the_others_go_on() {
    let cluster = start("park_whole", "transdiscard");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("INSERT INTO t VALUES (1, 'good')");
    n1.batch("BEGIN; INSERT INTO t VALUES (2, 'good'); INSERT INTO t VALUES (3, 'bad'); UPDATE t SET v = 'x' WHERE id = 1; COMMIT");
    n1.batch("INSERT INTO t VALUES (4, 'good')");
    settle::settle(&cluster);
    assert_eq!(rows(n2), "1good 4good");
    assert_eq!(parked(n2), 1);
    let head: String = n2.value(
        "SELECT concat_ws(' ', subscription_name, remote_origin, state, sqlstate, changes, size_bytes > 0) \
         FROM meld.parked_transaction",
    );
    assert_eq!(head, "n2_n1 1 parked 23514 3 t");
    let log: Vec<String> = n2.values(
        "SELECT concat_ws(' ', command_counter, nspname, relname, operation, old_row, new_row, sqlstate) \
         FROM meld.exception_log ORDER BY id",
    );
    assert_eq!(
        log,
        [
            r#"1 public t INSERT {"n": "0", "v": "good", "id": "2"}"#,
            r#"2 public t INSERT {"n": "0", "v": "bad", "id": "3"} 23514"#,
            r#"3 public t UPDATE {"n": "0", "v": "x", "id": "1"}"#,
        ]
    );
    cluster.finish();
}

#[test]
fn a_commit_that_fails_is_parked_too() {
    let cluster = start("park_commit", "transdiscard");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n2.batch(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;
         CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW WHEN (NEW.n = 13) EXECUTE FUNCTION refuse();
         ALTER TABLE t ENABLE ALWAYS TRIGGER refuse",
    );
    cluster.expect_log("not this one");
    n1.batch("INSERT INTO t VALUES (1, 'a', 13)");
    n1.batch("INSERT INTO t VALUES (2, 'b', 14)");
    settle::settle(&cluster);
    assert_eq!(rows(n2), "2b");
    assert_eq!(parked(n2), 1);
    assert_eq!(n2.value::<String>("SELECT sqlstate FROM meld.parked_transaction"), "P0001");
    cluster.finish();
}

#[test]
fn only_the_changes_that_fail_are_parked() {
    let cluster = start("park_changes", "discard");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    cluster.expect_log("could not be applied and were parked");
    n1.batch(
        "BEGIN; INSERT INTO t VALUES (1, 'good'); INSERT INTO t VALUES (2, 'bad'); INSERT INTO t VALUES (3, 'bad');
         INSERT INTO t VALUES (4, 'good'); COMMIT",
    );
    settle::settle(&cluster);
    assert_eq!(rows(n2), "1good 4good");
    assert_eq!(n2.value::<i64>("SELECT changes FROM meld.parked_transaction"), 2);
    let log: Vec<i64> = n2.values("SELECT command_counter FROM meld.exception_log ORDER BY id");
    assert_eq!(log, [2, 3]);
    // the rows that were applied have the stamp of their transaction
    let differing = "SELECT count(*) FROM t WHERE (pg_xact_commit_timestamp_origin(xmin)).timestamp <> \
                     (SELECT remote_commit_ts FROM meld.parked_transaction)";
    assert_eq!(n2.value::<i64>(differing), 0);
    cluster.finish();
}

#[test]
fn a_subscription_may_be_disabled_instead() {
    let cluster = start("park_pause", "sub_disable");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    cluster.expect_log("was disabled at remote transaction");
    cluster.expect_log("exited with exit code 1");
    n1.batch("INSERT INTO t VALUES (1, 'bad')");
    n1.batch("INSERT INTO t VALUES (2, 'good')");
    wait::until_equal("the subscription to be disabled", "disabled".to_owned(), || mesh::status(n2, n1));
    assert_eq!(rows(n2), "");
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM meld.exception_log WHERE sqlstate = '23514'"), 1);
    assert_eq!(parked(n2), 0);
    let shown = "SELECT last_sqlstate FROM meld.sub_show_status('n2_n1')";
    wait::until_equal("the reason to be shown", "23514".to_owned(), || n2.value::<String>(shown));
    // the cause is removed
    n2.batch("ALTER TABLE t DROP CONSTRAINT not_bad; SELECT meld.sub_enable('n2_n1')");
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(rows(n2), "1bad 2good");
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM meld.apply_failure"), 0);
    cluster.finish();
}

/// Whenever the server dies on the way to the pause, the transaction is neither lost nor applied, and what failed is logged.
#[test]
fn kill_9_on_the_way_to_a_disabled_subscription() {
    let cluster = start("park_pause_killed", "sub_disable");
    fault::expect_lost_links(&cluster);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    cluster.expect_log("was disabled at remote transaction");
    n1.batch("INSERT INTO t VALUES (1, 'bad')");
    n1.batch("INSERT INTO t VALUES (2, 'good')");
    for _ in 0..3 {
        // at any step: while it is tried, while it is written down, after it
        fault::kill_postmaster(n2);
        fault::start(n2);
        n2.forget_session();
        wait::until_equal("the server to be back", true, || n2.try_value::<i32>("SELECT 1").is_some());
        let tried = "SELECT count(*) FROM meld.worker_status WHERE worker_kind = 'apply'";
        wait::until_value(
            "a try",
            || (n2.value::<i64>(tried), mesh::status(n2, n1)),
            |(workers, status)| *workers > 0 || status == "disabled",
        );
    }
    wait::until_equal("the subscription to be disabled", "disabled".to_owned(), || mesh::status(n2, n1));
    fault::kill_postmaster(n2);
    fault::start(n2);
    n2.forget_session();
    assert_eq!(mesh::status(n2, n1), "disabled");
    assert_eq!((rows(n2).as_str(), parked(n2)), ("", 0));
    assert_eq!(n2.values::<String>("SELECT state || ' ' || sqlstate FROM meld.exceptions"), ["disabled 23514"]);
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM meld.exception_log"), 1);
    let way_out: String = n2.value(
        "SELECT way_out FROM meld.sub_show_status('n2_n1') WHERE last_sqlstate = '23514' AND last_error ~ 'not_bad' \
         AND stands_at = (SELECT remote_commit_lsn FROM meld.exception_log)",
    );
    assert!(way_out.contains("SELECT meld.sub_enable('n2_n1')"), "{way_out}");
    n2.batch("ALTER TABLE t DROP CONSTRAINT not_bad; SELECT meld.sub_enable('n2_n1')");
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(rows(n2), "1bad 2good");
    assert_eq!(n2.try_value::<String>("SELECT way_out FROM meld.sub_show_status('n2_n1')"), None);
    cluster.finish();
}

#[test]
fn it_may_be_tried_for_ever() {
    let cluster = start("park_never", "retry");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    cluster.expect_log("exited with exit code 1");
    n1.batch("INSERT INTO t VALUES (1, 'bad')");
    let shown = "SELECT coalesce(last_sqlstate, '') FROM meld.sub_show_status('n2_n1')";
    wait::until_equal("the reason to be shown", "23514".to_owned(), || n2.value::<String>(shown));
    assert_eq!(parked(n2), 0);
    n2.batch("ALTER TABLE t DROP CONSTRAINT not_bad");
    settle::settle(&cluster);
    compare::equal(&cluster);
    cluster.finish();
}

/// More than the queue holds: it has to be received again to be parked.
#[test]
fn a_large_transaction_is_parked_through_bounded_memory() {
    let cluster = Plan::new("park_large", 2)
        .setting("meld.exception_retry_delay = 1")
        .setting("meld.exception_retries = 1")
        .setting("meld.apply_queue_size = '1MB'")
        .setting("meld.exception_logging = 'discard'")
        .start_mesh();
    mesh::replicate(&cluster, TABLE);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n2.batch(CHECK);
    cluster.expect_log("violates check constraint \"not_bad\"");
    cluster.expect_log("was parked as");
    cluster.expect_log("exited with exit code 1");
    n1.batch(
        "INSERT INTO t SELECT i, CASE i WHEN 90000 THEN 'bad' ELSE repeat(md5(i::text), 60) END \
         FROM generate_series(1, 100000) i",
    );
    n1.batch("INSERT INTO t VALUES (0, 'good')");
    settle::settle(&cluster);
    assert_eq!(rows(n2), "0good");
    assert_eq!(n2.value::<i64>("SELECT changes FROM meld.parked_transaction"), 100_000);
    assert_eq!(n2.value::<i64>("SELECT command_counter FROM meld.exception_log"), 90_000);
    assert!(n2.value::<i64>("SELECT count(*) FROM meld.parked_chunk") > 20);
    let sizes = "SELECT size_bytes = (SELECT sum(length(body)) FROM meld.parked_chunk) FROM meld.parked_transaction";
    assert!(n2.value::<bool>(sizes));
    // the worker that is there now is the one that has parked it
    let pid: i32 = n2.value("SELECT pid FROM meld.worker_status WHERE worker_kind = 'apply'");
    let (peak_kb, body_kb) =
        (peak_memory_kb(pid), n2.value::<i64>("SELECT size_bytes / 1024 FROM meld.parked_transaction"));
    eprintln!("parked {body_kb} kB by a worker that has taken {peak_kb} kB at most");
    assert!(peak_kb < body_kb, "{peak_kb} kB of memory for {body_kb} kB");
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM meld.apply_failure"), 0);
    cluster.finish();
}

#[test]
fn beyond_the_bound_the_subscription_waits() {
    let cluster = start("park_full", "transdiscard");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    cluster.expect_log("meld.max_parked_size is reached");
    cluster.expect_log("exited with exit code 1");
    n2.batch("ALTER SYSTEM SET meld.max_parked_size = 0");
    n2.batch("SELECT pg_reload_conf()");
    wait::until_equal("the setting", "0".to_owned(), || n2.value::<String>("SHOW meld.max_parked_size"));
    n1.batch("INSERT INTO t VALUES (1, 'bad')");
    n1.batch("INSERT INTO t VALUES (2, 'good')");
    let shown = "SELECT coalesce(last_sqlstate, '') FROM meld.sub_show_status('n2_n1')";
    wait::until_equal("the reason to be shown", "53400".to_owned(), || n2.value::<String>(shown));
    assert_eq!((parked(n2), rows(n2).as_str()), (0, ""));
    n2.batch("ALTER SYSTEM RESET meld.max_parked_size");
    n2.batch("SELECT pg_reload_conf()");
    settle::settle(&cluster);
    assert_eq!((parked(n2), rows(n2).as_str()), (1, "2good"));
    cluster.finish();
}
