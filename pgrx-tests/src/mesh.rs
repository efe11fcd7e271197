//! A full mesh, built the way a user does it.

use std::collections::BTreeMap;

use crate::cluster::Cluster;
use crate::node::{Node, dsn_to_port, literal};
use crate::proxy::{Damage, Proxy};
use crate::settle;
use crate::wait;

/// Name of the subscription by which one node follows another.
pub fn subscription(subscriber: &Node, provider: &Node) -> String {
    format!("{}_{}", subscriber.name, provider.name)
}

/// Makes every database a node and subscribes each to each. Tables join the sets later, by [`replicate`].
#[track_caller]
pub fn connect_all(cluster: &Cluster) {
    cluster.nodes().iter().for_each(create_node);
    for (subscriber, provider) in cluster.links() {
        subscribe(subscriber, provider, &provider.dsn());
    }
    for (subscriber, provider) in cluster.links() {
        wait_until_replicating(subscriber, provider);
    }
}

/// A mesh whose links run through proxies, so that the network between two nodes can be cut and mended.
pub struct Proxied {
    /// Of each link: places of subscriber and provider.
    proxies: BTreeMap<(usize, usize), Proxy>,
}

impl Proxied {
    /// Like [`connect_all`], through a proxy for each link.
    #[track_caller]
    pub fn connect_all(cluster: &Cluster) -> Proxied {
        cluster.nodes().iter().for_each(create_node);
        let mut proxies = BTreeMap::new();
        for (subscriber, provider) in cluster.links() {
            let proxy = match Proxy::start(provider.server.port()) {
                Ok(proxy) => proxy,
                Err(error) => panic!("could not start a proxy: {error:?}"),
            };
            subscribe(subscriber, provider, &dsn_to_port(proxy.port));
            proxies.insert((subscriber.place, provider.place), proxy);
        }
        for (subscriber, provider) in cluster.links() {
            wait_until_replicating(subscriber, provider);
        }
        Proxied { proxies }
    }

    /// The proxy between two nodes.
    #[track_caller]
    pub fn between(&self, subscriber: &Node, provider: &Node) -> &Proxy {
        &self.proxies[&(subscriber.place, provider.place)]
    }

    /// Makes all links honest again.
    pub fn heal(&self) {
        self.proxies.values().for_each(|proxy| proxy.set(Damage::None));
    }
}

/// The extension and the local node, with the node's place in the cluster as its number.
#[track_caller]
pub fn create_node(node: &Node) {
    let (name, dsn) = (literal(&node.name), literal(&node.dsn()));
    node.batch("CREATE EXTENSION meld");
    node.batch(&format!("SELECT meld.node_create({name}, {dsn}, node_id => {})", node.id()));
}

#[track_caller]
pub fn subscribe(subscriber: &Node, provider: &Node, dsn: &str) {
    let name = subscription(subscriber, provider);
    subscriber.batch(&format!("SELECT meld.sub_create({}, {})", literal(&name), literal(dsn)));
}

#[track_caller]
pub fn wait_until_replicating(subscriber: &Node, provider: &Node) {
    let name = subscription(subscriber, provider);
    subscriber.batch(&format!("SELECT meld.sub_wait_for_sync({})", literal(&name)));
}

/// Changes a subscription so that its worker starts anew, and waits until the new one replicates: until then the old
/// one goes on with what it was started with.
#[track_caller]
pub fn alter(subscriber: &Node, provider: &Node, statement: &str) {
    let name = literal(&subscription(subscriber, provider));
    let worker = || {
        subscriber.values::<i32>(&format!(
            "SELECT worker_pid FROM meld.sub_show_status({name}) WHERE status = 'replicating' AND worker_pid IS NOT NULL"
        ))
    };
    let before = worker();
    subscriber.batch(statement);
    wait::until_value("a worker with the new settings", worker, |now| !now.is_empty() && *now != before);
}

/// Runs statements that make tables on every node, then adds all tables of schema `public` to the default set.
#[track_caller]
pub fn replicate(cluster: &Cluster, tables: &str) {
    cluster.batch(tables);
    cluster.batch("SELECT meld.repset_add_all_tables('default', '{public}')");
}

/// Stops all links, so that the nodes can be written to apart.
#[track_caller]
pub fn disconnect(cluster: &Cluster) {
    for (subscriber, provider) in cluster.links() {
        set_enabled(subscriber, provider, false);
    }
}

/// Starts all links again and waits until the nodes have settled.
#[track_caller]
pub fn reconnect(cluster: &Cluster) {
    for (subscriber, provider) in cluster.links() {
        set_enabled(subscriber, provider, true);
    }
    settle::settle_decisions(cluster);
}

/// Stops or starts one link; a stopped one has no worker left when this returns.
#[track_caller]
pub fn set_enabled(subscriber: &Node, provider: &Node, enabled: bool) {
    let name = literal(&subscription(subscriber, provider));
    if enabled {
        subscriber.batch(&format!("SELECT meld.sub_enable({name}, immediate => true)"));
        return;
    }
    subscriber.batch(&format!("SELECT meld.sub_disable({name}, immediate => true)"));
    crate::wait::until_equal(&format!("state of {name}"), "disabled".to_owned(), || status(subscriber, provider));
    let slot: String =
        subscriber.value(&format!("SELECT sub_slot_name::text FROM meld.subscription WHERE sub_name = {name}"));
    let active = format!("SELECT count(*) FROM pg_replication_slots WHERE active AND slot_name = {}", literal(&slot));
    crate::wait::until_equal("active slots", 0_i64, || provider.value(&active));
}

/// Lets one link, stopped before and after, carry over all that its provider has committed until now.
#[track_caller]
pub fn deliver(from: &Node, to: &Node) {
    set_enabled(to, from, true);
    settle::settle_link(from, to);
    set_enabled(to, from, false);
}

/// State of a link as the subscriber shows it.
#[track_caller]
pub fn status(subscriber: &Node, provider: &Node) -> String {
    let name = literal(&subscription(subscriber, provider));
    subscriber.value(&format!("SELECT status FROM meld.sub_show_status({name})"))
}
