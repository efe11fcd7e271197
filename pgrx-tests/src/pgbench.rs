//! pgbench's TPC-B on nodes of a mesh.
//!
//! The tables are made on every node and join the sets while they are empty; one node fills them, and the others get
//! the rows by replication. The history table has no key, so it goes into the set for inserts only.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;
use crate::node::{DATABASE, Node};
use crate::settle;
use crate::template::SUPERUSER;

pub const TABLES: [&str; 3] = ["pgbench_accounts", "pgbench_tellers", "pgbench_branches"];

/// Makes the tables everywhere and fills them through `n1`.
#[track_caller]
pub fn prepare(cluster: &Cluster, scale: u32) {
    for node in cluster.nodes() {
        must(run(node, &["-i", "-I", "dtp", "-q"]));
        for table in TABLES {
            node.batch(&format!("SELECT meld.repset_add_table('default', '{table}')"));
        }
        node.batch("SELECT meld.repset_add_table('default_insert_only', 'pgbench_history')");
    }
    must(run(cluster.node(1), &["-i", "-I", "g", "-q", "-s", &scale.to_string()]));
    settle::settle(cluster);
}

/// Starts clients on a node; [`wait`] for the end.
#[track_caller]
pub fn start(node: &Node, clients: u32, duration: Duration) -> Child {
    let (clients, seconds) = (clients.to_string(), duration.as_secs().to_string());
    let mut command = pgbench(node);
    command.args(["-n", "-M", "prepared", "-c", &clients, "-j", "1", "-T", &seconds]);
    match command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        Ok(child) => child,
        Err(error) => panic!("could not start pgbench: {error}"),
    }
}

/// Waits for the clients; whether all of them came to a good end.
#[track_caller]
pub fn wait(mut running: Child) -> bool {
    match running.wait() {
        Ok(status) => status.success(),
        Err(error) => panic!("lost pgbench: {error}"),
    }
}

fn run(node: &Node, args: &[&str]) -> Result<()> {
    let done = pgbench(node).args(args).output().context("could not run pgbench")?;
    ensure!(done.status.success(), "pgbench {args:?} failed: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

fn pgbench(node: &Node) -> std::process::Command {
    let mut command = node.server.environment().program("pgbench");
    command.env("PGHOST", node.server.sockets()).env("PGPORT", node.server.port().to_string());
    command.env("PGUSER", SUPERUSER).env("PGDATABASE", DATABASE).env("PGAPPNAME", crate::log_scan::HARNESS);
    command
}

#[track_caller]
fn must(result: Result<()>) {
    if let Err(error) = result {
        panic!("{error:?}");
    }
}
