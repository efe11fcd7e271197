//! Promises: no commit comes after one that covers it, whatever the way to commit, and however long one takes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use meld_cluster_tests::server::send;
use meld_cluster_tests::{Cluster, Node, Plan, mesh, pgbench, settle, wait};
use postgres::Client;
use rustix::process::Signal;

const TABLE: &str = "CREATE TABLE p (id bigint PRIMARY KEY, v int)";

/// Sessions that commit one row each time.
const WRITERS: usize = 8;

fn start(name: &str) -> Cluster {
    // WAL has to be written out before more of it can be made, so that commits wait for each other
    let plan = Plan::new(name, 2).setting("max_prepared_transactions = 20").setting("wal_buffers = '32kB'");
    let cluster = plan.start_mesh();
    mesh::replicate(&cluster, TABLE);
    cluster.node(1).batch("SELECT pg_create_logical_replication_slot('watch', 'meld')");
    cluster
}

/// Commits in the order of WAL, read beside the heartbeats: none comes after a promise that covers it.
#[test]
fn promises_hold_under_load() {
    let cluster = start("promise_load");
    let n1 = cluster.node(1);
    pgbench::prepare(&cluster, 1);
    let load = pgbench::start(n1, 6, Duration::from_secs(20));
    std::thread::scope(|scope| {
        for place in 0..3_i64 {
            let mut client = n1.client();
            scope.spawn(move || {
                for round in 0..600_i64 {
                    let id = place * 10_000 + round;
                    let sql = format!("BEGIN; INSERT INTO p VALUES ({id}, 0); PREPARE TRANSACTION 'p{id}'");
                    client.batch_execute(&sql).expect("prepare");
                    client.batch_execute(&format!("COMMIT PREPARED 'p{id}'")).expect("commit prepared");
                }
            });
        }
    });
    assert!(pgbench::wait(load));
    finish(cluster, 10);
}

/// A process may be held up between reading its commit timestamp and writing the commit into WAL: here by one that fills
/// the WAL buffers and is stopped in the middle of it, for as long as a heartbeat takes. `MELD_HELD_UP`: how often.
#[test]
fn promises_hold_for_commits_that_are_held_up() {
    let cluster = start("promise_held_up");
    let n1 = cluster.node(1);
    n1.batch("CREATE TABLE filled (v text)");
    let rounds = std::env::var("MELD_HELD_UP").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for place in 0..WRITERS {
            let (client, is_over) = (n1.client(), &is_over);
            scope.spawn(move || write_rows(client, place, is_over));
        }
        let mut client = n1.client();
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).expect("an answer").get(0);
        let is_over = &is_over;
        scope.spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let fill = "INSERT INTO filled SELECT repeat('x', 1500) FROM generate_series(1, 2000); TRUNCATE filled";
                client.batch_execute(fill).expect("fill");
            }
        });
        for round in 0..rounds {
            pass(100 + 7 * (round % 10));
            send(pid as u32, Signal::STOP).expect("a process of the server");
            pass(1100);
            send(pid as u32, Signal::CONT).expect("a process of the server");
        }
        is_over.store(true, Ordering::Relaxed);
    });
    finish(cluster, 3);
}

/// Lets so many milliseconds pass, in which others are at work.
#[track_caller]
fn pass(ms: u64) {
    let started = Instant::now();
    let is_over = |passed: &Duration| *passed >= Duration::from_millis(ms);
    wait::until_value("a moment", || started.elapsed(), is_over);
}

/// Rows in a transaction each, the first session's in two phases.
fn write_rows(mut client: Client, place: usize, is_over: &AtomicBool) {
    client.batch_execute("SET synchronous_commit = off").expect("set");
    let insert = client.prepare("INSERT INTO p VALUES ($1, 0)").expect("prepare");
    let mut id = place as i64 * 10_000_000;
    while !is_over.load(Ordering::Relaxed) {
        id += 1;
        if place == 0 {
            let sql = format!("BEGIN; INSERT INTO p VALUES ({id}, 0); PREPARE TRANSACTION 'p{id}'");
            client.batch_execute(&sql).expect("prepare");
            client.batch_execute(&format!("COMMIT PREPARED 'p{id}'")).expect("commit prepared");
        } else {
            client.execute(&insert, &[&id]).expect("insert");
        }
    }
}

/// No promise was broken, and there was something to break.
#[track_caller]
fn finish(cluster: Cluster, least_heartbeats: usize) {
    let node = cluster.node(1);
    let (commits, heartbeats) = judge(node);
    eprintln!("{commits} commits between {heartbeats} heartbeats");
    assert!(commits > 1000 && heartbeats >= least_heartbeats, "{commits} commits, {heartbeats} heartbeats");
    node.batch("SELECT pg_drop_replication_slot('watch')");
    settle::settle(&cluster);
    cluster.finish();
}

/// Reads the slot to its end; how many commits and heartbeats there were.
#[track_caller]
fn judge(node: &Node) -> (usize, usize) {
    use meld_core::ids::{NodeId, NodeIdentity};
    use meld_core::time::Timestamp;
    use meld_core::wire::{FrameReader, LogicalMessage, Message, SUPPORTED, StartOptions};
    let identity = NodeIdentity {
        id: NodeId(9),
        name: "n9".into(),
        system_identifier: 9,
        database: "app".into(),
        snowflake_node: 9,
    };
    let options = StartOptions {
        protocol: SUPPORTED,
        meld_version: "test".into(),
        node: identity,
        replication_sets: vec!["default".into(), "default_insert_only".into()],
        forward_origins: Vec::new(),
        server_version: 150_000,
        encoding: "UTF8".into(),
        big_endian: cfg!(target_endian = "big"),
        horizon: Timestamp::MIN,
        capabilities: Vec::new(),
    };
    let pairs: Vec<String> =
        options.to_pairs().iter().map(|(name, value)| format!("'{name}', '{}'", value.replace('\'', "''"))).collect();
    let sql = format!("SELECT data FROM pg_logical_slot_get_binary_changes('watch', NULL, NULL, {})", pairs.join(", "));
    let mut reader = FrameReader::new();
    let mut promised = Timestamp::MIN;
    let (mut commits, mut heartbeats, mut out_of_order, mut latest) = (0, 0, 0, Timestamp::MIN);
    for frame in node.values::<Vec<u8>>(&sql) {
        for message in reader.read(&frame).expect("a good frame") {
            match message {
                Message::Commit(commit) => {
                    commits += 1;
                    out_of_order += usize::from(commit.commit_ts < latest);
                    latest = latest.max(commit.commit_ts);
                    assert!(
                        commit.commit_ts > promised,
                        "commit of {} came after the promise {}",
                        commit.commit_ts.0,
                        promised.0
                    );
                }
                Message::Logical(LogicalMessage::Heartbeat { promise, horizon, .. }) => {
                    assert!(promise >= promised && horizon <= promise);
                    heartbeats += 1;
                    promised = promise;
                }
                _ => {}
            }
        }
    }
    eprintln!("{out_of_order} commits out of the order of time");
    (commits, heartbeats)
}
