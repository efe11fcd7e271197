//! The harness itself, on servers without the extension.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use meld_cluster_tests::compare::{self, Aspect};
use meld_cluster_tests::log_scan::{self, HARNESS};
use meld_cluster_tests::node::{DATABASE, SECRET};
use meld_cluster_tests::proxy::{Damage, Proxy};
use meld_cluster_tests::server::{Stop, processes_in};
use meld_cluster_tests::wait::{self, Look};
use meld_cluster_tests::{Plan, fault};
use postgres::NoTls;

#[test]
fn servers_start_stop_crash_and_come_back() {
    let cluster = Plan::plain("servers", 2).start();
    let (n1, n2) = (cluster.node(1), cluster.node(2));
    let identifier = "SELECT system_identifier FROM pg_control_system()";
    assert_ne!(n1.value::<i64>(identifier), n2.value::<i64>(identifier));
    assert_eq!(n1.value::<String>("SHOW wal_level"), "logical");

    n1.batch("CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    fault::kill_postmaster(n1);
    assert!(n1.try_value::<i32>("SELECT a FROM t").is_none());
    assert!(processes_in(&n1.server.data).is_empty());
    fault::start(n1);
    assert_eq!(n1.value::<i32>("SELECT a FROM t"), 1);

    let pid = fault::session_pid(n1, "backend_type = 'walwriter'");
    fault::kill_backend(n1, pid);
    assert_eq!(n1.value::<i32>("SELECT a FROM t"), 1);
    assert_ne!(fault::process(n1, &["walwriter"]).pid, pid);

    fault::restart(n2);
    n2.server.configure(&["work_mem = '5MB'".into()]).expect("configure");
    n2.value::<bool>("SELECT pg_reload_conf()");
    wait::until_equal("work_mem", "5MB".to_owned(), || n2.value("SHOW work_mem"));
    cluster.finish();
}

#[test]
fn a_cluster_leaves_nothing_and_keeps_logs_of_a_failure() {
    let mut seen = None;
    let failure = catch_unwind(AssertUnwindSafe(|| {
        let cluster = Plan::plain("failing", 1).start();
        seen = Some((cluster.node(1).server.data.clone(), cluster.environment.work.clone()));
        panic!("on purpose");
    }));
    assert!(failure.is_err());
    let (data, work) = seen.expect("the cluster started");
    assert!(processes_in(&data).is_empty());
    assert!(!data.parent().expect("in a folder").exists());
    let unique = data.parent().and_then(|dir| dir.file_name()).expect("named").to_string_lossy().into_owned();
    let kept = work.join("failed").join(format!("failing-{unique}"));
    assert!(kept.join("n1.log").exists());
    std::fs::remove_dir_all(kept).expect("remove the logs again");
}

#[test]
fn the_log_scan_finds_what_was_not_announced() {
    let cluster = Plan::plain("log_scan", 1).start();
    let node = cluster.node(1);
    let findings = || log_scan::findings(&node.server.log, &node.expected());
    assert_eq!(findings(), []);

    // errors of the harness's sessions were seen as answers, warnings were not
    assert_eq!(node.error("SELECT 1/0").sqlstate, "22012");
    assert_eq!(findings(), []);
    node.batch("DO $$ BEGIN RAISE WARNING 'too warm'; END $$");
    wait::until_equal("findings", 1, || findings().len());
    assert_eq!(findings()[0].severity, "WARNING");
    assert_eq!(findings()[0].application, HARNESS);
    node.expect_log("too warm");
    assert_eq!(findings(), []);

    let mut other = node.client();
    other.batch_execute("SET application_name = 'worker'").expect("set");
    assert!(other.batch_execute("SELECT 2/0").is_err());
    wait::until_equal("findings", 1, || findings().len());
    assert_eq!((findings()[0].severity.as_str(), findings()[0].sqlstate.as_str()), ("ERROR", "22012"));
    node.expect_log("division by zero");
    assert_eq!(findings(), []);

    // a secret can't be announced
    node.batch(&format!("DO $$ BEGIN RAISE LOG 'dsn password={SECRET}'; END $$"));
    node.expect_log("dsn");
    wait::until_equal("findings", 1, || findings().len());
    let failure = catch_unwind(AssertUnwindSafe(|| log_scan::check(cluster.nodes())));
    assert!(failure.is_err());
    cluster.discard();
}

#[test]
fn compare_shows_differences_row_by_row() {
    let cluster = Plan::plain("compare", 2).start();
    let nodes: Vec<_> = cluster.nodes().iter().collect();
    let compare = || compare::compare(&nodes, None, Aspect::Rows);
    cluster.batch("CREATE TABLE t (a int, b text); INSERT INTO t VALUES (1, 'x'), (2, NULL)");
    assert_eq!(compare(), Ok(()));

    nodes[1].batch("UPDATE t SET b = 'y' WHERE a = 2");
    let report = compare().expect_err("differs");
    assert!(report.contains("public.t: 2 rows are not the same on n1 and n2"), "{report}");
    assert!(report.contains("n2: (a,2,b,y)"), "{report}");

    nodes[0].batch("UPDATE t SET b = 'y' WHERE a = 2");
    assert_eq!(compare(), Ok(()));
    nodes[0].batch("INSERT INTO t VALUES (2, 'y')");
    assert!(compare().is_err(), "the same row twice is another table");
    nodes[1].batch("CREATE SCHEMA \"Other\"; CREATE TABLE \"Other\".\"T\" (a int)");
    let report = compare().expect_err("differs");
    assert!(report.contains("\\\"Other\\\".\\\"T\\\""), "{report}");
    cluster.finish();
}

#[test]
fn waiting_says_what_was_seen_last() {
    let mut n = 0;
    let failure = catch_unwind(AssertUnwindSafe(|| {
        wait::until("the impossible", Duration::from_millis(60), || {
            n += 1;
            Look::<()>::Seen(format!("look {n}"))
        })
    }));
    let message = failure.expect_err("must give up");
    let message = message.downcast_ref::<String>().expect("a text");
    assert!(message.contains("the impossible; last seen: look"), "{message}");
}

#[test]
fn the_proxy_passes_sessions_and_refuses_them() {
    let cluster = Plan::plain("proxy", 1).start();
    let node = cluster.node(1);
    let proxy = Proxy::start(node.server.port()).expect("proxy");
    let dsn = format!(
        "host=127.0.0.1 port={} dbname={DATABASE} user=postgres sslmode=disable application_name={HARNESS}",
        proxy.port
    );
    let mut client = postgres::Client::connect(&dsn, NoTls).expect("through the proxy");
    let long: String = client.query_one("SELECT repeat('x', 1000000)", &[]).expect("query").get(0);
    assert_eq!(long.len(), 1_000_000);

    proxy.set(Damage::Refuse);
    wait::until("the session to end", wait::DEADLINE, || match client.simple_query("SELECT 1") {
        Err(_) => Look::Done(()),
        Ok(_) => Look::Seen("alive".into()),
    });
    assert!(postgres::Client::connect(&dsn, NoTls).is_err());
    proxy.set(Damage::None);
    assert!(postgres::Client::connect(&dsn, NoTls).is_ok());
    cluster.finish();
}

#[test]
fn stopping_takes_all_processes_with_it() {
    let cluster = Plan::plain("stopping", 1).start();
    let server = &cluster.node(1).server;
    for how in [Stop::Fast, Stop::Immediate] {
        assert!(server.is_running());
        server.stop(how).expect("stop");
        assert!(!server.is_running() && processes_in(&server.data).is_empty());
        server.start().expect("start");
    }
    cluster.node(1).expect_log("terminating connection because of");
    cluster.finish();
}
