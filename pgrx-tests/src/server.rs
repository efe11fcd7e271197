//! One PostgreSQL server: its data directory, its postmaster, its log.
//!
//! The postmaster is a direct child, so that its death is seen at once and its process id cannot be another's. After a
//! kill the other processes of the server end by themselves; [`Server::wait_until_gone`] waits for that, since a new
//! postmaster refuses to start before. They are found by their working folder, which is the data directory.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use postgres::{Client, NoTls};
use rustix::process::{Pid, Signal, kill_process};

use crate::clock::Clock;
use crate::environment::Environment;
use crate::port::Port;
use crate::template::{self, SUPERUSER};
use crate::wait::{DEADLINE, Look, until};

/// Longest path of a socket that the kernel takes, with room for the file's own name.
const SOCKET_DIR_MAX: usize = 80;

pub struct Server {
    environment: Environment,
    pub data: PathBuf,
    pub log: PathBuf,
    sockets: PathBuf,
    port: Port,
    /// Its own, if it has one.
    clock: Option<Clock>,
    postmaster: Mutex<Option<Child>>,
}

/// Ways to end a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Sessions are ended, a checkpoint is made.
    Fast,
    /// At once, with recovery at the next start.
    Immediate,
    /// `kill -9` of the postmaster.
    Kill,
}

impl Server {
    /// Makes the data directory of the `place`-th server of a cluster; servers with the same `identity` have the same
    /// system identifier.
    pub fn create(environment: &Environment, dir: &Path, place: usize, identity: usize) -> Result<Server> {
        let (data, sockets) = (dir.join(format!("n{place}")), dir.join("s"));
        ensure!(sockets.as_os_str().len() < SOCKET_DIR_MAX, "\"{}\" is too long for sockets", sockets.display());
        environment.make_dir(&sockets)?;
        template::copy(environment, identity, &data)?;
        let port = Port::reserve(&environment.work)?;
        let lines = [
            "listen_addresses = '127.0.0.1'".to_owned(),
            format!("port = {}", port.number),
            format!("unix_socket_directories = '{}'", sockets.display()),
        ];
        append(&data.join("postgresql.conf"), &lines)?;
        let log = dir.join(format!("n{place}.log"));
        File::create(&log)?;
        let (environment, postmaster) = (environment.clone(), Mutex::new(None));
        Ok(Server { environment, data, log, sockets, port, clock: None, postmaster })
    }

    /// Gives it a clock of its own, from the next start on.
    pub fn fake_clock(&mut self) -> Result<()> {
        self.clock = Some(Clock::create(&self.environment, self.log.with_extension("clock"))?);
        Ok(())
    }

    /// How far its clock is ahead of this machine's from now on; negative: behind.
    pub fn set_clock(&self, ahead_ms: i64) -> Result<()> {
        self.clock.as_ref().context("this server has no clock of its own")?.set(ahead_ms)
    }

    pub fn port(&self) -> u16 {
        self.port.number
    }

    pub fn sockets(&self) -> &Path {
        &self.sockets
    }

    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Adds lines to the configuration, for the next start or reload.
    pub fn configure(&self, lines: &[String]) -> Result<()> {
        append(&self.data.join("postgresql.conf"), lines)
    }

    /// Starts the postmaster and waits until it takes connections.
    pub fn start(&self) -> Result<()> {
        let log = File::options().append(true).open(&self.log)?;
        let mut command = self.environment.program("postgres");
        command.arg("-D").arg(&self.data).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Some(clock) = &self.clock {
            clock.give(&mut command);
        }
        let mut child = command.spawn().context("could not start the postmaster")?;
        let outcome = until("the server to take connections", DEADLINE, || {
            if let Ok(Some(status)) = child.try_wait() {
                return Look::Done(Err(status));
            }
            match self.connect("postgres") {
                Ok(_) => Look::Done(Ok(())),
                Err(error) => Look::Seen(error.to_string()),
            }
        });
        if let Err(status) = outcome {
            bail!("the postmaster ended ({status}):\n{}", self.log_tail(30));
        }
        *self.slot() = Some(child);
        Ok(())
    }

    /// Ends the server if it runs, and waits until none of its processes is left.
    pub fn stop(&self, how: Stop) -> Result<()> {
        let Some(mut child) = self.slot().take() else { return Ok(()) };
        let signal = match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
            Stop::Kill => Signal::KILL,
        };
        send(child.id(), signal)?;
        until("the postmaster to end", DEADLINE, || match child.try_wait() {
            Ok(Some(_)) => Look::Done(()),
            other => Look::Seen(format!("{other:?}, {:?}", processes_in(&self.data))),
        });
        self.wait_until_gone();
        Ok(())
    }

    pub fn is_running(&self) -> bool {
        self.slot().as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    pub fn postmaster_pid(&self) -> Option<u32> {
        self.slot().as_ref().map(Child::id)
    }

    /// Waits until no process of this server is left.
    pub fn wait_until_gone(&self) {
        until("the processes of the server to end", DEADLINE, || {
            let left = processes_in(&self.data);
            if left.is_empty() { Look::Done(()) } else { Look::Seen(format!("{left:?}")) }
        });
    }

    /// Ends everything the hard way, without an error or a panic: for the end of a scenario that failed.
    pub fn destroy(&self) {
        if let Some(mut child) = self.slot().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        destroy_processes_in(&self.data);
    }

    pub fn connect(&self, database: &str) -> Result<Client, postgres::Error> {
        self.connect_as(database, SUPERUSER)
    }

    pub fn connect_as(&self, database: &str, user: &str) -> Result<Client, postgres::Error> {
        let mut config = postgres::Config::new();
        config.host_path(&self.sockets).port(self.port()).dbname(database).user(user);
        config.application_name(crate::log_scan::HARNESS).connect_timeout(Duration::from_secs(10));
        config.connect(NoTls)
    }

    /// The last lines of the log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.postmaster.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.destroy();
    }
}

/// A process of a server: its id and the title it shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    pub pid: u32,
    pub title: String,
}

/// The live processes whose working folder is this one.
pub fn processes_in(dir: &Path) -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let here = pids.filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir));
    here.map(|pid| {
        let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        Process { pid, title: String::from_utf8_lossy(&title).replace('\0', " ").trim().to_owned() }
    })
    .collect()
}

/// Kills what is left of a server. The postmaster goes first, so that it starts nothing new meanwhile.
pub fn destroy_processes_in(data: &Path) {
    for _ in 0..500 {
        let left = processes_in(data);
        if left.is_empty() {
            return;
        }
        for process in left {
            let _ = send(process.pid, Signal::KILL);
        }
        crate::wait::pause();
    }
}

/// What a process has had of memory at most, shared buffers that it touched among it.
#[track_caller]
pub fn peak_memory_kb(pid: i32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process that runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

pub fn send(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no such process id")?;
    kill_process(pid, signal).with_context(|| format!("could not signal process {}", pid.as_raw_nonzero()))
}

fn append(file: &Path, lines: &[String]) -> Result<()> {
    let mut file = File::options().append(true).open(file)?;
    writeln!(file, "{}", lines.join("\n"))?;
    Ok(())
}
