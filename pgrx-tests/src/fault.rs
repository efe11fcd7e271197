//! Faults: the hard death of a process of a server.
//!
//! The death of one process with a connection to shared memory makes the postmaster end all others and recover, so the
//! harness's session is gone too. What the server writes about that is announced here; what the peers write about the
//! lost link is announced by [`expect_lost_links`].

use anyhow::Result;
use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::log_scan;
use crate::node::Node;
use crate::server::{Process, Stop, processes_in, send};
use crate::wait::{DEADLINE, Look, until};

/// What a server itself says about a process that was killed.
const CRASH_WORDS: [&str; 5] = [
    "was terminated by signal 9",
    "all server processes terminated",
    "because of crash of another server process",
    "terminating connection due to unexpected postmaster exit",
    "exited with exit code 2",
];

/// The process of a node whose title holds all of these texts; waits until there is one.
#[track_caller]
pub fn process(node: &Node, texts: &[&str]) -> Process {
    until(&format!("a process of {} titled {texts:?}", node.name), DEADLINE, || {
        let all = processes_in(&node.server.data);
        match all.iter().find(|process| texts.iter().all(|text| process.title.contains(text))) {
            Some(process) => Look::Done(process.clone()),
            None => Look::Seen(format!("{:?}", all.iter().map(|p| &p.title).collect::<Vec<_>>())),
        }
    })
}

/// Process id of a session by a condition on `pg_stat_activity`; waits until there is one.
#[track_caller]
pub fn session_pid(node: &Node, condition: &str) -> u32 {
    let sql = format!("SELECT pid FROM pg_stat_activity WHERE {condition} LIMIT 1");
    until(&format!("a session of {} with {condition}", node.name), DEADLINE, || match node.try_value::<i32>(&sql) {
        Some(pid) => Look::Done(pid as u32),
        None => Look::Seen(
            node.try_value::<String>(
                "SELECT string_agg(format('%s %s', backend_type, application_name), ', ') FROM pg_stat_activity",
            )
            .unwrap_or_default(),
        ),
    })
}

/// Kills one process of a server and waits until the server has recovered from that.
#[track_caller]
pub fn kill_backend(node: &Node, pid: u32) {
    if !kill_backend_if_there(node, pid) {
        panic!("{}: process {pid} has ended by itself", node.name);
    }
}

/// Like [`kill_backend`]; false if the process has ended by itself meanwhile.
#[track_caller]
pub fn kill_backend_if_there(node: &Node, pid: u32) -> bool {
    expect_crash(node);
    let before: String = node.value("SELECT pg_conf_load_time()::text");
    let crashes = || log_scan::entries_with(&node.server.log, "all server processes terminated").len();
    let crashes_before = crashes();
    if send(pid, Signal::KILL).is_err() {
        return false;
    }
    node.forget_session();
    until("the process to be gone", DEADLINE, || {
        let left = processes_in(&node.server.data);
        if left.iter().any(|process| process.pid == pid) { Look::Seen(format!("{left:?}")) } else { Look::Done(()) }
    });
    // until then the server may still take a connection, to end it with the others
    until(&format!("{} to notice", node.name), DEADLINE, || match crashes() {
        now if now > crashes_before => Look::Done(()),
        now => Look::Seen(format!("{now} crashes")),
    });
    until(&format!("{} to take connections again", node.name), DEADLINE, || {
        match node.try_value::<String>("SELECT pg_conf_load_time()::text") {
            Some(_) => Look::Done(()),
            None => Look::Seen(format!("no connection (last start {before})")),
        }
    });
    true
}

/// `kill -9` of the postmaster; the server stays down.
#[track_caller]
pub fn kill_postmaster(node: &Node) {
    expect_crash(node);
    node.forget_session();
    check(node, node.server.stop(Stop::Kill));
}

#[track_caller]
pub fn start(node: &Node) {
    check(node, node.server.start());
}

/// Stops in good order and starts again.
#[track_caller]
pub fn restart(node: &Node) {
    node.forget_session();
    check(node, node.server.stop(Stop::Fast));
    start(node);
}

/// Announces what a crash makes the node itself write.
pub fn expect_crash(node: &Node) {
    CRASH_WORDS.iter().for_each(|words| node.expect_log(words));
}

/// Announces on all nodes what they write when a link breaks or a peer is down for a while.
pub fn expect_lost_links(cluster: &Cluster) {
    for words in LOST_LINK_WORDS {
        cluster.expect_log(words);
    }
    cluster.nodes().iter().for_each(expect_worker_exits);
}

/// Announces that workers of the extension end with an error, to be started again.
pub fn expect_worker_exits(node: &Node) {
    node.expect_log("LOG:  background worker \"meld");
}

/// Words for a link that is lost, on either end.
const LOST_LINK_WORDS: [&str; 11] = [
    // a subscriber that goes away cancels what the provider is doing for it
    "<walsender|meld_*canceling statement due to user request",
    "<walsender|meld_*connection to client lost",
    "fetch>*canceling statement due to user request",
    "fetch>*connection to client lost",
    "<client backend|meld>*canceling statement due to user request",
    "<client backend|meld>*connection to client lost",
    "the server closed the connection",
    "could not connect to the server",
    "the database system is",
    "terminating connection due to",
    "terminating walsender process",
];

#[track_caller]
fn check(node: &Node, result: Result<()>) {
    if let Err(error) = result {
        panic!("{}: {error:?}", node.name);
    }
}
