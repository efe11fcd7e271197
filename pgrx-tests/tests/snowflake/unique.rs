//! Many sessions on three nodes draw ids while the clock of one goes back by an hour and its server is restarted and
//! killed. `MELD_SNOWFLAKE_IDS` says how many ids in all.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use meld_cluster_tests::{Cluster, Node, Plan, fault, mesh, wait};
use postgres::fallible_iterator::FallibleIterator;

const SESSIONS: usize = 8;
const HOUR_MS: i64 = 3_600_000;

/// Draws until all nodes together have what is wanted; gives the ids in the order in which this session got them.
fn session(node: &Node, wanted: usize, drawn: &AtomicUsize, is_over: &AtomicBool) -> Vec<i64> {
    let mut ids = Vec::new();
    while drawn.load(Ordering::Relaxed) < wanted && !is_over.load(Ordering::Relaxed) {
        // while the server is down there is no connection
        let Ok(mut client) = node.server.connect(meld_cluster_tests::node::DATABASE) else {
            wait::pause();
            continue;
        };
        while drawn.load(Ordering::Relaxed) < wanted {
            let before = ids.len();
            let sql = "SELECT snowflake.nextval() FROM generate_series(1, 400)";
            // what came before the server was killed counts, too
            let outcome = client.query_raw(sql, Vec::<i32>::new()).and_then(|rows| {
                rows.for_each(|row| {
                    ids.push(row.get(0));
                    Ok(())
                })
            });
            drawn.fetch_add(ids.len() - before, Ordering::Relaxed);
            if outcome.is_err() {
                break;
            }
        }
    }
    ids
}

/// What happens to the second node, at so many quarters of the way.
fn trouble(cluster: &Cluster, quarter: usize) {
    let node = cluster.node(2);
    match quarter {
        1 => node.set_clock(-HOUR_MS),
        2 => {
            node.batch("CHECKPOINT");
            fault::kill_postmaster(node);
            fault::start(node);
        }
        _ => fault::restart(node),
    }
}

#[test]
fn no_id_comes_twice() {
    let wanted = std::env::var("MELD_SNOWFLAKE_IDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300_000_usize);
    let cluster = Plan::new("snowflake", 3).own_clocks().start();
    cluster.nodes().iter().for_each(mesh::create_node);
    cluster.expect_log("cannot commit because the clock of this server was stepped back");
    fault::expect_crash(cluster.node(2));
    fault::expect_worker_exits(cluster.node(2));
    let (drawn, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (drawn, is_over) = (&drawn, &is_over);
    let sessions: Vec<(usize, Vec<i64>)> = std::thread::scope(|scope| {
        let start = |node| (0..SESSIONS).map(move |_| scope.spawn(move || session(node, wanted, drawn, is_over)));
        let running: Vec<_> =
            cluster.nodes().iter().flat_map(|node| start(node).map(|thread| (node.place, thread))).collect();
        for quarter in 1..4 {
            while drawn.load(Ordering::Relaxed) < wanted * quarter / 4 && !running.iter().all(|(_, t)| t.is_finished())
            {
                wait::pause();
            }
            let happened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| trouble(&cluster, quarter)));
            if let Err(panic) = happened {
                is_over.store(true, Ordering::Relaxed);
                std::panic::resume_unwind(panic);
            }
        }
        running.into_iter().map(|(place, thread)| (place, thread.join().expect("a session"))).collect()
    });
    let mut all = Vec::with_capacity(wanted + 10_000);
    for (place, ids) in &sessions {
        assert!(ids.is_sorted_by(|a, b| a < b), "a session of node {place} got an id that is not larger");
        assert!(ids.iter().all(|id| id & 1023 == *place as i64), "another node's number on node {place}");
        all.extend_from_slice(ids);
    }
    let total = all.len();
    assert!(total >= wanted);
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), total, "ids that came twice");
    eprintln!("{total} ids of {} sessions on {} nodes", sessions.len(), cluster.nodes().len());
    cluster.finish();
}

/// The worst of it in a small space: the last id is from before the clock went back, so that nothing but the sequence
/// knows of it when the server is killed at once.
#[test]
fn what_was_drawn_just_before_a_crash_does_not_come_again() {
    let cluster = Plan::new("snowflake_crash", 1).own_clocks().setting("wal_writer_delay = '10s'").start();
    let node = cluster.node(1);
    mesh::create_node(node);
    cluster.expect_log("cannot commit because the clock of this server was stepped back");
    fault::expect_worker_exits(node);
    let draw = || node.values::<i64>("SELECT snowflake.nextval() FROM generate_series(1, 50)");
    let mut ids = draw();
    for round in 0..4 {
        // the record that tells of the ids may be older than the checkpoint, or newer
        if round % 2 == 0 {
            node.batch("CHECKPOINT");
        }
        ids.extend(draw());
        node.set_clock(-HOUR_MS * (round + 1));
        ids.extend(draw());
        fault::kill_postmaster(node);
        fault::start(node);
        ids.extend(draw());
    }
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    cluster.finish();
}
