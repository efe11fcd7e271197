//! Bad input to the SQL functions: each is refused with a fitting SQLSTATE and a hint, and leaves nothing half-made.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use meld_cluster_tests::node::{DATABASE, literal};
use meld_cluster_tests::refusal::{judge, refused};
use meld_cluster_tests::{Plan, compare, mesh, settle};

const NULL: &[&str] = &["22004"];
const BAD_NAME: &[&str] = &["42602"];
const TOO_LONG: &[&str] = &["42622"];
const MISSING: &[&str] = &["42704"];
const DUPLICATE: &[&str] = &["42710"];
const BAD_VALUE: &[&str] = &["22023"];
const BAD_DSN: &[&str] = &["42601", "22023"];
const UNREACHABLE: &[&str] = &["08001", "08006"];
const NO_RIGHT: &[&str] = &["42501"];
const NOT_READY: &[&str] = &["55000"];
const IN_USE: &[&str] = &["55006", "2BP01"];
const NOT_YET: &[&str] = &["0A000"];

#[test]
fn node_functions_check_their_arguments() {
    let cluster = Plan::new("node_functions", 1).start();
    let node = cluster.node(1);
    node.batch("CREATE EXTENSION meld");
    let dsn = literal(&node.dsn());
    let cases: &[(String, &[&str], &[&str])] = &[
        (format!("SELECT meld.node_create(NULL, {dsn})"), NULL, &[]),
        ("SELECT meld.node_create('n1', NULL)".into(), NULL, &[]),
        (format!("SELECT meld.node_create('', {dsn})"), BAD_NAME, &[]),
        (format!("SELECT meld.node_create('{}', {dsn})", "x".repeat(64)), TOO_LONG, &[]),
        ("SELECT meld.node_create('n1', '')".into(), BAD_DSN, &[]),
        ("SELECT meld.node_create('n1', 'host')".into(), BAD_DSN, &[]),
        ("SELECT meld.node_create('n1', 'nonsense=1 password=harness-secret-0815')".into(), BAD_DSN, &[]),
        (format!("SELECT meld.node_create('n1', {dsn}, node_id => 0)"), BAD_VALUE, &["1023"]),
        (format!("SELECT meld.node_create('n1', {dsn}, node_id => 1024)"), BAD_VALUE, &["1023"]),
        (format!("SELECT meld.node_create('n1', {dsn}, node_id => -1)"), BAD_VALUE, &["1023"]),
        ("SELECT meld.node_drop('n1')".into(), MISSING, &["\"n1\""]),
        ("SELECT meld.node_drop(NULL)".into(), NULL, &[]),
        (format!("SELECT meld.sub_create('s', {dsn})"), NOT_READY, &["node_create"]),
        ("SELECT meld.sync_event()".into(), NOT_READY, &["node_create"]),
    ];
    for (sql, sqlstates, texts) in cases {
        refused(node, sql, sqlstates, texts);
    }
    node.batch("SELECT meld.node_drop('n1', ifexists => true)");
    refused(node, "SELECT * FROM meld.node_info()", NOT_READY, &["node_create"]);

    node.batch(&format!("SELECT meld.node_create('n1', {dsn}, location => 'here', country => 'xx', info => '{{}}')"));
    refused(node, &format!("SELECT meld.node_create('n1', {dsn})"), &["42710", "55000"], &["\"n1\""]);
    refused(node, &format!("SELECT meld.node_create('other', {dsn})"), &["42710", "55000"], &["\"n1\""]);
    let cases: &[(String, &[&str], &[&str])] = &[
        (format!("SELECT meld.node_add_interface('n1', NULL, {dsn})"), NULL, &[]),
        (format!("SELECT meld.node_add_interface('n1', '', {dsn})"), BAD_NAME, &[]),
        (format!("SELECT meld.node_add_interface('n1', '{}', {dsn})", "x".repeat(64)), TOO_LONG, &[]),
        (format!("SELECT meld.node_add_interface('no', 'i', {dsn})"), MISSING, &["\"no\""]),
        ("SELECT meld.node_add_interface('n1', 'i', 'bad dsn')".into(), BAD_DSN, &[]),
        (format!("SELECT meld.node_add_interface('n1', 'n1', {dsn})"), DUPLICATE, &["\"n1\""]),
        ("SELECT meld.node_drop_interface('n1', 'no')".into(), MISSING, &["\"no\""]),
        ("SELECT meld.node_drop_interface('no', 'n1')".into(), MISSING, &["\"no\""]),
        ("SELECT meld.node_drop_interface('n1', 'n1')".into(), IN_USE, &[]),
    ];
    for (sql, sqlstates, texts) in cases {
        refused(node, sql, sqlstates, texts);
    }
    node.batch(&format!("SELECT meld.node_add_interface('n1', 'private', {dsn})"));
    node.batch("SELECT meld.node_drop_interface('n1', 'private')");
    node.batch("SELECT meld.node_drop('n1')");
    assert_eq!(node.value::<i64>("SELECT count(*) FROM meld.node"), 0);
    cluster.finish();
}

const TABLES: &str =
    "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE keyless (a int); CREATE VIEW v AS SELECT 1 AS a;
     CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY); CREATE TABLE nothing (id int PRIMARY KEY);
     ALTER TABLE nothing REPLICA IDENTITY NOTHING; CREATE SEQUENCE s; CREATE TEMP TABLE temporary (id int PRIMARY KEY)";

#[test]
fn set_functions_check_their_arguments() {
    let cluster = Plan::new("set_functions", 1).start();
    let node = cluster.node(1);
    mesh::create_node(node);
    let cases: &[(String, &[&str], &[&str])] = &[
        ("SELECT meld.repset_create(NULL)".into(), NULL, &[]),
        ("SELECT meld.repset_create('')".into(), BAD_NAME, &[]),
        (format!("SELECT meld.repset_create('{}')", "x".repeat(64)), TOO_LONG, &[]),
        ("SELECT meld.repset_create('default')".into(), DUPLICATE, &["\"default\""]),
        ("SELECT meld.repset_alter('no', replicate_insert => false)".into(), MISSING, &["\"no\""]),
        ("SELECT meld.repset_alter(NULL)".into(), NULL, &[]),
        ("SELECT meld.repset_drop('no')".into(), MISSING, &["\"no\""]),
        ("SELECT meld.repset_drop(NULL)".into(), NULL, &[]),
        ("SELECT meld.repset_drop('default')".into(), &["55000", "0A000", "42501", "2BP01"], &["\"default\""]),
    ];
    for (sql, sqlstates, texts) in cases {
        refused(node, sql, sqlstates, texts);
    }
    node.batch("SELECT meld.repset_create('mine', replicate_truncate => false); SELECT meld.repset_drop('mine')");
    node.batch("SELECT meld.repset_drop('mine', ifexists => true)");
    cluster.finish();
}

#[test]
fn table_functions_check_their_arguments() {
    let cluster = Plan::new("table_functions", 1).start();
    let node = cluster.node(1);
    mesh::create_node(node);
    node.batch(TABLES);
    node.batch("SELECT meld.repset_add_table('default', 't')");
    let long = "x".repeat(64);
    let cases: &[(String, &[&str], &[&str])] = &[
        ("SELECT meld.repset_add_table('no', 't')".into(), MISSING, &["\"no\""]),
        ("SELECT meld.repset_add_table(NULL, 't')".into(), NULL, &[]),
        ("SELECT meld.repset_add_table('default', NULL)".into(), NULL, &[]),
        ("SELECT meld.repset_add_table('default', 'no')".into(), &["42P01"], &["\"no\""]),
        ("SELECT meld.repset_add_table('default', 't')".into(), DUPLICATE, &["t\"", "\"default\""]),
        (
            "SELECT meld.repset_add_table('default', 'keyless')".into(),
            &["55000", "42P16"],
            &["keyless\"", "primary key"],
        ),
        ("SELECT meld.repset_add_table('default', 'nothing')".into(), &["55000", "42P16"], &["nothing\""]),
        ("SELECT meld.repset_add_table('default', 'v')".into(), &["42809"], &["v\""]),
        ("SELECT meld.repset_add_table('default', 's')".into(), &["42809"], &["s\""]),
        (
            "SELECT meld.repset_add_table('default', 'unlogged')".into(),
            &["42809", "55000", "22023", "42P16"],
            &["unlogged\""],
        ),
        (
            "SELECT meld.repset_add_table('default', 'temporary')".into(),
            &["42809", "55000", "22023", "42P16"],
            &["temporary\""],
        ),
        (
            "SELECT meld.repset_add_table('default', 'pg_class')".into(),
            &["42809", "55000", "22023", "42P16"],
            &["pg_class\""],
        ),
        (
            "SELECT meld.repset_add_table('default', 'meld.node')".into(),
            &["42809", "55000", "22023", "42P16"],
            &["node\""],
        ),
        ("SELECT meld.repset_add_table('ddl_sql', 't', synchronize_data => true)".into(), NOT_YET, &[]),
        ("SELECT meld.repset_add_table('default', 'nothing', columns => '{id}')".into(), NOT_YET, &[]),
        ("SELECT meld.repset_add_table('default', 'nothing', row_filter => 'id > 1')".into(), NOT_YET, &[]),
        ("SELECT meld.repset_add_all_tables('no', '{public}')".into(), MISSING, &["\"no\""]),
        ("SELECT meld.repset_add_all_tables('default', '{no}')".into(), &["3F000"], &["\"no\""]),
        ("SELECT meld.repset_add_all_tables('default', NULL)".into(), NULL, &[]),
        ("SELECT meld.repset_add_all_tables('default', '{NULL}')".into(), NULL, &[]),
        ("SELECT meld.repset_add_all_tables('default', '{public}', synchronize_data => true)".into(), NOT_YET, &[]),
        (format!("SELECT meld.repset_add_all_tables('default', '{{{long}}}')"), &["42622", "3F000"], &[]),
        ("SELECT meld.repset_remove_table('no', 't')".into(), MISSING, &["\"no\""]),
        ("SELECT meld.repset_remove_table('default', 'keyless')".into(), MISSING, &["keyless\"", "\"default\""]),
    ];
    for (sql, sqlstates, texts) in cases {
        refused(node, sql, sqlstates, texts);
    }
    // tables without a key are left out with a notice
    node.batch("SELECT meld.repset_add_all_tables('default', '{public}')");
    let members: Vec<String> = node.values("SELECT set_reloid::text FROM meld.replication_set_table ORDER BY 1");
    assert_eq!(members, ["t"]);
    node.batch("DROP TABLE t");
    assert_eq!(
        node.value::<i64>("SELECT count(*) FROM meld.replication_set_table"),
        0,
        "a dropped table leaves its sets"
    );
    node.batch("SELECT meld.repset_create('mine', replicate_truncate => false); SELECT meld.repset_drop('mine')");
    node.batch("SELECT meld.repset_drop('mine', ifexists => true)");
    cluster.finish();
}

#[test]
fn subscription_functions_check_their_arguments() {
    let cluster = Plan::new("sub_functions", 2).start();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    mesh::create_node(n1);
    let dsn = literal(&n2.dsn());
    // the peer is reachable but no node yet, and says so to the one who asks
    n2.expect_log("schema \"meld\" does not exist");
    n2.expect_log("is not a node of meld");
    refused(n1, &format!("SELECT meld.sub_create('s', {dsn})"), &["55000", "42704", "42883", "3F000"], &[]);
    n2.batch("CREATE EXTENSION meld");
    refused(n1, &format!("SELECT meld.sub_create('s', {dsn})"), &["55000", "42704"], &["node_create"]);
    n2.batch(&format!("SELECT meld.node_create('n2', {dsn}, node_id => 2)"));
    let long = "x".repeat(64);
    let create = |arguments: &str| format!("SELECT meld.sub_create('s', {dsn}, {arguments})");
    let cases: &[(String, &[&str], &[&str])] = &[
        (format!("SELECT meld.sub_create(NULL, {dsn})"), NULL, &[]),
        ("SELECT meld.sub_create('s', NULL)".into(), NULL, &[]),
        (format!("SELECT meld.sub_create('', {dsn})"), BAD_NAME, &[]),
        (format!("SELECT meld.sub_create('{long}', {dsn})"), TOO_LONG, &[]),
        ("SELECT meld.sub_create('s', '')".into(), BAD_DSN, &[]),
        ("SELECT meld.sub_create('s', 'host=''')".into(), BAD_DSN, &[]),
        ("SELECT meld.sub_create('s', 'nonsense=harness-secret-0815')".into(), BAD_DSN, &[]),
        (create("replication_sets => NULL"), NULL, &[]),
        (create("replication_sets => '{default,NULL}'"), NULL, &[]),
        (create("replication_sets => '{\"\"}'"), &["42602", "42704"], &[]),
        (create(&format!("replication_sets => '{{{long}}}'")), &["42622", "42704"], &[]),
        (create("replication_sets => '{no}'"), MISSING, &["\"no\""]),
        (create("forward_origins => '{all}'"), NOT_YET, &[]),
        (create("forward_origins => '{nonsense}'"), &["22023", "0A000"], &[]),
        (create("synchronize_structure => true"), NOT_YET, &[]),
        (create("synchronize_data => true"), NOT_YET, &[]),
        (create("skip_schema => '{x}'"), NOT_YET, &[]),
        (create("apply_delay => '1 s'"), NOT_YET, &[]),
        ("SELECT meld.sub_drop('no')".into(), MISSING, &["\"no\""]),
        ("SELECT meld.sub_drop(NULL)".into(), NULL, &[]),
        ("SELECT meld.sub_enable('no')".into(), MISSING, &["\"no\""]),
        ("SELECT meld.sub_disable('no')".into(), MISSING, &["\"no\""]),
        ("SELECT meld.sub_enable(NULL)".into(), NULL, &[]),
        ("SELECT meld.sub_disable('s', immediate => NULL)".into(), &["22004", "42704"], &[]),
        ("SELECT * FROM meld.sub_show_status('no')".into(), MISSING, &["\"no\""]),
        ("SELECT meld.sub_wait_for_sync('no')".into(), MISSING, &["\"no\""]),
        ("SELECT meld.sub_add_repset('no', 'default')".into(), MISSING, &["\"no\""]),
        ("SELECT meld.sub_remove_repset('no', 'default')".into(), MISSING, &["\"no\""]),
        ("CALL meld.wait_for_sync_event('no', '0/1', 1)".into(), MISSING, &["\"no\""]),
        ("CALL meld.wait_for_sync_event(NULL, '0/1', 1)".into(), NULL, &[]),
        ("CALL meld.wait_for_sync_event('n2', NULL, 1)".into(), NULL, &[]),
        ("CALL meld.wait_for_sync_event('n1', '0/1', -1)".into(), &["22023", "42704", "55000"], &[]),
    ];
    for (sql, sqlstates, texts) in cases {
        refused(n1, sql, sqlstates, texts);
    }
    n1.batch("SELECT meld.sub_drop('no', ifexists => true)");

    cluster.finish();
}

#[test]
fn an_existing_subscription_is_not_made_or_changed_twice() {
    let cluster = Plan::new("sub_exists", 2).start();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    cluster.nodes().iter().for_each(mesh::create_node);
    mesh::subscribe(n1, n2, &n2.dsn());
    mesh::wait_until_replicating(n1, n2);
    let again = literal(&n2.dsn());
    let cases: &[(String, &[&str], &[&str])] = &[
        (format!("SELECT meld.sub_create('n1_n2', {again})"), DUPLICATE, &["\"n1_n2\""]),
        (format!("SELECT meld.sub_create('second', {again})"), &["42710", "55000", "0A000", "22023"], &["\"n2\""]),
        ("SELECT meld.sub_add_repset('n1_n2', 'default')".into(), DUPLICATE, &["\"default\""]),
        ("SELECT meld.sub_add_repset('n1_n2', NULL)".into(), NULL, &[]),
        ("SELECT meld.sub_add_repset('n1_n2', '')".into(), BAD_NAME, &[]),
        ("SELECT meld.sub_remove_repset('n1_n2', 'no')".into(), MISSING, &["\"no\""]),
        ("SELECT meld.node_drop('n1')".into(), IN_USE, &["\"n1_n2\""]),
        ("SELECT meld.node_drop('n2')".into(), IN_USE, &["\"n1_n2\""]),
    ];
    for (sql, sqlstates, texts) in cases {
        refused(n1, sql, sqlstates, texts);
    }
    // an event that nobody has made: the time-out is an error
    let error = n1.error("CALL meld.wait_for_sync_event('n2', 'FFFF/0', 1)");
    judge(&error, "wait_for_sync_event", &["57014", "58000", "57P05", "55000", "25P03", "57000"], &["\"n2\""]);
    cluster.finish();
}

/// Nobody listens, and somebody listens but never answers: the wait is bounded.
#[test]
fn an_unreachable_provider_is_refused_in_time() {
    let cluster = Plan::new("unreachable", 1).start();
    let node = cluster.node(1);
    mesh::create_node(node);
    let silent = TcpListener::bind(("127.0.0.1", 0)).expect("listen");
    let silent_port = silent.local_addr().expect("address").port();
    let closed_port = {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("listen");
        listener.local_addr().expect("address").port()
    };
    for (port, more) in
        [(closed_port, ""), (silent_port, ""), (silent_port, "connect_timeout=1"), (closed_port, "user=x")]
    {
        let dsn = format!("host=127.0.0.1 port={port} dbname={DATABASE} password=harness-secret-0815 {more}");
        let start = Instant::now();
        let sql = format!("SELECT meld.sub_create('s', {})", literal(&dsn));
        let error = refused(node, &sql, UNREACHABLE, &[]);
        assert!(start.elapsed() < Duration::from_secs(30), "{:?} for {error:?}", start.elapsed());
    }
    // the right server, the wrong database or user
    node.expect_log("does not exist");
    for change in ["dbname=nowhere", "user=nobody"] {
        let sql = format!("SELECT meld.sub_create('s', {})", literal(&format!("{} {change}", node.dsn())));
        refused(node, &sql, &["08001", "08006", "3D000", "28000", "28P01"], &[]);
    }
    // a wait for a silent peer can be cancelled
    let dsn = format!("host=127.0.0.1 port={silent_port} dbname={DATABASE}");
    let start = Instant::now();
    let sql = format!("SET statement_timeout = '500ms'; SELECT meld.sub_create('s', {})", literal(&dsn));
    refused(node, &sql, &["57014"], &[]);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    node.batch("RESET statement_timeout");
    cluster.finish();
}

/// A user without rights may look at what holds no secret, and do nothing.
#[test]
fn users_without_rights_are_refused() {
    let cluster = Plan::new("rights", 2).start_mesh();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    mesh::replicate(&cluster, "CREATE TABLE t (id int PRIMARY KEY, v text)");
    n1.batch("CREATE ROLE nobody LOGIN; GRANT ALL ON t TO nobody; GRANT CREATE ON SCHEMA public TO nobody");
    n1.batch("SET ROLE nobody");
    n1.batch("CREATE TABLE own (id int PRIMARY KEY)");
    let dsn = literal(&n2.dsn());
    let calls = [
        format!("SELECT meld.node_create('x', {dsn})"),
        "SELECT meld.node_drop('n1')".into(),
        format!("SELECT meld.node_add_interface('n1', 'x', {dsn})"),
        "SELECT meld.node_drop_interface('n1', 'n1')".into(),
        format!("SELECT meld.sub_create('x', {dsn})"),
        "SELECT meld.sub_drop('n1_n2')".into(),
        "SELECT meld.sub_enable('n1_n2')".into(),
        "SELECT meld.sub_disable('n1_n2')".into(),
        "SELECT meld.sub_add_repset('n1_n2', 'x')".into(),
        "SELECT meld.sub_remove_repset('n1_n2', 'default')".into(),
        "SELECT meld.repset_create('x')".into(),
        "SELECT meld.repset_alter('default', replicate_delete => false)".into(),
        "SELECT meld.repset_drop('default')".into(),
        "SELECT meld.repset_add_table('default', 'own')".into(),
        "SELECT meld.repset_remove_table('default', 't')".into(),
        "SELECT meld.repset_add_all_tables('default', '{public}')".into(),
        "SELECT * FROM meld.node_interface".into(),
        "SELECT * FROM meld.subscription".into(),
        "SELECT * FROM meld.resolutions".into(),
        "DELETE FROM meld.node".into(),
        "INSERT INTO meld.origin VALUES (99, 1, 'x')".into(),
        "UPDATE meld.replication_set SET replicate_delete = false".into(),
    ];
    for sql in &calls {
        let error = n1.error(sql);
        judge(&error, sql, NO_RIGHT, &[]);
    }
    n1.batch("SELECT * FROM meld.node; SELECT * FROM meld.replication_set");
    n1.batch("INSERT INTO t VALUES (1, 'by nobody')");
    n1.batch("RESET ROLE; DROP TABLE own");
    settle::settle(&cluster);
    compare::equal(&cluster);
    cluster.finish();
}

/// Names of every legal kind and length work.
#[test]
fn long_and_strange_names_work() {
    let cluster = Plan::new("names", 2).start();
    let names = ["A node, \"quoted\" & 'so'".to_owned(), "é".repeat(31)];
    for (node, name) in cluster.nodes().iter().zip(&names) {
        node.batch("CREATE EXTENSION meld");
        let sql =
            format!("SELECT meld.node_create({}, {}, node_id => {})", literal(name), literal(&node.dsn()), node.id());
        node.batch(&sql);
    }
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    let [long, strange] = ["s".repeat(62), "Süb $cription'".to_owned()];
    for (node, peer, name) in [(n1, n2, &long), (n2, n1, &strange)] {
        node.batch(&format!("SELECT meld.sub_create({}, {})", literal(name), literal(&peer.dsn())));
        node.batch(&format!("SELECT meld.sub_wait_for_sync({})", literal(name)));
    }
    mesh::replicate(&cluster, "CREATE TABLE t (id int PRIMARY KEY, v text)");
    for (node, peer, name) in [(n1, n2, &names[0]), (n2, n1, &names[1])] {
        node.batch(&format!("INSERT INTO t VALUES ({}, 'x')", node.id()));
        let lsn: String = node.value("SELECT meld.sync_event()::text");
        peer.batch(&format!("CALL meld.wait_for_sync_event({}, '{lsn}', 30)", literal(name)));
    }
    compare::equal(&cluster);
    for node in cluster.nodes() {
        let slot: String = node.value("SELECT slot_name::text FROM pg_replication_slots");
        assert!(slot.starts_with("meld_") && slot.len() <= 63, "{slot}");
    }
    cluster.finish();
}
