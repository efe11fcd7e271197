//! Hard deaths of every process that takes part, in the middle of traffic on three nodes.
//!
//! Each scenario ends with all nodes equal in rows and stamps, with everything that was acknowledged on every node, and
//! with the audit of lost updates.

use std::sync::atomic::AtomicBool;

use meld_cluster_tests::traffic::{self, Traffic};
use meld_cluster_tests::wait::{self, Look};
use meld_cluster_tests::{Cluster, Plan, audit, compare, fault, mesh, settle};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const WATCHED: [(&str, &str); 1] = [("traffic", "id")];

/// Runs traffic on all nodes, makes faults in the middle, and judges the end.
#[track_caller]
fn under_traffic(name: &str, faults: impl Fn(&Cluster)) {
    let cluster = Plan::new(name, 3).start_mesh();
    fault::expect_lost_links(&cluster);
    traffic::prepare(&cluster);
    audit::watch(&cluster, &WATCHED);
    let stop = AtomicBool::new(false);
    let acknowledged = std::thread::scope(|scope| {
        let traffic = Traffic::start(scope, &cluster, &stop);
        // a scenario that fails must not leave the writers running for ever
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            traffic::wait_for_progress(&cluster);
            faults(&cluster);
            traffic::wait_for_progress(&cluster);
        }));
        let acknowledged = traffic.stop();
        outcome.map_or_else(|panic| std::panic::resume_unwind(panic), |()| acknowledged)
    });
    settle::settle(&cluster);
    compare::equal(&cluster);
    traffic::assert_all_there(&cluster, &acknowledged);
    let audit = audit::check(&cluster, &WATCHED);
    eprintln!("{name}: {} rows acknowledged, {audit:?}", acknowledged.len());
    cluster.finish();
}

/// Title of an apply worker, part by part.
fn apply_worker(cluster: &Cluster, subscriber: usize, provider: usize) -> u32 {
    let (subscriber, provider) = (cluster.node(subscriber), cluster.node(provider));
    let slot: String = subscriber.value(&format!(
        "SELECT sub_slot_name::text FROM meld.subscription WHERE sub_name = '{}'",
        mesh::subscription(subscriber, provider)
    ));
    fault::process(subscriber, &[&slot]).pid
}

#[test]
fn kill_9_of_an_apply_worker() {
    under_traffic("kill_apply", |cluster| {
        for _ in 0..2 {
            fault::kill_backend(cluster.node(2), apply_worker(cluster, 2, 1));
            traffic::wait_for_progress(cluster);
        }
    });
}

#[test]
fn kill_9_of_a_walsender() {
    under_traffic("kill_walsender", |cluster| {
        let pid = fault::session_pid(cluster.node(1), "backend_type = 'walsender'");
        fault::kill_backend(cluster.node(1), pid);
    });
}

#[test]
fn kill_9_of_the_supervisor_and_the_manager() {
    under_traffic("kill_supervisor", |cluster| {
        fault::kill_backend(cluster.node(3), fault::process(cluster.node(3), &["meld supervisor"]).pid);
        traffic::wait_for_progress(cluster);
        fault::kill_backend(cluster.node(2), fault::process(cluster.node(2), &["meld manager"]).pid);
    });
}

#[test]
fn kill_9_of_a_postmaster() {
    under_traffic("kill_postmaster", |cluster| {
        fault::kill_postmaster(cluster.node(2));
        fault::start(cluster.node(2));
        traffic::wait_for_progress(cluster);
        // and of two, one after the other, down at the same time
        fault::kill_postmaster(cluster.node(1));
        fault::kill_postmaster(cluster.node(3));
        fault::start(cluster.node(3));
        fault::start(cluster.node(1));
    });
}

/// Ended in good order, processes come back without any recovery of the server.
#[test]
fn terminated_processes_are_started_again() {
    under_traffic("terminated", |cluster| {
        let n2 = cluster.node(2);
        let before = n2.server.log_tail(1);
        let pids = [
            apply_worker(cluster, 2, 1),
            fault::session_pid(n2, "backend_type = 'walsender'"),
            fault::process(n2, &["meld manager"]).pid,
            fault::process(n2, &["meld supervisor"]).pid,
        ];
        n2.expect_log("exited with exit code 1");
        for pid in pids {
            n2.value::<bool>(&format!("SELECT pg_terminate_backend({pid})"));
            wait::until("the process to end", wait::DEADLINE, || {
                let alive = meld_cluster_tests::server::processes_in(&n2.server.data);
                match alive.into_iter().find(|process| process.pid == pid) {
                    None => Look::Done(()),
                    Some(process) => Look::Seen(format!("{process:?} lives; log before: {before}")),
                }
            });
            traffic::wait_for_progress(cluster);
        }
        assert_ne!(apply_worker(cluster, 2, 1), pids[0]);
        let crashes = meld_cluster_tests::log_scan::entries_with(&n2.server.log, "was terminated by signal");
        assert_eq!(crashes, []);
    });
}

/// A node that is stopped in good order for a while catches up, and the others do not wait for it.
#[test]
fn a_restart_in_good_order() {
    under_traffic("restart", |cluster| {
        for node in cluster.nodes() {
            fault::restart(node);
        }
    });
}

/// Faults drawn from a seed, one after the other, sometimes before the last one is over.
#[test]
fn random_faults() {
    let seed: u64 = std::env::var("MELD_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    let rounds = std::env::var("MELD_CHAOS_ROUNDS").ok().and_then(|s| s.parse().ok()).unwrap_or(5);
    eprintln!("MELD_SEED={seed}");
    under_traffic("random_faults", |cluster| {
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..rounds {
            let place = random.random_range(1..=3);
            let (node, peer) = (cluster.node(place), cluster.node(place % 3 + 1));
            let fault = random.random_range(0..7);
            eprintln!("fault {fault} on {}", node.name);
            match fault {
                0 => fault::kill_backend(node, apply_worker(cluster, place, peer.place)),
                1 => fault::kill_backend(node, fault::session_pid(node, "backend_type = 'walsender'")),
                2 => fault::kill_backend(node, fault::process(node, &["meld manager"]).pid),
                3 => {
                    fault::kill_postmaster(node);
                    fault::start(node);
                }
                4 => fault::restart(node),
                5 => {
                    mesh::set_enabled(node, peer, false);
                    mesh::set_enabled(node, peer, true);
                }
                _ => {
                    node.batch("CHECKPOINT");
                    node.batch("VACUUM FREEZE traffic");
                }
            }
            if random.random_bool(0.7) {
                traffic::wait_for_progress(cluster);
            }
        }
    });
}
