//! Clocks that are wrong: ahead, and stepped back under a running server.

use std::time::{Duration, Instant};

use meld_cluster_tests::node::SqlError;
use meld_cluster_tests::wait::{self, Look};
use meld_cluster_tests::{Cluster, Node, Plan, compare, fault, log_scan, mesh, settle};

const HOUR_MS: i64 = 3_600_000;
const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";
const AHEAD: &str = "WARNING:  clock of node 2 is ";

/// What a manager says that can't write its heartbeat.
const STEPPED_BACK: &str = "cannot commit because the clock of this server was stepped back";

/// Two nodes; the clock of the second is ahead by this when they are connected.
fn two_nodes(name: &str, ahead_ms: i64, settings: &[&str]) -> Cluster {
    let plan = settings.iter().fold(Plan::new(name, 2).own_clocks(), |plan, line| plan.setting(line));
    let cluster = plan.start();
    cluster.expect_log(STEPPED_BACK);
    cluster.node(2).set_clock(ahead_ms);
    mesh::connect_all(&cluster);
    mesh::replicate(&cluster, TABLE);
    cluster
}

/// One node alone.
fn one_node(name: &str) -> Cluster {
    let cluster = Plan::new(name, 1).own_clocks().start();
    cluster.expect_log(STEPPED_BACK);
    mesh::create_node(cluster.node(1));
    mesh::replicate(&cluster, TABLE);
    cluster
}

fn text(node: &Node, id: i32) -> Option<String> {
    node.try_value(&format!("SELECT v FROM t WHERE id = {id}"))
}

#[track_caller]
fn wait_for_text(node: &Node, id: i32, expected: &str) {
    wait::until_equal(&format!("row {id} on {}", node.name), Some(expected.to_owned()), || text(node, id));
}

/// How far node 1 says that the clock of node 2 is ahead, in milliseconds.
fn shown_offset_ms(cluster: &Cluster) -> Option<f64> {
    cluster.node(1).try_value(
        "SELECT (extract(epoch FROM clock_offset) * 1000)::float8 FROM meld.progress WHERE clock_offset IS NOT NULL",
    )
}

#[track_caller]
fn wait_for_offset(cluster: &Cluster, expected_ms: f64) {
    let is_it = |offset: &Option<f64>| offset.is_some_and(|offset| (offset - expected_ms).abs() < 250.0);
    wait::until_value(&format!("an offset of {expected_ms} ms"), || shown_offset_ms(cluster), is_it);
}

fn reports(node: &Node) -> usize {
    log_scan::entries_with(&node.server.log, AHEAD).len()
}

#[track_caller]
fn assert_too_far(error: &SqlError) {
    assert_eq!(error.sqlstate, "58000", "{error:?}");
    assert_eq!(error.message, "cannot commit because the clock of this server was stepped back");
    assert!(error.detail.contains("ms behind the latest timestamp") && !error.hint.is_empty(), "{error:?}");
}

#[test]
fn what_was_written_after_seeing_it_wins_over_a_clock_that_is_ahead() {
    let cluster = two_nodes("ahead", 5000, &[]);
    let (n1, n2) = (cluster.node(1), cluster.node(2));
    n1.expect_log(AHEAD);
    wait_for_offset(&cluster, 5000.0);
    for id in 1..=5 {
        n2.batch(&format!("INSERT INTO t VALUES ({id}, 'ahead')"));
    }
    for id in 1..=5 {
        wait_for_text(n1, id, "ahead");
        n1.batch(&format!("UPDATE t SET v = 'seen' WHERE id = {id}"));
    }
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(n2.values::<String>("SELECT DISTINCT v FROM t"), ["seen"]);
    assert_eq!(n1.value::<i64>("SELECT count(*) FROM meld.resolutions"), 0);
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM meld.resolutions"), 0);
    assert_eq!(reports(n1), 1, "one report, not one for each transaction");
    // a step is seen, too
    n2.set_clock(1000);
    wait_for_offset(&cluster, 1000.0);
    wait::until_value(
        "word that the clocks agree",
        || log_scan::entries_with(&n1.server.log, "clock of node 2 is no longer ahead").len(),
        |count| *count == 1,
    );
    cluster.finish();
}

#[test]
fn a_clock_that_is_ahead_is_not_waited_for_if_told_so() {
    let cluster = two_nodes("ahead_warn", 600_000, &["meld.max_clock_skew_action = 'warn'"]);
    let (n1, n2) = (cluster.node(1), cluster.node(2));
    n1.expect_log(AHEAD);
    for id in 1..=3 {
        n2.batch(&format!("INSERT INTO t VALUES ({id}, 'ahead')"));
        wait_for_text(n1, id, "ahead");
    }
    assert_eq!(reports(n1), 1);
    let ahead = "SELECT bool_and(pg_xact_commit_timestamp(xmin) > clock_timestamp()) FROM t";
    assert!(n1.value::<bool>(ahead));
    // which binds no commit of this node's own, neither now nor after a crash
    n1.batch("INSERT INTO t VALUES (11, 'own')");
    fault::expect_lost_links(&cluster);
    fault::kill_postmaster(n1);
    fault::start(n1);
    n1.batch("INSERT INTO t VALUES (12, 'own')");
    assert!(
        n1.value::<bool>("SELECT bool_and(pg_xact_commit_timestamp(xmin) <= clock_timestamp()) FROM t WHERE id > 10")
    );
    settle::settle(&cluster);
    compare::equal(&cluster);
    cluster.finish();
}

#[test]
fn a_clock_that_is_ahead_is_refused_if_told_so() {
    let cluster = two_nodes("ahead_error", 0, &["meld.max_clock_skew_action = 'error'"]);
    let (n1, n2) = (cluster.node(1), cluster.node(2));
    n1.expect_log("clock of node 2 is ");
    fault::expect_lost_links(&cluster);
    n2.set_clock(600_000);
    n2.batch("INSERT INTO t VALUES (1, 'ahead')");
    let error = "SELECT last_sqlstate || ' ' || last_error FROM meld.sub_show_status() WHERE last_error IS NOT NULL";
    wait::until_value(
        "the reason in sub_show_status",
        || n1.try_value::<String>(error),
        |seen| seen.as_ref().is_some_and(|seen| seen.starts_with("58000 clock of node 2 is ")),
    );
    assert_eq!(text(n1, 1), None);
    n1.batch("ALTER SYSTEM SET meld.max_clock_skew_action = 'warn'");
    n1.batch("SELECT pg_reload_conf()");
    wait_for_text(n1, 1, "ahead");
    cluster.finish();
}

#[test]
fn nothing_is_committed_by_a_clock_that_was_stepped_back() {
    let cluster = one_node("stepped_back");
    let n1 = cluster.node(1);
    n1.server.connect("postgres").unwrap().batch_execute("CREATE TABLE t (id int)").unwrap();
    n1.batch("ALTER SYSTEM SET max_prepared_transactions = 5");
    fault::restart(n1);
    n1.batch("INSERT INTO t VALUES (1, 'before')");
    let mut session = n1.client();
    session.batch_execute("BEGIN; INSERT INTO t VALUES (2, 'prepared'); PREPARE TRANSACTION 'p'").unwrap();

    n1.set_clock(-HOUR_MS);
    let refused = || {
        let started = Instant::now();
        assert_too_far(&n1.error("INSERT INTO t VALUES (3, 'refused')"));
        assert_too_far(&n1.error("COMMIT PREPARED 'p'"));
        assert!(started.elapsed() < Duration::from_secs(8), "there is no use in waiting for an hour");
        // who writes nothing, or is no node, is left alone
        assert_eq!(n1.values::<i32>("SELECT id FROM t"), [1]);
        n1.server.connect("postgres").unwrap().batch_execute("INSERT INTO t VALUES (1)").unwrap();
    };
    refused();
    fault::restart(n1);
    refused();
    fault::kill_postmaster(n1);
    fault::start(n1);
    refused();
    fault::kill_backend(n1, fault::process(n1, &["meld supervisor"]).pid);
    refused();

    n1.set_clock(0);
    n1.batch("COMMIT PREPARED 'p'");
    n1.batch("INSERT INTO t VALUES (3, 'after')");
    let in_order = "SELECT array_agg(id ORDER BY pg_xact_commit_timestamp(xmin)) FROM t";
    assert_eq!(n1.value::<Vec<i32>>(in_order), [1, 2, 3]);
    cluster.finish();
}

/// What the record on disk does not know is looked up at the start.
#[test]
fn a_crash_takes_no_commit_out_of_the_high_water() {
    let cluster = one_node("high_water");
    let n1 = cluster.node(1);
    n1.batch("INSERT INTO t VALUES (1, 'one')");
    let record = n1.server.data.join("meld.clock");
    let before = wait::until("a record of the clock", wait::DEADLINE, || match std::fs::read(&record) {
        Ok(content) => Look::Done(content),
        Err(error) => Look::Seen(error.to_string()),
    });
    for (id, content) in [(2, Some(&before[..])), (3, None), (4, Some(&b"damaged"[..]))] {
        n1.set_clock(HOUR_MS * i64::from(id));
        n1.batch(&format!("INSERT INTO t VALUES ({id}, 'ahead')"));
        fault::kill_postmaster(n1);
        match content {
            Some(content) => std::fs::write(&record, content).unwrap(),
            None => std::fs::remove_file(&record).unwrap(),
        }
        n1.set_clock(HOUR_MS * i64::from(id) - 20_000);
        n1.expect_log("could not read file \"meld.clock\": it is damaged");
        fault::start(n1);
        assert_too_far(&n1.error("INSERT INTO t VALUES (10, 'refused')"));
    }
    cluster.finish();
}

/// Crashes in the middle of traffic, each with a clock that is behind afterwards: the commits of a row that all write, some
/// of them prepared first, still have timestamps in their order.
#[test]
fn timestamps_rise_over_crashes_and_steps() {
    let cluster = Plan::new("rising", 1).own_clocks().setting("max_prepared_transactions = 10").start();
    let n1 = cluster.node(1);
    cluster.expect_log(STEPPED_BACK);
    mesh::create_node(n1);
    mesh::replicate(&cluster, "CREATE TABLE counter (id int PRIMARY KEY, n int); CREATE TABLE log (n int PRIMARY KEY)");
    n1.batch("INSERT INTO counter VALUES (1, 0)");
    let count = "WITH u AS (UPDATE counter SET n = n + 1 RETURNING n) INSERT INTO log SELECT n FROM u";
    let written = || n1.try_value::<i64>("SELECT count(*) FROM log").unwrap_or_default();
    for round in 1..=4_i64 {
        std::thread::scope(|scope| {
            for writer in 1..=4 {
                let prepared = format!("BEGIN; {count}; PREPARE TRANSACTION 'w{writer}'");
                let mut session = n1.client();
                let mut write = move || match writer {
                    1 => {
                        session.batch_execute(&prepared)?;
                        session.batch_execute("COMMIT PREPARED 'w1'")
                    }
                    _ => session.batch_execute(count),
                };
                // until the server is gone
                scope.spawn(move || while write().is_ok() {});
            }
            let before = written();
            wait::until_value("writes", written, |now| *now >= before + 300);
            fault::kill_postmaster(n1);
        });
        n1.set_clock(-3000 * round);
        fault::start(n1);
        for gid in n1.values::<String>("SELECT gid FROM pg_prepared_xacts") {
            n1.batch(&format!("COMMIT PREPARED '{gid}'"));
        }
    }
    let order = "SELECT count(*) FROM (SELECT pg_xact_commit_timestamp(xmin) AS ts, \
                 lag(pg_xact_commit_timestamp(xmin)) OVER (ORDER BY n) AS before FROM log) o WHERE ts <= before";
    assert_eq!(n1.value::<i64>(order), 0, "of {} commits", written());
    assert_eq!(n1.value::<i64>("SELECT count(*) FROM log"), n1.value::<i64>("SELECT n::bigint FROM counter"));
    cluster.finish();
}

#[test]
fn a_commit_waits_for_a_clock_that_is_a_little_behind() {
    let cluster = one_node("a_little_behind");
    let n1 = cluster.node(1);
    n1.batch("CREATE TABLE parent (id int PRIMARY KEY)");
    n1.batch("CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)");
    n1.batch("INSERT INTO t VALUES (1, 'before')");
    n1.set_clock(-3000);
    let started = Instant::now();
    n1.batch("INSERT INTO t VALUES (2, 'waited')");
    assert!(started.elapsed() >= Duration::from_millis(2000), "{:?}", started.elapsed());
    assert!(n1.value::<bool>(
        "SELECT pg_xact_commit_timestamp(b.xmin) > pg_xact_commit_timestamp(a.xmin) FROM t a, t b WHERE a.id = 1 AND b.id = 2"
    ));
    // deferred triggers come first
    n1.set_clock(-HOUR_MS);
    assert_eq!(n1.error("INSERT INTO child VALUES (1)").sqlstate, "23503");
    n1.set_clock(-3000);
    assert_eq!(n1.error("SET LOCAL meld.commit_wait_limit = 0; INSERT INTO child VALUES (1)").sqlstate, "23503");
    // the limit is the session's
    let patient = |sql: &str| {
        let mut session = n1.client();
        session.batch_execute("SET meld.commit_wait_limit = '1h'").and_then(|()| session.batch_execute(sql))
    };
    n1.set_clock(-HOUR_MS / 2);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| patient("INSERT INTO t VALUES (3, 'cancelled')"));
        let pid = fault::session_pid(n1, "wait_event = 'Extension' AND query LIKE 'INSERT%cancelled%'");
        n1.value::<bool>(&format!("SELECT pg_cancel_backend({pid})"));
        let error = SqlError::of(&waiting.join().unwrap().unwrap_err());
        assert_eq!(error.message, "canceling statement due to user request");
        // and goes on when the clock is set right
        let waiting = scope.spawn(|| patient("INSERT INTO t VALUES (4, 'went on')"));
        fault::session_pid(n1, "wait_event = 'Extension' AND query LIKE 'INSERT%went on%'");
        n1.set_clock(0);
        waiting.join().unwrap().unwrap();
    });
    assert_eq!(n1.values::<i32>("SELECT id FROM t ORDER BY id"), [1, 2, 4]);
    cluster.finish();
}

/// Lets the server forget when row `id` was written. It keeps what it needs for the slots, so the peer has to go on.
#[track_caller]
fn forget_stamps(node: &Node, peer: &Node, id: i32) {
    node.server.connect("postgres").unwrap().batch_execute("ALTER DATABASE template0 ALLOW_CONNECTIONS true").unwrap();
    let xid: String = node.value(&format!("SELECT xmin::text FROM t WHERE id = {id}"));
    let is_kept = format!("SELECT pg_xact_commit_timestamp('{xid}'::xid) IS NOT NULL");
    wait::until_equal("a timestamp that is kept", false, || {
        node.batch("CREATE TABLE IF NOT EXISTS forgetting ()");
        node.batch("DROP TABLE forgetting");
        node.batch("CHECKPOINT");
        settle::settle_link(node, peer);
        for database in ["template0", "template1", "postgres", "app"] {
            node.server.connect(database).unwrap().batch_execute("VACUUM (FREEZE)").unwrap();
        }
        node.value::<bool>(&is_kept)
    });
}

/// A row whose timestamp the server has forgotten is never taken for older than it is.
#[test]
fn a_forgotten_stamp_is_not_guessed() {
    let cluster = two_nodes("forgotten", 0, &[]);
    let (n1, n2) = (cluster.node(1), cluster.node(2));
    n1.batch("INSERT INTO t VALUES (1, 'first'), (2, 'first')");
    settle::settle(&cluster);
    mesh::set_enabled(n1, n2, false);
    n2.batch("UPDATE t SET v = 'earlier' WHERE id = 1");
    n1.batch("UPDATE t SET v = 'later' WHERE id = 1");
    forget_stamps(n1, n2, 1);
    n1.expect_log("was parked as");
    mesh::set_enabled(n1, n2, true);
    settle::settle_link(n2, n1);
    let why = n1.values::<String>("SELECT error_message FROM meld.parked_transaction");
    assert!(
        matches!(&why[..], [only] if only.starts_with("cannot tell whether a row of \"public.t\" is older")),
        "{why:?}"
    );
    assert_eq!(text(n1, 1).as_deref(), Some("later"));
    // a change that is newer than the bound wins for certain, also over a restart
    fault::expect_lost_links(&cluster);
    fault::restart(n1);
    n1.batch("UPDATE t SET v = 'later still' WHERE id = 1");
    assert_eq!(n1.value::<i64>("SELECT replayed FROM meld.parked_replay()"), 1);
    settle::settle(&cluster);
    n2.batch("UPDATE t SET v = 'newest' WHERE id = 2");
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!((text(n1, 1).as_deref(), text(n1, 2).as_deref()), (Some("later still"), Some("newest")));
    cluster.finish();
}
