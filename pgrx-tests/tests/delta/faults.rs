//! Counters over crashes, and out of range.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use meld_cluster_tests::{Cluster, Node, fault, mesh, settle, wait};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::sums::{counters, start};

/// What every writer adds stands in a table of its node as well, written by the same transaction: that is what was
/// committed, whether anybody was told or not.
const LEDGER: &str = "CREATE SCHEMA harness; CREATE TABLE harness.ledger (id int, amount int)";

fn write_until(node: &Node, stop: &AtomicBool, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed.wrapping_add(node.place as u64));
    let mut client = None;
    while !stop.load(Ordering::Relaxed) {
        let (id, amount) = (random.random_range(1..4), random.random_range(-5..20));
        let sql = format!(
            "BEGIN; UPDATE t SET v = 'n{}', n = n + {amount} WHERE id = {id}; INSERT INTO harness.ledger VALUES ({id}, {amount}); COMMIT",
            node.place
        );
        client = client.or_else(|| node.server.connect(meld_cluster_tests::node::DATABASE).ok());
        match client.as_mut().map(|session| session.batch_execute(&sql)) {
            Some(Ok(())) => {}
            // the server is down, or apply has won a deadlock
            Some(Err(_)) | None => client = None,
        }
    }
}

#[test]
fn nothing_is_lost_or_counted_twice_over_kill_9() {
    let cluster = start("delta_kill", 3);
    fault::expect_lost_links(&cluster);
    cluster.expect_log("deadlock detected");
    cluster.batch(LEDGER);
    cluster.node(1).batch("INSERT INTO t SELECT g, 'start', 100 FROM generate_series(1, 3) g");
    settle::settle(&cluster);
    let seed: u64 = std::env::var("MELD_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("MELD_SEED={seed}");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for node in cluster.nodes() {
            let stop = &stop;
            scope.spawn(move || write_until(node, stop, seed));
        }
        let faults = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for node in cluster.nodes() {
                wait_for_writes(&cluster);
                fault::kill_postmaster(node);
                fault::start(node);
            }
            wait_for_writes(&cluster);
        }));
        stop.store(true, Ordering::Relaxed);
        faults.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let added = |id: i32| -> i64 {
        let sql = format!("SELECT coalesce(sum(amount), 0) FROM harness.ledger WHERE id = {id}");
        cluster.nodes().iter().map(|node| node.value::<i64>(&sql)).sum()
    };
    let wanted = format!("1:{} 2:{} 3:{}", 100 + added(1), 100 + added(2), 100 + added(3));
    assert_eq!(counters(&cluster), wanted, "seed {seed}");
    cluster.finish();
}

/// Every node has committed some more.
fn wait_for_writes(cluster: &Cluster) {
    for node in cluster.nodes() {
        let count = || node.try_value::<i64>("SELECT count(*) FROM harness.ledger").unwrap_or(0);
        let before = count();
        wait::until_value("more writes", count, |now| *now >= before + 30);
    }
}

#[test]
fn a_counter_out_of_range_is_an_exception_and_loses_nothing() {
    let cluster = start("delta_range", 2);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("INSERT INTO t VALUES (1, 'start', 0)");
    settle::settle(&cluster);
    cluster.expect_log("counter is out of the range");
    cluster.expect_log("was parked as");
    mesh::disconnect(&cluster);
    n1.batch("UPDATE t SET n = n + 2000000000");
    n2.batch("UPDATE t SET n = n + 2000000000");
    mesh::reconnect(&cluster);
    settle::settle(&cluster);
    for node in cluster.nodes() {
        assert_eq!(node.values::<String>("SELECT sqlstate FROM meld.parked_transaction"), ["22003"], "{}", node.name);
        assert_eq!(node.value::<i32>("SELECT n FROM t"), 2_000_000_000);
    }
    // each makes room for what the other has added, and all of it counts
    n1.batch("UPDATE t SET n = n - 1999999990");
    n2.batch("UPDATE t SET n = n - 10");
    settle::settle(&cluster);
    for node in cluster.nodes() {
        assert_eq!(node.value::<i64>("SELECT replayed FROM meld.parked_replay()"), 1, "{}", node.name);
    }
    assert_eq!(counters(&cluster), "1:2000000000");
    cluster.finish();
}
