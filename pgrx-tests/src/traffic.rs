//! Writers that go on through faults and remember what was acknowledged to them.
//!
//! Each writer has keys of its own, which only it inserts, and updates rows that all share. An error ends the session;
//! a new one is opened until the traffic is stopped. What was acknowledged must be on every node in the end.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};

use postgres::Client;

use crate::cluster::Cluster;
use crate::node::{DATABASE, Node};
use crate::wait;

/// Rows that all writers update.
const SHARED: i64 = 20;
/// Keys of one writer: from its node's place times this on.
const OWN: i64 = 1_000_000;

pub const TABLE: &str = "CREATE TABLE traffic (id bigint PRIMARY KEY, v text, n int)";

pub struct Traffic<'scope> {
    stop: &'scope AtomicBool,
    writers: Vec<ScopedJoinHandle<'scope, BTreeSet<i64>>>,
}

/// The shared rows, through one node.
#[track_caller]
pub fn prepare(cluster: &Cluster) {
    crate::mesh::replicate(cluster, TABLE);
    cluster.node(1).batch(&format!("INSERT INTO traffic SELECT i, 'shared', 0 FROM generate_series(1, {SHARED}) i"));
    crate::settle::settle(cluster);
}

impl<'scope> Traffic<'scope> {
    /// A writer on each node.
    pub fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        cluster: &'env Cluster,
        stop: &'scope AtomicBool,
    ) -> Traffic<'scope> {
        let writers = cluster.nodes().iter().map(|node| scope.spawn(move || write(node, stop))).collect();
        Traffic { stop, writers }
    }

    /// Stops the writers; the keys that were acknowledged.
    #[track_caller]
    pub fn stop(self) -> BTreeSet<i64> {
        self.stop.store(true, Ordering::SeqCst);
        let joined = self.writers.into_iter().flat_map(|writer| match writer.join() {
            Ok(acknowledged) => acknowledged,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    }
}

fn write(node: &Node, stop: &AtomicBool) -> BTreeSet<i64> {
    let mut acknowledged = BTreeSet::new();
    let mut key = node.place as i64 * OWN;
    while !stop.load(Ordering::SeqCst) {
        let Ok(mut client) = node.server.connect(DATABASE) else {
            crate::wait::pause();
            continue;
        };
        while !stop.load(Ordering::SeqCst) {
            // a key whose commit is in doubt is never used again
            key += 1;
            match transaction(&mut client, node, key) {
                Ok(()) => acknowledged.insert(key),
                Err(error) if error.is_closed() || error.as_db_error().is_none() => break,
                Err(_) => continue,
            };
        }
    }
    acknowledged
}

fn transaction(client: &mut Client, node: &Node, key: i64) -> Result<(), postgres::Error> {
    let mut transaction = client.transaction()?;
    transaction.execute("INSERT INTO traffic VALUES ($1, $2, 1)", &[&key, &node.name])?;
    let shared = key % SHARED + 1;
    transaction.execute("UPDATE traffic SET v = $2, n = n + 1 WHERE id = $1", &[&shared, &format!("{key}")])?;
    transaction.commit()
}

/// Waits until the writers of all nodes have got somewhere since the call.
#[track_caller]
pub fn wait_for_progress(cluster: &Cluster) {
    for node in cluster.nodes() {
        let own = node.place as i64 * OWN;
        let last = format!("SELECT coalesce(max(id), 0) FROM traffic WHERE id BETWEEN {own} AND {own} + {OWN} - 1");
        let before = node.try_value::<i64>(&last).unwrap_or_default();
        wait::until_value(
            "traffic to go on",
            || node.try_value::<i64>(&last).unwrap_or_default(),
            |now| *now > before + 20,
        );
    }
}

/// Every acknowledged key is on every node.
#[track_caller]
pub fn assert_all_there(cluster: &Cluster, acknowledged: &BTreeSet<i64>) {
    for node in cluster.nodes() {
        let here: BTreeSet<i64> = node.values("SELECT id FROM traffic").into_iter().collect();
        let missing: Vec<_> = acknowledged.difference(&here).take(10).collect();
        assert!(missing.is_empty(), "{} lacks acknowledged rows, {missing:?} and maybe more", node.name);
    }
}
