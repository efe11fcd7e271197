//! One-shot queries: values, errors, deadline, and a query cancel that unwinds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use meld_cluster_tests::wait::until_equal;
use meld_cluster_tests::{Node, Plan};

use crate::SOON;
use crate::receiver::{LinkError, query};

const LONG: Duration = Duration::from_secs(30);

type Rows = Vec<Vec<Option<String>>>;

fn ask(node: &Node, sql: &str, params: &[Option<&str>], deadline: Duration) -> Result<Rows, LinkError> {
    query(&node.dsn(), "meld_query_test", sql, params, deadline, &mut || {})
}

/// No session of these queries is left on the server.
fn nothing_runs(node: &Node) {
    until_equal("sessions of the query", 0_i64, || {
        node.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'meld_query_test'")
    });
}

#[test]
fn queries_answer_fail_and_end() {
    let cluster = Plan::plain("receiver_queries", 1).start();
    let node = cluster.node(1);
    values(node);
    errors(node);
    deadline(node);
    cancel(node);
    cluster.discard();
}

fn values(node: &Node) {
    let rows = ask(node, "SELECT $1::text, $2::int + 1, $3::text", &[Some("grün 🐘"), Some("41"), None], LONG);
    assert_eq!(rows.unwrap(), [vec![Some("grün 🐘".to_owned()), Some("42".to_owned()), None]]);
    assert_eq!(ask(node, "SELECT FROM generate_series(1, 3)", &[], LONG).unwrap(), vec![Vec::new(); 3]);
    assert_eq!(ask(node, "SELECT n FROM generate_series(1, 5000) n", &[], LONG).unwrap().len(), 5000);
    assert_eq!(ask(node, "SET search_path TO public", &[], LONG).unwrap(), Rows::new());
    let name = ask(node, "SELECT current_setting('application_name')", &[], LONG).unwrap();
    assert_eq!(name, [[Some("meld_query_test".to_owned())]]);
    let names = "application_name=theirs client_encoding=LATIN1 replication=database";
    let rows =
        query(&format!("{} {names}", node.dsn()), "meld_query_test", "SHOW client_encoding", &[], LONG, &mut || {});
    assert_eq!(rows.unwrap(), [[Some("UTF8".to_owned())]], "the connection string does not decide that");
}

fn errors(node: &Node) {
    let sql = "DO $$ BEGIN RAISE 'no way' USING errcode = '23505', detail = 'A detail.', hint = 'A hint.'; END $$";
    let error = ask(node, sql, &[], LONG).unwrap_err();
    assert_eq!((error.sqlstate(), error.to_string().as_str()), ("23505", "no way"));
    assert_eq!((error.detail().as_deref(), error.hint().as_deref()), (Some("A detail."), Some("A hint.")));
    assert_eq!(ask(node, "SELECT 1; SELECT 2", &[], LONG).unwrap_err().sqlstate(), "42601");
    assert_eq!(ask(node, "SELECT pg_terminate_backend(pg_backend_pid())", &[], LONG).unwrap_err().sqlstate(), "57P01");
    let large = ask(node, "SELECT repeat('x', 1000000) FROM generate_series(1, 1000)", &[], LONG).unwrap_err();
    assert!(matches!(large, LinkError::Protocol(_)), "{large:?}");
    assert!(matches!(ask(node, "COPY (SELECT 1) TO STDOUT", &[], LONG), Err(LinkError::Protocol(_))));
    nothing_runs(node);
}

fn deadline(node: &Node) {
    let limit = Duration::from_millis(500);
    let start = Instant::now();
    let error = ask(node, "SELECT pg_sleep(600)", &[], limit).unwrap_err();
    assert_eq!(error, LinkError::Timeout { doing: "waiting for the answer of the server", limit });
    assert!(start.elapsed() >= limit && start.elapsed() < SOON, "{:?}", start.elapsed());
    nothing_runs(node);
}

fn cancel(node: &Node) {
    let (mut looks, mut longest, mut last) = (0, Duration::ZERO, Instant::now());
    let mut interrupted = || {
        longest = longest.max(last.elapsed());
        last = Instant::now();
        looks += 1;
        if looks == 8 {
            panic!("canceling statement due to user request");
        }
    };
    let run = || query(&node.dsn(), "meld_query_test", "SELECT pg_sleep(600)", &[], LONG, &mut interrupted);
    let unwound = catch_unwind(AssertUnwindSafe(run));
    assert!(unwound.is_err());
    assert!(longest < Duration::from_secs(3), "looked only after {longest:?}");
    nothing_runs(node);
}
