//! What is dropped leaves nothing: no slots, no workers, no connections.

use meld_cluster_tests::server::processes_in;
use meld_cluster_tests::wait::until_equal;
use meld_cluster_tests::{Cluster, Node, Plan, compare, fault, mesh, settle};

fn slots(node: &Node) -> i64 {
    node.value("SELECT count(*) FROM pg_replication_slots")
}

/// Sessions of replication, and workers of the extension for one database.
fn processes(node: &Node) -> Vec<String> {
    let all = processes_in(&node.server.data).into_iter().map(|process| process.title);
    all.filter(|title| title.starts_with("postgres: ") && title.contains("meld") && !title.contains("supervisor"))
        .collect()
}

fn start(name: &str, nodes: usize) -> Cluster {
    let cluster = Plan::new(name, nodes).start_mesh();
    mesh::replicate(&cluster, "CREATE TABLE t (id int PRIMARY KEY, v text)");
    cluster.node(1).batch("INSERT INTO t VALUES (1, 'x')");
    settle::settle(&cluster);
    cluster
}

#[test]
fn a_dropped_subscription_leaves_no_slot_and_no_worker() {
    let cluster = start("drop_sub", 2);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("SELECT meld.sub_drop('n1_n2')");
    until_equal("slots on n2", 0, || slots(n2));
    assert_eq!(slots(n1), 1, "the other direction stays");
    assert_eq!(n1.value::<i64>("SELECT count(*) FROM meld.subscription"), 0);
    n1.batch("INSERT INTO t VALUES (2, 'one way')");
    settle::settle_link(n1, n2);
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM t"), 2);
    n2.batch("INSERT INTO t VALUES (3, 'not this way')");

    // stamps of rows that came by the dropped subscription are still known
    let unknown: i64 = n2.value(
        "SELECT count(*) FROM t, pg_xact_commit_timestamp_origin(t.xmin) s
        WHERE s.roident <> 0 AND NOT EXISTS (SELECT FROM meld.origin o WHERE o.roident = s.roident)",
    );
    assert_eq!(unknown, 0);

    // the same name again starts from now on
    mesh::subscribe(n1, n2, &n2.dsn());
    mesh::wait_until_replicating(n1, n2);
    n2.batch("INSERT INTO t VALUES (4, 'again')");
    settle::settle(&cluster);
    assert_eq!(n1.value::<String>("SELECT string_agg(id::text, ' ' ORDER BY id) FROM t"), "1 2 4");

    // a subscription that is disabled, and one whose provider is down
    n2.batch("SELECT meld.sub_disable('n2_n1')");
    n2.batch("SELECT meld.sub_drop('n2_n1')");
    until_equal("slots on n1", 0, || slots(n1));
    n2.server.stop(meld_cluster_tests::server::Stop::Fast).expect("stop");
    fault::expect_lost_links(&cluster);
    n2.forget_session();
    n1.expect_log("could not drop");
    n1.batch("SELECT meld.sub_drop('n1_n2')");
    assert_eq!(n1.value::<i64>("SELECT count(*) FROM meld.subscription"), 0);
    until_equal("processes on n1", 0, || processes(n1).iter().filter(|title| title.contains("n1_n2")).count());
    cluster.finish();
}

#[test]
fn a_dropped_node_leaves_nothing_and_can_be_made_again() {
    let cluster = start("drop_node", 2);
    for node in cluster.nodes() {
        node.batch("SELECT meld.sub_drop(sub_name) FROM meld.subscription");
    }
    for node in cluster.nodes() {
        node.batch(&format!("SELECT meld.node_drop('{}')", node.name));
        until_equal("slots", 0, || slots(node));
        until_equal("processes", Vec::<String>::new(), || processes(node));
        assert_eq!(
            node.value::<i64>("SELECT count(*) FROM meld.node WHERE node_id = (SELECT node_id FROM meld.local_node)"),
            0
        );
        node.batch("DROP EXTENSION meld");
        // a schema that CREATE EXTENSION made for the extension is no member of it, and stays
        let left: i64 = node
            .value("SELECT count(*) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'meld'");
        assert_eq!(left, 0);
    }
    mesh::connect_all(&cluster);
    cluster.batch("SELECT meld.repset_add_all_tables('default', '{public}')");
    cluster.node(2).batch("INSERT INTO t VALUES (2, 'second life')");
    cluster.node(1).batch("INSERT INTO t VALUES (3, 'second life')");
    settle::settle(&cluster);
    compare::compare(&cluster.nodes().iter().collect::<Vec<_>>(), None, compare::Aspect::Rows).expect("equal rows");
    cluster.finish();
}

/// Dropped with all its subscriptions at work: workers end, the server and the peers stay up.
#[test]
fn a_dropped_extension_takes_its_workers_along() {
    let cluster = start("drop_extension", 3);
    let [n1, n2, n3] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    fault::expect_lost_links(&cluster);
    n1.batch("SELECT meld.sub_drop(sub_name) FROM meld.subscription");
    for node in [n2, n3] {
        node.batch(&format!("SELECT meld.sub_drop('{}_n1')", node.name));
    }
    n1.batch("DROP EXTENSION meld CASCADE");
    until_equal("processes", Vec::<String>::new(), || processes(n1));
    until_equal("slots", 0, || slots(n1));
    n2.batch("INSERT INTO t VALUES (2, 'without n1')");
    settle::settle_link(n2, n3);
    assert_eq!(n3.value::<i64>("SELECT count(*) FROM t"), 2);
    cluster.finish();
}

#[test]
fn a_database_with_workers_can_be_dropped() {
    let cluster = start("drop_database", 2);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    fault::expect_lost_links(&cluster);
    n1.batch("SELECT meld.sub_drop('n1_n2')");
    n2.batch("SELECT meld.sub_drop('n2_n1')");
    n1.forget_session();
    let mut client = n1.server.connect("postgres").expect("connect");
    client.batch_execute("DROP DATABASE app WITH (FORCE)").expect("drop");
    until_equal("processes", Vec::<String>::new(), || processes(n1));
    client.batch_execute("CREATE DATABASE app").expect("create");
    cluster.finish();
}
