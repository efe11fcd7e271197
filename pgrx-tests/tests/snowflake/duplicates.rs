//! Two nodes with one number, one name, or a copy of a node: by every way in, refused on both sides.

use std::process::Command;

use meld_cluster_tests::node::literal;
use meld_cluster_tests::server::Stop;
use meld_cluster_tests::wait::{until_equal, until_value};
use meld_cluster_tests::{Cluster, Node, Plan, fault, log_scan, mesh, settle};

const CHANGED: &str = "snowflake.node of node \"*\" was changed";

/// Sets the number in the configuration file, which nobody checks, and lets the server read it.
fn set_number(node: &Node, number: i32) {
    node.server.configure(&[format!("snowflake.node = {number}")]).expect("configure");
    reload(node);
}

fn reload(node: &Node) {
    node.value::<bool>("SELECT pg_reload_conf()");
}

/// What the subscriber shows of a link: its state and the last error.
fn shown_as(node: &Node, subscription: &str) -> (String, String) {
    let sql = format!("SELECT status, coalesce(last_error, '') FROM meld.sub_show_status('{subscription}')");
    let row = &node.rows(&sql, &[])[0];
    (row.get(0), row.get(1))
}

fn shown(subscriber: &Node, provider: &Node) -> (String, String) {
    shown_as(subscriber, &mesh::subscription(subscriber, provider))
}

#[track_caller]
fn wait_until_down_as(node: &Node, subscription: &str, texts: &[&str]) {
    let is_it = |(status, error): &(String, String)| status == "down" && texts.iter().all(|text| error.contains(text));
    let (_, error) = until_value(&format!("{subscription} to be down"), || shown_as(node, subscription), is_it);
    eprintln!("{} shows of {subscription}: {error}", node.name);
}

#[track_caller]
fn wait_until_down(subscriber: &Node, provider: &Node, texts: &[&str]) {
    wait_until_down_as(subscriber, &mesh::subscription(subscriber, provider), texts);
}

#[track_caller]
fn wait_until_up(subscriber: &Node, provider: &Node) {
    until_equal(&format!("{} with {}", subscriber.name, provider.name), "replicating".to_owned(), || {
        shown(subscriber, provider).0
    });
}

/// Announces what links that are refused write.
fn expect_refusals(cluster: &Cluster) {
    cluster.expect_log("have the same snowflake node number");
    cluster.expect_log("can't be told from known node");
    cluster.expect_log(CHANGED);
    fault::expect_lost_links(cluster);
}

#[track_caller]
fn draw(node: &Node) -> i64 {
    node.value("SELECT snowflake.nextval() & 1023")
}

#[test]
fn a_number_of_a_known_node_is_refused_by_the_setting_and_a_free_one_goes_round() {
    let cluster = Plan::new("number_setting", 2).start_mesh();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    expect_refusals(&cluster);
    mesh::replicate(&cluster, "CREATE TABLE t (id bigint PRIMARY KEY DEFAULT snowflake.nextval(), v text)");
    assert_eq!((draw(n1), draw(n2)), (1, 2));
    let error = n2.error("ALTER SYSTEM SET snowflake.node = 1");
    eprintln!("{}", error.text());
    meld_cluster_tests::refusal::judge(
        &error,
        "ALTER SYSTEM",
        &["22023"],
        &["belongs to node \"n1\"", "meld.node_drop"],
    );
    n2.error("ALTER SYSTEM SET snowflake.node = 1024");
    // past the check, by the file: it keeps what it had, and says so
    set_number(n2, 1);
    until_value(
        "a word in the log",
        || log_scan::entries_with(&n2.server.log, "belongs to node \"n1\"").len(),
        |n| *n > 0,
    );
    assert_eq!(n2.value::<String>("SHOW snowflake.node"), "0");
    assert_eq!((draw(n2), shown(n1, n2).0, shown(n2, n1).0), (2, "replicating".into(), "replicating".into()));
    // a free number: both links are compared anew, and the other node learns it
    set_number(n2, 9);
    until_equal("the number that n1 knows", 9, || {
        n1.value::<i32>("SELECT snowflake_node FROM meld.node WHERE node_id = 2")
    });
    wait_until_up(n1, n2);
    wait_until_up(n2, n1);
    assert_eq!(draw(n2), 9);
    n2.batch("INSERT INTO t (v) VALUES ('nine')");
    settle::settle(&cluster);
    assert_eq!(n1.values::<i32>("SELECT snowflake.get_node(id) FROM t"), [9]);
    // and now it is taken
    until_value("n1 to refuse it", || n1.try_batch("ALTER SYSTEM SET snowflake.node = 9").is_err(), |refused| *refused);
    n1.batch("ALTER SYSTEM RESET snowflake.node");
    cluster.finish();
}

#[test]
fn a_number_that_is_there_at_the_start_pauses_the_links_and_gives_no_ids() {
    let cluster = Plan::new("number_start", 2).start_mesh();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    expect_refusals(&cluster);
    cluster.expect_log("snowflake node number 1 belongs to node");
    n2.server.configure(&["snowflake.node = 1".into()]).expect("configure");
    fault::restart(n2);
    wait_until_down(n1, n2, &["\"n1\" and \"n2\"", "snowflake node number"]);
    wait_until_down(n2, n1, &["\"n1\"", "\"n2\"", "snowflake node number"]);
    let error = n2.error("SELECT snowflake.nextval()");
    eprintln!("{}", error.text());
    meld_cluster_tests::refusal::judge(&error, "nextval", &["42710"], &["number 1 belongs to node \"n1\""]);
    assert_eq!(draw(n1), 1);
    set_number(n2, 0);
    wait_until_up(n1, n2);
    wait_until_up(n2, n1);
    assert_eq!(draw(n2), 2);
    cluster.finish();
}

/// The second node can't know of the third, but the first knows both.
#[test]
fn a_number_of_a_node_that_only_the_peer_knows_pauses_the_links() {
    let cluster = Plan::new("number_third", 3).start();
    let [n1, n2, n3] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    expect_refusals(&cluster);
    cluster.nodes().iter().for_each(mesh::create_node);
    for (subscriber, provider) in [(n1, n2), (n2, n1), (n1, n3), (n3, n1)] {
        mesh::subscribe(subscriber, provider, &provider.dsn());
        mesh::wait_until_replicating(subscriber, provider);
    }
    set_number(n2, 3);
    wait_until_down(n1, n2, &["\"n2\"", "\"n3\"", "snowflake node number"]);
    wait_until_down(n2, n1, &["\"n2\"", "\"n3\"", "snowflake node number"]);
    assert_eq!((shown(n1, n3).0, shown(n3, n1).0), ("replicating".into(), "replicating".into()));
    set_number(n2, 0);
    wait_until_up(n1, n2);
    wait_until_up(n2, n1);
    cluster.finish();
}

#[test]
fn numbers_are_compared_when_a_subscription_is_made() {
    let cluster = Plan::new("number_create", 2).start();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n2.server.configure(&["snowflake.node = 1".into()]).expect("configure");
    reload(n2);
    until_equal("the setting", "1".to_owned(), || n2.value("SHOW snowflake.node"));
    cluster.nodes().iter().for_each(mesh::create_node);
    for (subscriber, provider) in [(n1, n2), (n2, n1)] {
        let sql = format!("SELECT meld.sub_create('s', {})", literal(&provider.dsn()));
        let texts = ["\"n1\"", "\"n2\"", "snowflake node number"];
        let error = meld_cluster_tests::refusal::refused(subscriber, &sql, &["42710"], &texts);
        eprintln!("{}", error.text());
    }
    cluster.finish();
}

/// The provider of a link that stands becomes another node, with the name and the number of the subscriber.
#[test]
fn a_provider_that_took_the_subscribers_name_or_number_is_refused_at_the_next_connect() {
    let cluster = Plan::new("renamed", 2).start();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    fault::expect_lost_links(&cluster);
    cluster.expect_log("have the same");
    cluster.expect_log("was expected");
    cluster.nodes().iter().for_each(mesh::create_node);
    mesh::subscribe(n1, n2, &n2.dsn());
    mesh::wait_until_replicating(n1, n2);
    for (name, id, text) in [("n1", 2, "same name"), ("n2", 1, "same node id"), ("n3", 3, "was expected")] {
        let old: String = n2.value("SELECT node_name::text FROM meld.node_info()");
        n2.batch(&format!("SELECT meld.node_drop('{old}')"));
        n2.batch(&format!("SELECT meld.node_create('{name}', {}, node_id => {id})", literal(&n2.dsn())));
        fault::restart(n2);
        wait_until_down(n1, n2, &[text]);
        if id != 3 {
            let sql = format!("SELECT meld.sub_create('s', {})", literal(&n1.dsn()));
            meld_cluster_tests::refusal::refused(n2, &sql, &["42710"], &[text]);
        }
    }
    cluster.finish();
}

/// Makes the third server a copy of the second, slots and all, and starts both.
fn clone_second_to_third(cluster: &Cluster) {
    let [n2, n3] = [cluster.node(2), cluster.node(3)];
    for node in [n2, n3] {
        node.forget_session();
        node.server.stop(Stop::Fast).expect("stop");
    }
    std::fs::remove_dir_all(&n3.server.data).expect("remove");
    let copied = Command::new("cp").arg("-a").arg(&n2.server.data).arg(&n3.server.data).status().expect("cp");
    assert!(copied.success());
    n3.server.configure(&[format!("port = {}", n3.server.port())]).expect("configure");
    n2.server.start().expect("start");
    n3.server.start().expect("start");
}

#[test]
fn a_copy_of_a_server_is_refused_while_the_original_runs() {
    let cluster = Plan::new("clone", 3).start();
    let [n1, n2, copy] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    fault::expect_lost_links(&cluster);
    cluster.expect_log("this server is a copy of the one that node \"n2\" runs on");
    cluster.expect_log("runs on another server than the one that connects as it");
    [n1, n2].into_iter().for_each(mesh::create_node);
    for (subscriber, provider) in [(n1, n2), (n2, n1)] {
        mesh::subscribe(subscriber, provider, &provider.dsn());
        mesh::wait_until_replicating(subscriber, provider);
    }
    for node in [n1, n2] {
        node.batch("CREATE TABLE t (id bigint PRIMARY KEY DEFAULT snowflake.nextval(), v text)");
        node.batch("SELECT meld.repset_add_table('default', 't')");
    }
    clone_second_to_third(&cluster);
    // the copy finds out by itself, and tells nobody that it is a node
    wait_until_down_as(copy, "n2_n1", &["copy of the one that node \"n2\" runs on"]);
    let error = copy.error("SELECT snowflake.nextval()");
    eprintln!("{}", error.text());
    meld_cluster_tests::refusal::judge(&error, "nextval", &["42710"], &["\"n2\"", "own connection string"]);
    let sql = format!("SELECT meld.sub_create('again', {})", literal(&n1.dsn()));
    eprintln!(
        "{}",
        meld_cluster_tests::refusal::refused(copy, &sql, &["42710"], &["copy of the one that node"]).text()
    );
    // the others refuse it, from either side
    let sql = format!("SELECT meld.sub_create('again', {})", literal(&copy.dsn()));
    eprintln!("{}", meld_cluster_tests::refusal::refused(n1, &sql, &["42710"], &["copy of the one that node"]).text());
    let run: i64 = copy.value("SELECT meld.server_run()");
    let error = n1.error(&format!("SELECT meld.admit(2, 'n2', {run})"));
    eprintln!("{}", error.text());
    meld_cluster_tests::refusal::judge(&error, "admit", &["42710"], &["\"n2\"", "another server"]);
    // the original and its peer go on
    wait_until_up(n1, n2);
    wait_until_up(n2, n1);
    n2.batch("INSERT INTO t (v) VALUES ('original')");
    settle::settle_link(n2, n1);
    assert_eq!(n1.values::<String>("SELECT v FROM t"), ["original"]);
    // with the original gone for good, the copy takes its place once the connection string leads to it
    n2.forget_session();
    n2.server.stop(Stop::Fast).expect("stop");
    for node in [n1, copy] {
        node.execute("UPDATE meld.node_interface SET if_dsn = $1 WHERE if_nodeid = 2", &[&copy.dsn()]);
    }
    wait_until_up_as(copy, "n2_n1");
    assert_eq!(draw(copy), 2);
    cluster.finish();
}

#[track_caller]
fn wait_until_up_as(node: &Node, subscription: &str) {
    until_equal(subscription, "replicating".to_owned(), || {
        node.value(&format!("SELECT status FROM meld.sub_show_status('{subscription}')"))
    });
}
