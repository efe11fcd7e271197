//! Rows fetched from a provider by key, as the apply worker asks for them: values of all types, stamps, refusals, and a
//! connection that is kept, breaks and is opened anew.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use meld_cluster_tests::every_type::{COLUMNS, EXTREME, ORDINARY, TYPES};
use meld_cluster_tests::node::literal;
use meld_cluster_tests::wait::until_equal;
use meld_cluster_tests::{Node, Plan, compare, fault, mesh, settle};
use meld_core::ids::{NodeId, NodeIdentity};

use crate::receiver::{Inquiry, LinkError};
use crate::{SECRET, SOON, tells_no_secret};

const LONG: Duration = Duration::from_secs(30);
const FETCH: &str =
    "SELECT column_name, column_value, commit_us, node_id, is_known FROM meld.fetch_row($1, $2, $3, $4)";

/// A fetched row: names and texts of its columns, and the stamp.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Fetched {
    columns: Vec<(String, Option<String>)>,
    commit_us: i64,
    node_id: i32,
    is_known: bool,
}

fn identity(node: &Node) -> NodeIdentity {
    let row = &node.rows(
        "SELECT node_id, node_name::text, system_identifier, database::text, snowflake_node FROM meld.identity()",
        &[],
    )[0];
    NodeIdentity {
        id: NodeId(row.get::<_, i32>(0) as u16),
        name: row.get(1),
        system_identifier: row.get::<_, i64>(2).cast_unsigned(),
        database: row.get(3),
        snowflake_node: row.get::<_, i32>(4) as u16,
    }
}

fn inquiry(node: &Node, dsn: &str) -> Inquiry {
    Inquiry::new(dsn, "meld_fetch_test", &identity(node))
}

/// Row of a table of schema public by a key of one column.
fn fetch(inquiry: &mut Inquiry, table: &str, key: (&str, &str)) -> Result<Option<Fetched>, LinkError> {
    fetch_within(inquiry, table, key, LONG, &mut || {})
}

fn fetch_within(
    inquiry: &mut Inquiry,
    table: &str,
    key: (&str, &str),
    limit: Duration,
    interrupted: &mut dyn FnMut(),
) -> Result<Option<Fetched>, LinkError> {
    let hex: String = key.1.bytes().map(|byte| format!("{byte:02x}")).collect();
    let (names, values) = (format!("{{\"{}\"}}", key.0), format!("{{\"\\\\x{hex}\"}}"));
    let params = [Some("public"), Some(table), Some(&names), Some(&values)];
    let rows = inquiry.ask(FETCH, &params, 64 << 20, limit, interrupted)?;
    let number = |bytes: &Option<Vec<u8>>| {
        bytes.as_ref().expect("a number").iter().fold(0_i64, |number, &byte| number << 8 | i64::from(byte))
    };
    let text = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| String::from_utf8(bytes.clone()).expect("text"));
    Ok(rows.first().map(|first| Fetched {
        columns: rows.iter().map(|row| (text(&row[0]).expect("a name"), text(&row[1]))).collect(),
        commit_us: number(&first[2]),
        node_id: number(&first[3]) as i32,
        is_known: number(&first[4]) == 1,
    }))
}

/// The stamp of a row as the server knows it.
fn stamp(node: &Node, table: &str, condition: &str) -> i64 {
    node.value(&format!(
        "SELECT (extract(epoch FROM pg_xact_commit_timestamp(xmin) - '2000-01-01 00:00+00') * 1000000)::int8
         FROM {table} WHERE {condition}"
    ))
}

/// Puts a fetched row into the table of another node.
fn put(node: &Node, table: &str, fetched: &Fetched) {
    let mut client = node.server.connect("app").expect("a connection");
    let quoted = |text: &Option<String>| text.as_ref().map_or("NULL".to_owned(), |text| literal(text));
    let names: Vec<String> = fetched.columns.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let values: Vec<String> = fetched.columns.iter().map(|(_, value)| quoted(value)).collect();
    let sql =
        format!("SET lc_monetary = 'C'; INSERT INTO {table} ({}) VALUES ({})", names.join(", "), values.join(", "));
    client.batch_execute(&sql).expect("the row goes in");
}

#[test]
fn a_row_is_fetched_as_it_is() {
    let cluster = Plan::new("fetching", 2).start();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    for node in cluster.nodes() {
        mesh::create_node(node);
        node.batch(TYPES);
        node.batch(&format!(
            "CREATE TABLE every_type (id int PRIMARY KEY, {COLUMNS});
             CREATE TABLE large (id int PRIMARY KEY, note text, bytes bytea, twice int GENERATED ALWAYS AS (id * 2) STORED)"
        ));
    }
    // what the roles and databases of users are given as defaults does not count
    n1.batch(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET datestyle = ''SQL, DMY''', current_database());
             EXECUTE format('ALTER DATABASE %I SET intervalstyle = ''iso_8601''', current_database());
             EXECUTE format('ALTER DATABASE %I SET extra_float_digits = -10', current_database());
             EXECUTE format('ALTER DATABASE %I SET bytea_output = ''escape''', current_database());
             EXECUTE format('ALTER DATABASE %I SET timezone = ''Asia/Kathmandu''', current_database()); END $$",
    );
    n1.batch(&format!("INSERT INTO every_type VALUES (1, {ORDINARY}), (2, {EXTREME})"));
    n1.batch("INSERT INTO every_type (id) VALUES (3)");
    n1.batch(
        "INSERT INTO large SELECT 1, 'first', (SELECT string_agg(decode(md5(i::text), 'hex'), '')
             FROM generate_series(1, 65536) i)",
    );
    let mut asked = inquiry(n1, &n1.dsn());
    for id in ["1", "2", "3"] {
        let row = fetch(&mut asked, "every_type", ("id", id)).expect("fetch").expect("the row is there");
        assert_eq!((row.node_id, row.is_known), (1, true));
        assert_eq!(row.commit_us, stamp(n1, "every_type", &format!("id = {id}")));
        put(n2, "every_type", &row);
    }
    let row = fetch(&mut asked, "large", ("id", "1")).expect("fetch").expect("the row is there");
    let names: Vec<&str> = row.columns.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["id", "note", "bytes"], "a generated column does not travel");
    put(n2, "large", &row);
    compare::compare(&[n1, n2], None, compare::Aspect::Rows).unwrap_or_else(|difference| panic!("{difference}"));
    assert_eq!(n2.value::<i32>("SELECT length(bytes) FROM large"), 1024 * 1024);

    assert_eq!(fetch(&mut asked, "every_type", ("id", "4")), Ok(None), "no such row");
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'meld_fetch_test'";
    assert_eq!(n1.value::<i64>(sessions), 1, "one connection for all");
    refusals(n1, &mut asked);
    breaks(n1, &mut asked);
    drop(asked);
    until_equal("sessions", 0_i64, || n1.value(sessions));
    cluster.discard();
}

fn refusals(node: &Node, asked: &mut Inquiry) {
    node.batch(
        "CREATE TABLE keyless (id int); CREATE VIEW view AS SELECT 1 AS id;
         CREATE TABLE by_index (a int NOT NULL UNIQUE, b int PRIMARY KEY); INSERT INTO by_index VALUES (1, 2);
         CREATE TABLE hidden (id int PRIMARY KEY, v text); INSERT INTO hidden VALUES (1, 'there');
         CREATE DOMAIN checked AS int CHECK (VALUE > 0); CREATE TABLE domains (id checked PRIMARY KEY);
         ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; ALTER TABLE hidden FORCE ROW LEVEL SECURITY;
         CREATE ROLE outsider LOGIN; CREATE ROLE peer LOGIN REPLICATION; CREATE ROLE owner;
         ALTER TABLE hidden OWNER TO owner",
    );
    let state = |outcome: Result<Option<Fetched>, LinkError>| outcome.expect_err("refused").sqlstate().to_owned();
    assert_eq!(state(fetch(asked, "missing", ("id", "1"))), "42P01");
    assert_eq!(state(fetch(asked, "view", ("id", "1"))), "42809");
    assert_eq!(state(fetch(asked, "keyless", ("id", "1"))), "55000");
    assert_eq!(state(fetch(asked, "by_index", ("a", "1"))), "55000");
    assert_eq!(state(fetch(asked, "by_index", ("c", "1"))), "55000");
    assert_eq!(state(fetch(asked, "large", ("id", "one"))), "22P02");
    assert_eq!(state(fetch(asked, "domains", ("id", "-1"))), "23514");
    node.batch("ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_a_key");
    assert!(fetch(asked, "by_index", ("a", "1")).expect("fetch").is_some());
    assert!(fetch(asked, "by_index", ("b", "2")).expect("fetch").is_some(), "the primary key is good in any case");
    node.batch("ALTER TABLE by_index REPLICA IDENTITY FULL");
    assert!(fetch(asked, "by_index", ("b", "2")).expect("fetch").is_some());

    // who may stream everything may fetch; nobody else
    let as_user = |user: &str| format!("{} user={user}", node.dsn());
    let mut outsider = inquiry(node, &as_user("outsider"));
    assert_eq!(state(fetch(&mut outsider, "hidden", ("id", "1"))), "42501");
    let mut peer = inquiry(node, &as_user("peer"));
    let row = fetch(&mut peer, "hidden", ("id", "1")).expect("fetch").expect("row-level security hides nothing");
    assert_eq!(row.columns[1].1.as_deref(), Some("there"));
    let meld = peer.ask(
        FETCH,
        &[Some("meld"), Some("node"), Some("{node_id}"), Some("{\"\\\\x31\"}")],
        1 << 20,
        LONG,
        &mut || {},
    );
    assert_eq!(meld.expect_err("refused").sqlstate(), "42809");
    assert_eq!(
        node.error(
            "BEGIN; INSERT INTO hidden VALUES (2); SELECT * FROM meld.fetch_row('public', 'hidden', '{id}', '{2}')"
        )
        .sqlstate,
        "25001"
    );
    node.forget_session();
}

fn breaks(node: &Node, asked: &mut Inquiry) {
    // an idle connection that has gone is opened anew
    node.batch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'meld_fetch_test'");
    assert!(fetch(asked, "large", ("id", "1")).expect("fetch").is_some());

    // a table that is locked: the limit, and a request to end, which unwinds
    let mut locker = node.client();
    let mut lock = locker.transaction().expect("begin");
    lock.batch_execute("LOCK TABLE large").expect("lock");
    let limit = Duration::from_millis(500);
    let start = Instant::now();
    let error = fetch_within(asked, "large", ("id", "1"), limit, &mut || {}).expect_err("locked");
    assert!(matches!(error, LinkError::Timeout { .. }), "{error:?}");
    assert_eq!(error.sqlstate(), "08006");
    let mut looks = 0;
    let mut interrupted = || {
        looks += 1;
        assert!(looks < 5, "terminating");
    };
    let run = || fetch_within(asked, "large", ("id", "1"), LONG, &mut interrupted);
    assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    until_equal("waiting sessions", 0_i64, || {
        node.value(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'meld_fetch_test' AND state = 'active'",
        )
    });
    lock.rollback().expect("rollback");
    assert!(fetch(asked, "large", ("id", "1")).expect("fetch").is_some());

    // a provider that crashes, is away, comes back, or is another one
    fault::kill_postmaster(node);
    node.server.wait_until_gone();
    let error = fetch(asked, "large", ("id", "1")).expect_err("nobody there");
    assert!(error.sqlstate().starts_with("08"), "{error:?}");
    node.server.start().expect("start");
    node.forget_session();
    assert!(fetch(asked, "large", ("id", "1")).expect("fetch").is_some());
    let mut other = NodeIdentity { name: "another".into(), ..identity(node) };
    other.id = NodeId(77);
    let mut wrong = Inquiry::new(&node.dsn(), "meld_fetch_test", &other);
    let error = fetch(&mut wrong, "large", ("id", "1")).expect_err("not the one");
    assert!(matches!(error, LinkError::WrongProvider { .. }), "{error:?}");
    let mut nowhere = inquiry(node, &format!("host=/nowhere password={SECRET}"));
    tells_no_secret(&fetch(&mut nowhere, "large", ("id", "1")).expect_err("nobody there"));
}

#[test]
fn stamps_of_fetched_rows_name_the_writer() {
    let cluster = Plan::new("fetching_stamps", 2).start_mesh();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    mesh::replicate(&cluster, "CREATE TABLE t (id int PRIMARY KEY, v text)");
    n1.batch("INSERT INTO t VALUES (1, 'n1')");
    n2.batch("INSERT INTO t VALUES (2, 'n2')");
    settle::settle(&cluster);
    // each row comes from either node with the stamp that its author gave it
    for (id, author) in [("1", n1), ("2", n2)] {
        let written = stamp(author, "t", &format!("id = {id}"));
        for provider in cluster.nodes() {
            let row = fetch(&mut inquiry(provider, &provider.dsn()), "t", ("id", id)).expect("fetch").expect("a row");
            assert_eq!((row.node_id, row.commit_us, row.is_known), (author.id(), written, true), "{}", provider.name);
        }
    }
    // a provider that lags behind answers with what it has
    mesh::set_enabled(n2, n1, false);
    n1.batch("UPDATE t SET v = 'n1 again' WHERE id = 2; DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (3, 'new')");
    let mut late = inquiry(n2, &n2.dsn());
    let row = fetch(&mut late, "t", ("id", "2")).expect("fetch").expect("a row");
    assert_eq!((row.columns[1].1.as_deref(), row.node_id), (Some("n2"), 2));
    assert!(fetch(&mut late, "t", ("id", "1")).expect("fetch").is_some());
    assert_eq!(fetch(&mut late, "t", ("id", "3")), Ok(None));
    mesh::set_enabled(n2, n1, true);
    settle::settle(&cluster);
    let row = fetch(&mut late, "t", ("id", "2")).expect("fetch").expect("a row");
    assert_eq!((row.columns[1].1.as_deref(), row.node_id), (Some("n1 again"), 1));
    assert_eq!(row.commit_us, stamp(n1, "t", "id = 2"));
    cluster.finish();
}

/// What can be seen of a transaction that does not wait for the disk may be lost again with a crash.
#[test]
fn what_was_fetched_outlives_a_crash() {
    let cluster = Plan::new("fetching_crash", 1)
        .setting("synchronous_commit = off")
        .setting("wal_writer_delay = '10s'")
        .setting("wal_writer_flush_after = 0")
        .setting("autovacuum = off")
        .start();
    let node = cluster.node(1);
    mesh::create_node(node);
    node.batch(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'first'), (2, 'goes'); CHECKPOINT",
    );
    let mut asked = inquiry(node, &node.dsn());
    let crash = || {
        fault::kill_postmaster(node);
        node.server.wait_until_gone();
        node.server.start().expect("start");
        node.forget_session();
    };
    node.batch("UPDATE t SET v = 'second' WHERE id = 1");
    let row = fetch(&mut asked, "t", ("id", "1")).expect("fetch").expect("a row");
    crash();
    assert_eq!(fetch(&mut asked, "t", ("id", "1")), Ok(Some(row)));
    node.batch("DELETE FROM t WHERE id = 2");
    assert_eq!(fetch(&mut asked, "t", ("id", "2")), Ok(None));
    crash();
    assert_eq!(fetch(&mut asked, "t", ("id", "2")), Ok(None), "gone for good");
    cluster.discard();
}
