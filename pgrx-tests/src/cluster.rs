//! A cluster: some servers that live as long as one scenario.
//!
//! The folder of a cluster holds a lock file for as long as its process lives. Folders whose lock is free are left by a
//! process that was killed; the next cluster removes them and what still runs in them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

use crate::environment::Environment;
use crate::log_scan;
use crate::node::{DATABASE, Node};
use crate::port::Reservation;
use crate::server::{Server, Stop, destroy_processes_in};
use crate::template::{self, SUPERUSER};

/// In the folder of a cluster; held by the process that it belongs to.
const LOCK: &str = "lock";

/// What a scenario asks for.
pub struct Plan {
    name: String,
    nodes: usize,
    with_meld: bool,
    alike: bool,
    own_clocks: bool,
    settings: Vec<String>,
}

pub struct Cluster {
    pub name: String,
    pub environment: Environment,
    nodes: Vec<Node>,
    dir: PathBuf,
    finished: AtomicBool,
    // in this order: the folder's lock goes before the turn
    _lock: Reservation,
    _turn: Reservation,
}

impl Plan {
    /// Servers with the extension loaded.
    pub fn new(name: &str, nodes: usize) -> Plan {
        Plan { name: name.to_owned(), nodes, with_meld: true, alike: false, own_clocks: false, settings: Vec::new() }
    }

    /// Servers as they come, without the extension: for tests of the harness itself.
    pub fn plain(name: &str, nodes: usize) -> Plan {
        Plan { with_meld: false, ..Plan::new(name, nodes) }
    }

    /// Adds a line to the configuration of every server; it overrides the ones before.
    pub fn setting(mut self, line: &str) -> Plan {
        self.settings.push(line.to_owned());
        self
    }

    /// Gives all servers one system identifier, as copies of one server have.
    pub fn alike(self) -> Plan {
        Plan { alike: true, ..self }
    }

    /// Gives each server a clock of its own, to be set by [`Node::set_clock`].
    pub fn own_clocks(self) -> Plan {
        Plan { own_clocks: true, ..self }
    }

    #[track_caller]
    pub fn start(self) -> Cluster {
        match Cluster::start(self) {
            Ok(cluster) => cluster,
            Err(error) => panic!("could not start the cluster: {error:?}"),
        }
    }

    /// Starts the servers and connects every node with every other.
    #[track_caller]
    pub fn start_mesh(self) -> Cluster {
        let cluster = self.start();
        crate::mesh::connect_all(&cluster);
        cluster
    }

    fn settings(&self, environment: &Environment, data: &Path) -> Result<Vec<String>> {
        let mut lines: Vec<String> = [
            "fsync = on",
            "wal_level = logical",
            "track_commit_timestamp = on",
            "max_worker_processes = 24",
            "max_replication_slots = 20",
            "max_wal_senders = 20",
            "max_connections = 60",
            "shared_buffers = '64MB'",
            "min_wal_size = '32MB'",
            "timezone = 'UTC'",
            "log_timezone = 'UTC'",
            "log_checkpoints = off",
            "log_autovacuum_min_duration = -1",
        ]
        .map(str::to_owned)
        .into();
        lines.push(format!("log_line_prefix = '{}'", log_scan::PREFIX));
        if self.with_meld {
            lines.push("shared_preload_libraries = 'meld'".into());
            if template::knows_setting(environment, data, "output_plugin_libraries")? {
                lines.push("output_plugin_libraries = 'meld, pgoutput, test_decoding'".into());
            }
        }
        lines.extend_from_slice(&self.settings);
        Ok(lines)
    }
}

impl Cluster {
    fn start(plan: Plan) -> Result<Cluster> {
        let environment = Environment::read()?;
        let turn = Reservation::turn(&environment.work)?;
        let clusters = environment.work.join("clusters");
        environment.make_dir(&clusters)?;
        let (dir, lock) = make_dir(&environment, &clusters)?;
        let mut cluster = Cluster {
            name: plan.name.clone(),
            environment,
            nodes: Vec::new(),
            dir,
            finished: AtomicBool::new(false),
            _lock: lock,
            _turn: turn,
        };
        for place in 1..=plan.nodes {
            let identity = if plan.alike { 1 } else { place };
            let mut server = Server::create(&cluster.environment, &cluster.dir, place, identity)?;
            server.configure(&plan.settings(&cluster.environment, &server.data)?)?;
            if plan.own_clocks {
                server.fake_clock()?;
            }
            if place == 1 {
                server.configure(&first_node_settings())?;
            }
            cluster.nodes.push(Node::new(place, server));
        }
        on_each(&cluster.nodes, |node| {
            node.server.start()?;
            node.server.connect("postgres")?.batch_execute(&format!("CREATE DATABASE {DATABASE} OWNER {SUPERUSER}"))?;
            Ok(())
        })?;
        Ok(cluster)
    }

    /// The node of that number, from 1.
    pub fn node(&self, place: usize) -> &Node {
        &self.nodes[place - 1]
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Every ordered pair of two different nodes: (subscriber, provider).
    pub fn links(&self) -> impl Iterator<Item = (&Node, &Node)> {
        self.nodes.iter().flat_map(move |a| self.nodes.iter().filter(move |b| a.place != b.place).map(move |b| (a, b)))
    }

    /// Runs statements on every node.
    #[track_caller]
    pub fn batch(&self, sql: &str) {
        for node in &self.nodes {
            node.batch(sql);
        }
    }

    /// Announces on every node that lines with this text may be in the log.
    pub fn expect_log(&self, text: &str) {
        for node in &self.nodes {
            node.expect_log(text);
        }
    }

    /// Ends the scenario: the servers stop in good order and their logs hold nothing that was not announced.
    #[track_caller]
    pub fn finish(self) {
        // before the nodes go one by one, and see the others go
        log_scan::check(&self.nodes);
        self.nodes.iter().for_each(Node::forget_session);
        crate::fault::expect_lost_links(&self);
        if let Err(error) = on_each(&self.nodes, |node| node.server.stop(Stop::Fast)) {
            panic!("could not stop the servers: {error:?}");
        }
        log_scan::check(&self.nodes);
        self.finished.store(true, Ordering::Relaxed);
    }

    /// Ends a cluster whose logs are no one's business, as in tests of the harness itself.
    pub fn discard(self) {
        self.finished.store(true, Ordering::Relaxed);
    }

    fn keep_logs(&self) -> Result<PathBuf> {
        let unique = self.dir.file_name().context("no name")?.to_string_lossy();
        let kept = self.environment.work.join("failed").join(format!("{}-{unique}", self.name));
        std::fs::create_dir_all(&kept)?;
        for node in &self.nodes {
            std::fs::copy(&node.server.log, kept.join(format!("{}.log", node.name)))?;
        }
        Ok(kept)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.finished.load(Ordering::Relaxed) {
            match self.keep_logs() {
                Ok(kept) => eprintln!("logs of \"{}\" kept in {}", self.name, kept.display()),
                Err(error) => eprintln!("could not keep the logs of \"{}\": {error:?}", self.name),
            }
        }
        self.nodes.iter().for_each(|node| node.server.destroy());
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// So that one node can be made to misbehave from outside, and the scenarios can be seen to fail.
fn first_node_settings() -> Vec<String> {
    let lines = std::env::var("MELD_NODE1_SETTINGS").unwrap_or_default();
    lines.split(';').map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// Does the same on all nodes at once.
fn on_each(nodes: &[Node], work: impl Fn(&Node) -> Result<()> + Sync) -> Result<()> {
    let work = &work;
    std::thread::scope(|scope| {
        let running: Vec<_> = nodes.iter().map(|node| scope.spawn(move || work(node))).collect();
        let results = running.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        results.collect()
    })
}

/// Makes and locks a folder of its own, after what killed processes have left behind is removed.
fn make_dir(environment: &Environment, clusters: &Path) -> Result<(PathBuf, Reservation)> {
    let _sweeping = Reservation::wait(&environment.work.join("locks"), "clusters");
    for entry in std::fs::read_dir(clusters)?.flatten() {
        // its owner may be removing it just now
        let Ok(Some(_lock)) = Reservation::take(&entry.path(), LOCK) else { continue };
        let inside = std::fs::read_dir(entry.path()).into_iter().flatten().flatten();
        inside.for_each(|data| destroy_processes_in(&data.path()));
        let _ = std::fs::remove_dir_all(entry.path());
    }
    let dir = clusters.join(format!("{:08x}", rand::random::<u32>()));
    environment.make_dir(&dir)?;
    let lock = Reservation::take(&dir, LOCK)?.context("not unique")?;
    Ok((dir, lock))
}
