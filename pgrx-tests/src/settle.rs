//! Settling: every node has applied what every other had committed when the call began.

use crate::cluster::Cluster;
use crate::node::{Node, literal};
use crate::wait::DEADLINE;

/// A marker goes into each node's stream, and every other node waits for it.
#[track_caller]
pub fn settle(cluster: &Cluster) {
    let marks: Vec<(&Node, String)> =
        cluster.nodes().iter().map(|node| (node, node.value("SELECT meld.sync_event()::text"))).collect();
    for (origin, lsn) in &marks {
        for node in cluster.nodes().iter().filter(|node| node.place != origin.place) {
            wait_for(node, origin, lsn);
        }
    }
}

/// Every node has applied, too, what the others wrote themselves while they applied: removals and parents that were kept.
/// One of these may lead to another, children of removed rows for one; so there is a round more than in any scenario.
#[track_caller]
pub fn settle_decisions(cluster: &Cluster) {
    (0..3).for_each(|_| settle(cluster));
}

/// `to` has applied what `from` had committed.
#[track_caller]
pub fn settle_link(from: &Node, to: &Node) {
    let lsn: String = from.value("SELECT meld.sync_event()::text");
    wait_for(to, from, &lsn);
}

#[track_caller]
fn wait_for(node: &Node, origin: &Node, lsn: &str) {
    let seconds = DEADLINE.as_secs();
    node.batch(&format!("CALL meld.wait_for_sync_event({}, {}, {seconds})", literal(&origin.name), literal(lsn)));
}
