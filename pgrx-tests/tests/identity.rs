//! Two nodes with one name, one number or one database never meet, and wrong settings are named all at once.

use meld_cluster_tests::node::literal;
use meld_cluster_tests::refusal::refused;
use meld_cluster_tests::{Node, Plan, mesh};

const CLASH: &[&str] = &["42710", "55000", "22023"];

#[track_caller]
fn create(node: &Node, name: &str, id: i32) {
    node.batch("CREATE EXTENSION meld");
    node.batch(&format!("SELECT meld.node_create({}, {}, node_id => {id})", literal(name), literal(&node.dsn())));
}

/// Each of the two refuses the other, and the refusal names both.
#[track_caller]
fn both_refuse(a: &Node, b: &Node, texts: &[&str]) {
    for (subscriber, provider) in [(a, b), (b, a)] {
        let sql = format!("SELECT meld.sub_create('s', {})", literal(&provider.dsn()));
        let error = refused(subscriber, &sql, CLASH, texts);
        eprintln!("{error:#?}");
    }
}

#[test]
fn one_name_twice_is_refused() {
    let cluster = Plan::new("same_name", 2).start();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    create(n1, "twin", 1);
    create(n2, "twin", 2);
    both_refuse(n1, n2, &["\"twin\"", "name"]);
    cluster.finish();
}

#[test]
fn one_number_twice_is_refused() {
    let cluster = Plan::new("same_id", 2).start();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    create(n1, "one", 7);
    create(n2, "two", 7);
    both_refuse(n1, n2, &["\"one\"", "\"two\"", "7"]);
    cluster.finish();
}

#[test]
fn a_copy_of_a_server_is_refused() {
    let cluster = Plan::new("copy", 2).alike().start();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    create(n1, "one", 1);
    create(n2, "two", 2);
    both_refuse(n1, n2, &["\"one\"", "\"two\""]);
    cluster.finish();
}

#[test]
fn a_node_does_not_subscribe_to_itself() {
    let cluster = Plan::new("itself", 1).start();
    let node = cluster.node(1);
    create(node, "one", 1);
    refused(node, &format!("SELECT meld.sub_create('s', {})", literal(&node.dsn())), CLASH, &["\"one\""]);
    cluster.finish();
}

/// Of three nodes, the third has the name or the number of the first; the second, which knows both, refuses it.
#[test]
fn a_third_node_with_a_known_name_or_number_is_refused() {
    let cluster = Plan::new("third", 3).start();
    let [n1, n2, n3] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    create(n1, "n1", 1);
    create(n2, "n2", 2);
    mesh::subscribe(n2, n1, &n1.dsn());
    mesh::wait_until_replicating(n2, n1);
    create(n3, "n1", 3);
    let sql = format!("SELECT meld.sub_create('s', {})", literal(&n3.dsn()));
    refused(n2, &sql, CLASH, &["\"n1\""]);
    n3.batch(&format!(
        "SELECT meld.node_drop('n1'); SELECT meld.node_create('n3', {}, node_id => 1)",
        literal(&n3.dsn())
    ));
    refused(n2, &sql, CLASH, &["\"n1\"", "\"n3\"", "1"]);
    cluster.finish();
}

#[test]
fn numbers_are_taken_from_the_argument_the_setting_or_the_name() {
    let cluster = Plan::new("numbers", 2).start();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("CREATE EXTENSION meld");
    n1.batch("ALTER SYSTEM SET snowflake.node = 77");
    n1.value::<bool>("SELECT pg_reload_conf()");
    meld_cluster_tests::wait::until_equal("snowflake.node", "77".to_owned(), || n1.value("SHOW snowflake.node"));
    assert_eq!(n1.value::<i32>(&format!("SELECT meld.node_create('a', {})", literal(&n1.dsn()))), 77);
    n2.batch("CREATE EXTENSION meld");
    let id: i32 = n2.value(&format!("SELECT meld.node_create('b', {})", literal(&n2.dsn())));
    assert!((1..=1023).contains(&id));
    n2.batch("SELECT meld.node_drop('b')");
    assert_eq!(
        n2.value::<i32>(&format!("SELECT meld.node_create('b', {})", literal(&n2.dsn()))),
        id,
        "derived from the name"
    );
    cluster.finish();
}

#[test]
fn wrong_settings_are_named_all_at_once() {
    let cluster = Plan::new("settings", 1)
        .setting("shared_preload_libraries = ''")
        .setting("wal_level = replica")
        .setting("track_commit_timestamp = off")
        .setting("max_replication_slots = 0")
        .setting("max_wal_senders = 0")
        .setting("max_worker_processes = 1")
        .start();
    let node = cluster.node(1);
    let knows: bool = node.value("SELECT count(*) > 0 FROM pg_settings WHERE name = 'output_plugin_libraries'");
    if knows {
        node.server.configure(&["output_plugin_libraries = 'pgoutput'".into()]).expect("configure");
        meld_cluster_tests::fault::restart(node);
    }
    node.batch("CREATE EXTENSION meld");
    let sql = format!("SELECT meld.node_create('n1', {})", literal(&node.dsn()));
    let mut texts = vec![
        "wal_level = logical",
        "track_commit_timestamp = on",
        "shared_preload_libraries = 'meld'",
        "max_replication_slots = ",
        "max_wal_senders = ",
        "max_worker_processes = ",
        "postgresql.conf",
    ];
    if knows {
        texts.push("output_plugin_libraries = '");
    }
    let error = refused(node, &sql, &["55000"], &texts);
    eprintln!("{error:#?}");

    // the lines of the error, put into the configuration as they stand, are right
    let is_line = |line: &&str| {
        texts.iter().any(|text| line.trim().starts_with(text.split(" =").next().unwrap_or(text)) && line.contains('='))
    };
    let text = error.text();
    let lines: Vec<String> = text.lines().filter(is_line).map(|line| line.trim().to_owned()).collect();
    assert!(lines.len() >= texts.len() - 1, "{lines:?}");
    node.server.configure(&lines).expect("configure");
    meld_cluster_tests::fault::restart(node);
    node.batch(&sql);
    cluster.finish();
}
