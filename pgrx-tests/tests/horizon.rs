//! Horizons, and what is forgotten by them.

use meld_cluster_tests::proxy::Damage;
use meld_cluster_tests::wait::{self, DEADLINE, Look};
use meld_cluster_tests::{Cluster, Node, Plan, compare, fault, mesh, settle, stamps};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

/// Microseconds since 2000, of a time that a node shows about a node.
fn shown(node: &Node, about: &Node, what: &str) -> i64 {
    let sql = format!(
        "SELECT coalesce((extract(epoch FROM {what}) * 1000000)::bigint, 0) FROM meld.cluster_status \
         WHERE node_name = '{}'",
        about.name
    );
    node.value(&sql)
}

/// Waits until a time that a node shows about another has passed the clock of this moment.
#[track_caller]
fn wait_until_passed(node: &Node, about: &Node, what: &str) {
    let now: i64 = node.value("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint");
    let name = format!("{what} of {} at {} to pass {now}", about.name, node.name);
    wait::until_value(&name, || shown(node, about, what), |shown| *shown > now);
}

fn tombstones(node: &Node) -> i64 {
    stamps::tombstones(node, None)
}

#[track_caller]
fn wait_until_forgotten(cluster: &Cluster) {
    for node in cluster.nodes() {
        wait::until_equal(&format!("tombstones of {}", node.name), 0, || tombstones(node));
    }
}

/// Every node has heard from every other since now, so that what was deleted before could be forgotten.
#[track_caller]
fn wait_for_two_rounds(nodes: &[&Node]) {
    for _ in 0..2 {
        for node in nodes {
            for about in nodes.iter().filter(|about| about.place != node.place) {
                wait_until_passed(node, about, "promise");
            }
        }
    }
}

#[test]
fn an_idle_cluster_moves_on() {
    let cluster = Plan::new("horizon_idle", 3).start_mesh();
    for _ in 0..2 {
        for (node, about) in cluster.links() {
            wait_until_passed(node, about, "promise");
            wait_until_passed(node, about, "horizon");
            wait_until_passed(node, about, "last_heartbeat");
            wait_until_passed(node, node, "horizon");
        }
    }
    for (node, about) in cluster.links() {
        let ahead: i64 = node.value(&format!(
            "SELECT count(*) FROM meld.cluster_status WHERE node_name = '{}' AND (horizon > promise OR promise > clock_timestamp())",
            about.name
        ));
        assert_eq!(ahead, 0);
    }
    let links: Vec<String> = cluster.node(1).values("SELECT link_state FROM meld.cluster_status WHERE NOT is_local");
    assert_eq!(links, ["replicating", "replicating"]);
    cluster.finish();
}

#[test]
fn what_all_have_confirmed_is_forgotten() {
    let cluster = Plan::new("horizon_forget", 3).start_mesh();
    mesh::replicate(&cluster, TABLE);
    let n1 = cluster.node(1);
    n1.batch("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 30000) i");
    settle::settle(&cluster);
    cluster.node(2).batch("DELETE FROM t WHERE id % 3 = 0");
    n1.batch("DELETE FROM t WHERE id % 3 = 1");
    settle::settle(&cluster);
    wait_until_forgotten(&cluster);
    cluster.node(3).batch("TRUNCATE t");
    settle::settle(&cluster);
    wait_until_forgotten(&cluster);
    compare::equal(&cluster);
    cluster.finish();
}

/// Deletes with one node not hearing of it, and waits until the others have heard from each other for long enough.
#[track_caller]
fn delete_without(cluster: &Cluster, away: usize, ids: &str) {
    let present: Vec<&Node> = cluster.nodes().iter().filter(|node| node.place != away).collect();
    let [one, other] = present[..] else { panic!("three nodes") };
    one.batch(&format!("DELETE FROM t WHERE id IN ({ids})"));
    settle::settle_link(one, other);
    let kept = [tombstones(one), tombstones(other)];
    assert!(kept[0] > 0 && kept[1] > 0, "{kept:?}");
    wait_for_two_rounds(&present);
    // a collection is due every other second
    let pause: i64 = one.value("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + 5000000");
    wait::until_value("some rounds of collection", || shown(one, one, "promise"), |promise| *promise > pause);
    assert_eq!([tombstones(one), tombstones(other)], kept, "forgot what n{away} has not confirmed");
}

#[test]
fn nothing_is_forgotten_while_a_node_is_down() {
    let cluster = Plan::new("horizon_down", 3).start_mesh();
    fault::expect_lost_links(&cluster);
    mesh::replicate(&cluster, TABLE);
    let n3 = cluster.node(3);
    cluster.node(1).batch("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 10) i");
    settle::settle(&cluster);
    fault::kill_postmaster(n3);
    delete_without(&cluster, 3, "1, 2");
    let holding: Vec<String> =
        cluster.node(1).values("SELECT node_name::text FROM meld.cluster_status WHERE holds_back");
    assert_eq!(holding, ["n3"]);
    fault::start(n3);
    settle::settle(&cluster);
    wait_until_forgotten(&cluster);
    compare::equal(&cluster);
    cluster.finish();
}

#[test]
fn nothing_is_forgotten_while_one_link_is_cut() {
    let cluster = Plan::new("horizon_cut", 3).start();
    let links = mesh::Proxied::connect_all(&cluster);
    fault::expect_lost_links(&cluster);
    mesh::replicate(&cluster, TABLE);
    let (n1, n3) = (cluster.node(1), cluster.node(3));
    n1.batch("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 10) i");
    settle::settle(&cluster);
    // n3 does not hear of n1's delete; it and all others hear of everything else
    links.between(n3, n1).set(Damage::Refuse);
    n3.batch("UPDATE t SET v = 'y' WHERE id = 3");
    delete_without(&cluster, 3, "1, 2");
    links.heal();
    settle::settle(&cluster);
    wait_until_forgotten(&cluster);
    compare::equal(&cluster);
    cluster.finish();
}

/// A node that is killed has announced nothing that its recovery takes back: what the others forgot it knows.
#[test]
fn a_crash_takes_no_announcement_back() {
    let cluster = Plan::new("horizon_crash", 3).start_mesh();
    fault::expect_lost_links(&cluster);
    mesh::replicate(&cluster, TABLE);
    let [n1, n2, n3] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    for round in 0..3 {
        n1.batch("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 2000) i ON CONFLICT DO NOTHING");
        settle::settle(&cluster);
        n1.batch(&format!("DELETE FROM t WHERE id % 3 = {round}"));
        n2.batch(&format!("UPDATE t SET v = v || '.' WHERE id % 5 = {round}"));
        wait::until_equal("the first to be forgotten", 0, || tombstones(n2));
        let said = shown(n1, n3, "horizon");
        fault::kill_postmaster(n3);
        fault::start(n3);
        settle::settle(&cluster);
        compare::equal(&cluster);
        wait_until_passed(n1, n3, "horizon");
        assert!(shown(n1, n3, "horizon") >= said);
        wait_until_forgotten(&cluster);
    }
    cluster.finish();
}

/// Both sides refuse a node that was away for too long, until it is set up anew.
#[test]
fn a_node_that_was_away_for_too_long_is_refused() {
    let cluster = Plan::new("horizon_refusal", 3).setting("meld.tombstone_retention = '8s'").start_mesh();
    fault::expect_lost_links(&cluster);
    cluster.expect_log("was away for so long");
    mesh::replicate(&cluster, TABLE);
    let [n1, n2, n3] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    n1.batch("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 10) i");
    settle::settle(&cluster);
    n3.forget_session();
    n3.server.stop(meld_cluster_tests::server::Stop::Fast).expect("stop");
    n1.batch("DELETE FROM t WHERE id = 1");
    settle::settle_link(n1, n2);
    for node in [n1, n2] {
        let left_behind = || node.value::<i64>("SELECT count(*) FROM meld.left_behind");
        wait::until_equal(&format!("nodes left behind at {}", node.name), 1, left_behind);
        wait::until_equal(&format!("tombstones of {}", node.name), 0, || tombstones(node));
        let left: Vec<String> = node.values("SELECT node_name::text FROM meld.cluster_status WHERE is_left_behind");
        assert_eq!(left, ["n3"]);
    }
    fault::start(n3);
    for (subscriber, provider) in [(n1, n3), (n2, n3), (n3, n1), (n3, n2)] {
        let name = mesh::subscription(subscriber, provider);
        let words = wait::until(&format!("{name} to be refused"), DEADLINE, || {
            let sql = format!("SELECT last_sqlstate, last_error FROM meld.sub_show_status('{name}')");
            let row = &subscriber.rows(&sql, &[])[0];
            let (sqlstate, error): (Option<String>, Option<String>) = (row.get(0), row.get(1));
            match (sqlstate.as_deref(), error) {
                (Some("55000"), Some(error)) => Look::Done(error),
                other => Look::Seen(format!("{other:?}")),
            }
        });
        let present = if subscriber.place == 3 { provider } else { subscriber };
        assert!(words.contains("\"n3\"") && words.contains(&format!("\"{}\"", present.name)), "{words}");
    }
    // the two that stayed go on, and forget without it
    n2.batch("DELETE FROM t WHERE id = 2");
    settle::settle_link(n2, n1);
    for node in [n1, n2] {
        wait::until_equal(&format!("tombstones of {}", node.name), 0, || tombstones(node));
    }
    // dropping the subscription is the way out
    n1.batch("SELECT meld.sub_drop('n1_n3')");
    let left: i64 = n1.value("SELECT count(*) FROM meld.left_behind");
    assert_eq!(left, 0);
    cluster.finish();
}

/// A pause of one link that is shorter than the retention leaves nobody behind, nor does a long one without deletes.
#[test]
fn who_has_missed_nothing_is_let_in() {
    let cluster = Plan::new("horizon_missed", 2).setting("meld.tombstone_retention = '5s'").start_mesh();
    fault::expect_lost_links(&cluster);
    mesh::replicate(&cluster, TABLE);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 10) i");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    let past: i64 = n1.value("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + 8000000");
    let now = || n1.value::<i64>("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint");
    wait::until_value("the retention to be over", now, |now| *now > past);
    mesh::reconnect(&cluster);
    n2.batch("DELETE FROM t WHERE id = 1");
    settle::settle(&cluster);
    wait_until_forgotten(&cluster);
    compare::equal(&cluster);
    cluster.finish();
}
