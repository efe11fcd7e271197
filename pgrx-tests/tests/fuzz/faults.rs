//! Faults in the middle of the writing: links cut and mended, servers killed, rows frozen.

use std::time::{Duration, Instant};

use meld_cluster_tests::mesh::Proxied;
use meld_cluster_tests::proxy::Damage;
use meld_cluster_tests::server::processes_in;
use meld_cluster_tests::wait::{self, Look};
use meld_cluster_tests::{Cluster, Node, fault};
use rand::Rng;
use rand::rngs::StdRng;

use crate::workload::Told;
use std::sync::atomic::Ordering;

/// Makes faults until the time is over; all links are whole and all servers run at the end.
pub fn provoke(cluster: &Cluster, links: &Proxied, told: &Told, random: &mut StdRng, duration: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < duration {
        let place = random.random_range(1..=cluster.nodes().len());
        let peer = place % cluster.nodes().len() + 1;
        let (node, peer) = (cluster.node(place), cluster.node(peer));
        let fault = random.random_range(0..8);
        eprintln!("{:5.1} s: fault {fault} on {}", begun.elapsed().as_secs_f32(), node.name);
        match fault {
            0 => links.between(node, peer).set(Damage::Refuse),
            1 => {
                // both ways: the two nodes drift apart
                links.between(node, peer).set(Damage::Refuse);
                links.between(peer, node).set(Damage::Refuse);
            }
            2 => links.between(node, peer).set(Damage::Stall),
            3 => {
                fault::kill_postmaster(node);
                let_write(told, random, 5);
                fault::start(node);
            }
            4 => kill_worker(node, random),
            5 => {
                node.batch("CHECKPOINT");
                // it waits for who has a page in hand, which may be an apply worker that waits for a prepared transaction whose
                // session is lost
                node.batch("SET statement_timeout = '3s'");
                let _ = node.try_batch("VACUUM FREEZE plain, uniq, counter, large");
                node.batch("RESET statement_timeout");
            }
            _ => links.heal(),
        }
        let_write(told, random, 250);
    }
    links.heal();
}

/// Lets the writers commit some more transactions, as long as they can.
fn let_write(told: &Told, random: &mut StdRng, most: u64) {
    let goal = told.transactions.load(Ordering::SeqCst) + random.random_range(1..=most);
    let begun = Instant::now();
    wait::until("transactions", Duration::from_secs(30), || {
        let now = told.transactions.load(Ordering::SeqCst);
        // a node that is cut off, or waits for a lock, must not hold the faults up
        if now >= goal || begun.elapsed() > Duration::from_secs(3) {
            Look::Done(())
        } else {
            Look::Seen(now.to_string())
        }
    });
}

/// The hard death of one of meld's processes.
fn kill_worker(node: &Node, random: &mut StdRng) {
    let workers: Vec<_> = processes_in(&node.server.data)
        .into_iter()
        .filter(|process| process.title.starts_with("postgres: meld"))
        .collect();
    if !workers.is_empty() {
        fault::kill_backend(node, workers[random.random_range(0..workers.len())].pid);
    }
}
