//! `cargo x demo` and `cargo x demo-stop`: three nodes on this machine that all take writes and end equal.
//!
//! The demo makes three servers from the private tree, joins them into a full mesh with the SQL a user would type,
//! provokes conflicts that no timing can avoid ([`story`]), waits until every node has applied everything, and shows
//! how each conflict was decided and that all tables are equal, stamps included ([`report`]). The mesh is left running.
//! A second run begins with the end of the first.

pub mod node;
mod report;
mod session;
mod story;

use crate::install;
use crate::repo;
use crate::run::Stages;
use crate::server::{Account, stop_all_below};
use crate::setup;
use anyhow::{Context, Result};
use node::Node;
use std::fs;
use std::path::{Path, PathBuf};

/// Folder in the work folder: the nodes' data, logs and sockets.
const FOLDER: &str = "demo";
/// The first port that is tried.
const FIRST_PORT: u16 = 7431;

pub fn demo() -> Result<()> {
    let mut stages = Stages::default();
    let major = stages.stage("setup", setup::prepare)?;
    let tree = stages.stage("install into the private server", || install::into_tree(major, false))?;
    let account = Account::of_servers()?;
    remove()?;
    let mut unfinished = StopUnlessFinished(Some(repo::work()?.join(FOLDER)));
    let nodes = stages.stage("start three servers", || {
        // enough for three nodes; a demo has no need of much memory
        node::start_all(&tree, &account, &account.private_folder(FOLDER)?, (3, "32MB"), FIRST_PORT)
    })?;
    stages.stage("join them into a mesh", || join(&nodes))?;
    stages.stage("write on all nodes at once", || story::play(&nodes))?;
    stages.stage("wait until every node has applied everything", || settle(&nodes))?;
    report::conflicts(&nodes)?;
    report::equal_tables(&nodes)?;
    unfinished.0 = None;
    report::what_to_try(&nodes);
    Ok(())
}

/// Ends the demo and removes all of it; fine without one.
pub fn stop() -> Result<()> {
    let was_there = repo::work()?.join(FOLDER).exists();
    remove()?;
    eprintln!("{}", if was_there { "the demo is stopped and removed" } else { "there is no demo to stop" });
    Ok(())
}

fn remove() -> Result<()> {
    let folder = repo::work()?.join(FOLDER);
    stop_all_below(&folder);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("could not remove {}", folder.display()))?;
    }
    Ok(())
}

/// A demo that fails or is interrupted leaves no server behind; its logs stay.
struct StopUnlessFinished(Option<PathBuf>);

impl Drop for StopUnlessFinished {
    fn drop(&mut self) {
        if let Some(folder) = &self.0 {
            stop_all_below(folder);
            eprintln!("the servers are stopped; their logs are in {}", Path::new(folder).display());
        }
    }
}

/// The minimal mesh of the documentation, with a subscription from every node to every other one.
fn join(nodes: &[Node]) -> Result<()> {
    for node in nodes {
        node.run_shown("CREATE EXTENSION meld")?;
        node.run_shown(&format!(
            "SELECT meld.node_create('{}', '{}', node_id => {})",
            node.name,
            node.dsn(),
            node.node_id
        ))?;
        node.run_shown(story::TABLE)?;
        node.run_shown("SELECT meld.repset_add_all_tables('default', '{public}')")?;
    }
    for (subscriber, provider) in pairs(nodes) {
        let name = format!("{}_{}", subscriber.name, provider.name);
        subscriber.run_shown(&format!("SELECT meld.sub_create('{name}', '{}')", provider.dsn()))?;
    }
    for (subscriber, provider) in pairs(nodes) {
        subscriber.run_shown(&format!("SELECT meld.sub_wait_for_sync('{}_{}')", subscriber.name, provider.name))?;
    }
    Ok(())
}

/// Waits until each node has applied all that each other node has committed up to now.
fn settle(nodes: &[Node]) -> Result<()> {
    for provider in nodes {
        let lsn = provider.query("SELECT meld.sync_event()")?;
        for subscriber in nodes.iter().filter(|node| node.node_id != provider.node_id) {
            subscriber.query(&format!("CALL meld.wait_for_sync_event('{}', '{lsn}', 60)", provider.name))?;
        }
    }
    Ok(())
}

/// Every ordered pair of different nodes.
fn pairs(nodes: &[Node]) -> impl Iterator<Item = (&Node, &Node)> {
    let all = nodes.iter().flat_map(move |one| nodes.iter().map(move |other| (one, other)));
    all.filter(|(one, other)| one.node_id != other.node_id)
}
