//! Local transactions that fight apply for the same rows: what passes by itself is tried again for ever, and never parked.

use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;

use meld_cluster_tests::{Plan, compare, mesh, settle};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const ROWS: i32 = 6;
const SESSIONS: u64 = 3;
const STEPS: u64 = 150;

#[test]
fn deadlocks_and_lock_timeouts_park_nothing() {
    let cluster =
        Plan::new("storm", 2).setting("deadlock_timeout = '10ms'").setting("meld.exception_retries = 0").start_mesh();
    ["deadlock detected", "canceling statement due to lock timeout", "exited with exit code 1"]
        .into_iter()
        .for_each(|words| cluster.expect_log(words));
    mesh::replicate(&cluster, "CREATE TABLE t (id int PRIMARY KEY, v text, n int NOT NULL)");
    cluster.batch("SELECT meld.delta_add_column('t', 'n')");
    cluster.node(1).batch(&format!("INSERT INTO t SELECT i, '', 0 FROM generate_series(1, {ROWS}) i"));
    settle::settle(&cluster);
    let seed: u64 = std::env::var("MELD_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("MELD_SEED={seed}");
    let (added, failed) = (AtomicI64::new(0), AtomicI64::new(0));
    thread::scope(|scope| {
        for (node, session) in cluster.nodes().iter().flat_map(|node| (0..SESSIONS).map(move |s| (node, s))) {
            let (added, failed) = (&added, &failed);
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(seed.wrapping_add(node.place as u64 * 100 + session));
                let mut client = node.client();
                if session == 0 {
                    client.batch_execute("SET lock_timeout = '2ms'").expect("a setting");
                }
                for step in 0..STEPS {
                    // three rows in any order: whoever takes them the other way round is in a deadlock with this one
                    let update = |id: i32| {
                        format!("UPDATE t SET n = n + 1, v = '{} {session} {step}' WHERE id = {id};", node.name)
                    };
                    let updates: String = (0..3).map(|_| update(random.random_range(1..=ROWS))).collect();
                    match client.batch_execute(&format!("BEGIN; {updates} COMMIT")) {
                        Ok(()) => added.fetch_add(3, Ordering::Relaxed),
                        Err(_) => {
                            client.batch_execute("ROLLBACK").expect("a session that goes on");
                            failed.fetch_add(1, Ordering::Relaxed)
                        }
                    };
                }
            });
        }
    });
    settle::settle(&cluster);
    compare::equal(&cluster);
    let (added, failed) = (added.into_inner(), failed.into_inner());
    let mut deadlocks = 0;
    for node in cluster.nodes() {
        assert_eq!(node.value::<i64>("SELECT sum(n) FROM t"), added, "{}", node.name);
        assert_eq!(node.value::<i64>("SELECT count(*) FROM meld.parked_transaction"), 0, "{}", node.name);
        assert_eq!(node.value::<i64>("SELECT count(*) FROM meld.exception_log"), 0, "{}", node.name);
        deadlocks += node.value::<i64>("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()");
    }
    eprintln!("{added} added, {failed} local transactions failed, {deadlocks} deadlocks");
    assert!(failed > 0 && deadlocks > 0, "no storm: {failed} failed, {deadlocks} deadlocks");
    cluster.finish();
}
