//! Large transactions, and the same bytes from a walsender.

use std::process::Stdio;

use meld_cluster_tests::node::DATABASE;
use meld_cluster_tests::template::SUPERUSER;
use meld_core::wire::Message;

use crate::stream::{add_to_set, create_slot, frames, messages, options, provider};

#[test]
fn a_large_transaction_is_packed_into_frames_that_a_walsender_sends_alike() {
    let cluster = provider("plugin-volume");
    let node = cluster.node(1);
    node.batch("CREATE TABLE t (id int PRIMARY KEY, a text); CREATE TABLE skipped (id int)");
    node.batch(&add_to_set("default", "t"));
    create_slot(node, "sql");
    // from the same place, whatever heartbeats come
    node.batch("SELECT pg_copy_logical_replication_slot('sql', 'walsender')");
    node.batch("INSERT INTO t SELECT i, 'row number ' || i FROM generate_series(1, 100000) i");
    node.batch("INSERT INTO skipped SELECT i FROM generate_series(1, 100000) i");
    node.batch("INSERT INTO t VALUES (0, repeat('x', 1000000))");
    let end: String = node.value("SELECT pg_current_wal_flush_lsn()::text");

    let frames = frames(node, "sql", &options());
    assert!(frames.len() < 60, "{} frames", frames.len());
    let usual = frames.iter().filter(|frame| frame.len() < 70_000).count();
    assert_eq!(frames.len() - usual, 1, "only the frame with the large row is larger than usual");
    let messages = messages(&frames);
    let inserts = messages.iter().filter(|message| matches!(message, Message::Insert(_))).count();
    assert_eq!((inserts, messages.len()), (100_001, 100_001 + 1 + 2 * 2 + 1), "startup, two transactions, one table");

    let mut recv = cluster.environment.program("pg_recvlogical");
    recv.arg("-h").arg(node.server.sockets()).arg("-p").arg(node.server.port().to_string());
    recv.args(["-U", SUPERUSER, "-d", DATABASE, "--slot", "walsender", "--start", "-n", "-f", "-", "--endpos", &end]);
    for (name, value) in options().to_pairs() {
        recv.arg("-o").arg(format!("{name}={value}"));
    }
    let output = recv.stdin(Stdio::null()).output().expect("pg_recvlogical");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // the Startup in the first frame tells how far the node is just then
    let expected: Vec<u8> = frames[1..].iter().flat_map(|frame| [frame.as_slice(), b"\n"].concat()).collect();
    let sent = output.stdout.get(frames[0].len() + 1..).expect("the first frame");
    // the first look went beyond the end, and may have met another heartbeat
    assert!(expected.starts_with(sent), "{} bytes of {}", sent.len(), expected.len());
    assert!(expected.len() - sent.len() < 1000, "{} bytes of {}", sent.len(), expected.len());
    cluster.finish();
}
