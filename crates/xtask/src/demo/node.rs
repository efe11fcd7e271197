//! One server of the demo, or of a measurement: made, started, and spoken to through psql.
//!
//! Nodes reach each other, and the reader reaches them, by sockets in a folder that only the servers' user may enter.
//! Over TCP, for other programs, a password is needed: on a shared machine nobody else becomes superuser of the demo.

use crate::run;
use crate::server::Account;
use crate::tree::Tree;
use anyhow::{Context, Result};
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

pub const DATABASE: &str = "app";
pub const SUPERUSER: &str = "postgres";
const NAMES: [&str; 3] = ["n1", "n2", "n3"];

pub struct Node {
    pub name: &'static str,
    pub node_id: i32,
    pub port: u16,
    /// For TCP only.
    pub password: String,
    /// Holds the sockets of all nodes.
    pub folder: PathBuf,
    psql: PathBuf,
}

/// Makes and starts servers, up to three, each with an empty database; `memory` is for the buffers of each.
pub fn start_all(
    tree: &Tree,
    account: &Account,
    folder: &Path,
    (count, memory): (usize, &str),
    first_port: u16,
) -> Result<Vec<Node>> {
    let password = random_password()?;
    let mut port = first_port;
    let mut nodes = Vec::new();
    for (name, node_id) in NAMES.into_iter().zip(1..).take(count) {
        port = free_port(port)?;
        let (password, folder) = (password.clone(), folder.to_path_buf());
        let node = Node { name, node_id, port, password, folder, psql: tree.program("psql") };
        node.make(tree, account, memory).with_context(|| format!("making node {name}"))?;
        eprintln!("{name}: port {port}");
        nodes.push(node);
        port += 1;
    }
    Ok(nodes)
}

impl Node {
    fn make(&self, tree: &Tree, account: &Account, memory: &str) -> Result<()> {
        let data = self.folder.join(self.name);
        let password_file = self.folder.join("password");
        fs::write(&password_file, &self.password)?;
        account.give(&password_file)?;
        let mut initdb = account.command(&tree.program("initdb"));
        initdb.arg("--pgdata").arg(&data).args(["--username", SUPERUSER, "--encoding", "UTF8", "--locale", "C.UTF-8"]);
        initdb.args(["--auth-local", "trust", "--auth-host", "scram-sha-256", "--pwfile"]).arg(&password_file);
        run::capture(initdb.arg("--no-sync"))?;
        fs::remove_file(password_file)?;

        let configuration = data.join("postgresql.conf");
        let text = fs::read_to_string(&configuration)? + &self.settings(tree, memory)?;
        fs::write(configuration, text)?;
        let log = self.folder.join(format!("{}.log", self.name));
        let mut start = account.command(&tree.program("pg_ctl"));
        start.args(["start", "--wait", "--silent", "--pgdata"]).arg(&data).arg("--log").arg(&log);
        run::quiet(&mut start).with_context(|| format!("the server did not start, see {}", log.display()))?;
        self.psql_in("postgres", &format!("CREATE DATABASE {DATABASE}")).map(drop)
    }

    /// The lines of postgresql.conf that meld asks for, and a place of its own for the server.
    fn settings(&self, tree: &Tree, memory: &str) -> Result<String> {
        let known = run::capture(Command::new(tree.program("postgres")).arg("--describe-config"))?;
        let mut lines = vec![
            format!("port = {}", self.port),
            "listen_addresses = '127.0.0.1'".to_owned(),
            format!("unix_socket_directories = '{}'", self.folder.display()),
            format!("cluster_name = 'meld {}'", self.name),
            "wal_level = logical".to_owned(),
            "track_commit_timestamp = on".to_owned(),
            "shared_preload_libraries = 'meld'".to_owned(),
            "max_worker_processes = 20".to_owned(),
            format!("shared_buffers = '{memory}'"),
        ];
        // Minor releases that do not know the setting refuse to start with it.
        if known.lines().any(|line| line.starts_with("output_plugin_libraries\t")) {
            lines.push("output_plugin_libraries = 'meld, pgoutput, test_decoding'".to_owned());
        }
        Ok(format!("\n# the demo\n{}\n", lines.join("\n")))
    }

    /// How the other nodes reach this one.
    pub fn dsn(&self) -> String {
        format!("host={} port={} user={SUPERUSER} dbname={DATABASE}", self.folder.display(), self.port)
    }

    /// Runs a statement and shows it as a user would type it.
    pub fn run_shown(&self, sql: &str) -> Result<()> {
        eprintln!("{}=# {sql};", self.name);
        self.query(sql).map(drop)
    }

    /// The statement's rows, one a line, with tabs between the columns.
    pub fn query(&self, sql: &str) -> Result<String> {
        self.psql_in(DATABASE, sql)
    }

    fn psql_in(&self, database: &str, sql: &str) -> Result<String> {
        let mut psql = self.psql(database);
        psql.args(["--command", sql]).env("PGOPTIONS", "-c statement_timeout=90s");
        run::capture(&mut psql).with_context(|| format!("on node {}", self.name))
    }

    /// A psql that reads from its standard input and says nothing but results.
    pub fn psql(&self, database: &str) -> Command {
        let mut command = Command::new(&self.psql);
        command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--field-separator", "\t"]);
        command.args(["--set", "ON_ERROR_STOP=1", "--username", SUPERUSER, "--dbname", database]);
        command.arg("--host").arg(&self.folder).args(["--port", &self.port.to_string()]);
        command.env("PGTZ", "UTC").env("PGCONNECT_TIMEOUT", "10").env_remove("PGSERVICE").current_dir("/");
        command
    }
}

/// The first port from `from` on that nobody listens at.
fn free_port(from: u16) -> Result<u16> {
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    (from..from + 1000).find(free).with_context(|| format!("no free port from {from} on"))
}

fn random_password() -> Result<String> {
    let mut bytes = [0; 9];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
