//! Each conflict by name on two nodes, with both outcomes, and what the history says about it on both.
//!
//! The links are cut, the nodes are written to apart, one after the other, and connected again. So the order of the
//! commit timestamps is known, and with it the winner.

use meld_cluster_tests::resolutions::{self, Resolution, Side, Stamp, stamp_of};
use meld_cluster_tests::{Cluster, Node, Plan, compare, mesh, settle};
use serde_json::{Value, json};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, w numeric)";

fn start(name: &str) -> Cluster {
    let cluster = Plan::new(name, 2).start_mesh();
    mesh::replicate(&cluster, TABLE);
    cluster
}

/// One write: its stamp, its transaction, and the stretch of WAL that its commit lies in.
struct Written {
    stamp: Stamp,
    xid: String,
    wal: (String, String),
}

/// Runs a statement as a transaction of its own.
fn write(node: &Node, sql: &str) -> Written {
    let before: String = node.value("SELECT pg_current_wal_insert_lsn()::text");
    let mut client = node.client();
    let mut transaction = client.transaction().expect("begin");
    transaction.batch_execute(sql).expect(sql);
    let xid: String = transaction.query_one("SELECT pg_current_xact_id()::xid::text", &[]).expect("xid").get(0);
    transaction.commit().expect("commit");
    let commit_ts = node.value(&format!(
        "SELECT to_char(pg_xact_commit_timestamp('{xid}'::xid) AT TIME ZONE 'UTC', '{}')",
        resolutions::TIME_FORMAT
    ));
    let after = node.value("SELECT pg_current_wal_insert_lsn()::text");
    Written { stamp: Stamp { commit_ts, node_id: node.id() }, xid, wal: (before, after) }
}

/// The two sides of a conflict about row 1 of table `t`.
fn expected(
    conflict: &str,
    resolution: &str,
    local: Option<(&Stamp, Value)>,
    remote: (&Written, Option<Value>),
) -> Resolution {
    Resolution {
        table: "t".into(),
        index: None,
        conflict: conflict.into(),
        resolution: resolution.into(),
        key: Some(json!({ "id": 1 })),
        local: local.map(|(stamp, row)| Side { stamp: stamp.clone(), row: Some(row) }),
        remote: Side { stamp: remote.0.stamp.clone(), row: remote.1 },
        remote_commit_lsn: String::new(),
        remote_xid: remote.0.xid.clone(),
    }
}

/// The node's history of `t` is this one conflict, and its position lies where the remote transaction was committed.
#[track_caller]
fn assert_history(node: &Node, remote: &Written, expected: Resolution) {
    let mut history = resolutions::of(node, "t");
    assert_eq!(history.len(), 1, "{}: {history:#?}", node.name);
    let lsn = std::mem::take(&mut history[0].remote_commit_lsn);
    assert_eq!(history[0], expected, "{}", node.name);
    let (from, to) = &remote.wal;
    let inside: bool = node.value(&format!("SELECT '{lsn}'::pg_lsn BETWEEN '{from}' AND '{to}'"));
    assert!(inside, "{lsn} is not between {from} and {to}");
    assert_eq!(history[0].table, "t");
    let schema: String = node.value("SELECT DISTINCT nspname::text FROM meld.resolutions");
    assert_eq!(schema, "public");
    let late: i64 =
        node.value("SELECT count(*) FROM meld.resolutions WHERE log_time NOT BETWEEN now() - interval '1 h' AND now()");
    assert_eq!(late, 0);
}

fn row(v: &str, w: f64) -> Value {
    json!({ "id": 1, "v": v, "w": w })
}

/// The nodes in the order in which they write.
fn in_order(cluster: &Cluster, first: usize) -> (&Node, &Node) {
    (cluster.node(first), cluster.node(3 - first))
}

#[track_caller]
fn insert_exists(first: usize) {
    let cluster = start("insert_exists");
    let (early, late) = in_order(&cluster, first);
    mesh::disconnect(&cluster);
    let loser = write(early, "INSERT INTO t VALUES (1, 'early', 1.5)");
    let winner = write(late, "INSERT INTO t VALUES (1, 'late', 2.5)");
    mesh::reconnect(&cluster);
    compare::equal(&cluster);
    assert_eq!(stamp_of(early, "t", "v = 'late'"), winner.stamp);
    let (lost, won) = (row("early", 1.5), row("late", 2.5));
    let here =
        expected("insert_exists", "apply_remote", Some((&loser.stamp, lost.clone())), (&winner, Some(won.clone())));
    assert_history(early, &winner, here);
    let here = expected("insert_exists", "keep_local", Some((&winner.stamp, won)), (&loser, Some(lost)));
    assert_history(late, &loser, here);
    cluster.finish();
}

#[test]
fn insert_exists_when_the_higher_node_wrote_last() {
    insert_exists(1);
}

#[test]
fn insert_exists_when_the_lower_node_wrote_last() {
    insert_exists(2);
}

#[track_caller]
fn update_origin_differs(first: usize) {
    let cluster = start("update_origin_differs");
    let (early, late) = in_order(&cluster, first);
    write(cluster.node(1), "INSERT INTO t VALUES (1, 'old', 0.5)");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    let loser = write(early, "UPDATE t SET v = 'early'");
    let winner = write(late, "UPDATE t SET w = 2.5");
    mesh::reconnect(&cluster);
    compare::equal(&cluster);
    assert_eq!(stamp_of(early, "t", "v = 'old' AND w = 2.5"), winner.stamp, "the whole row of the winner");
    let (lost, won) = (row("early", 0.5), row("old", 2.5));
    let here = expected(
        "update_origin_differs",
        "apply_remote",
        Some((&loser.stamp, lost.clone())),
        (&winner, Some(won.clone())),
    );
    assert_history(early, &winner, here);
    let here = expected("update_origin_differs", "keep_local", Some((&winner.stamp, won)), (&loser, Some(lost)));
    assert_history(late, &loser, here);
    cluster.finish();
}

#[test]
fn update_origin_differs_when_the_higher_node_wrote_last() {
    update_origin_differs(1);
}

#[test]
fn update_origin_differs_when_the_lower_node_wrote_last() {
    update_origin_differs(2);
}

/// The delete is newer than the row. Only its way is looked at: the update's way back meets no row, and needs
/// tombstones to stay out.
#[track_caller]
fn delete_origin_differs(first: usize) {
    let cluster = start("delete_origin_differs");
    let (early, late) = in_order(&cluster, first);
    write(cluster.node(1), "INSERT INTO t VALUES (1, 'old', 0.5)");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    let loser = write(early, "UPDATE t SET v = 'early'");
    let winner = write(late, "DELETE FROM t");
    mesh::set_enabled(early, late, true);
    settle::settle_link(late, early);
    assert_eq!(early.value::<i64>("SELECT count(*) FROM t"), 0);
    let here =
        expected("delete_origin_differs", "apply_remote", Some((&loser.stamp, row("early", 0.5))), (&winner, None));
    assert_history(early, &winner, here);
    cluster.finish();
}

#[test]
fn delete_origin_differs_when_the_higher_node_wrote_last() {
    delete_origin_differs(1);
}

#[test]
fn delete_origin_differs_when_the_lower_node_wrote_last() {
    delete_origin_differs(2);
}

/// The delete is older than the row: on the one side it loses, on the other the update brings the row back.
#[track_caller]
fn delete_exists(first: usize) {
    let cluster = start("delete_exists");
    let (early, late) = in_order(&cluster, first);
    write(cluster.node(1), "INSERT INTO t VALUES (1, 'old', 0.5)");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    let loser = write(early, "DELETE FROM t");
    let winner = write(late, "UPDATE t SET v = 'late'");
    mesh::reconnect(&cluster);
    compare::equal(&cluster);
    assert_eq!(stamp_of(early, "t", "v = 'late' AND w = 0.5"), winner.stamp, "the full row is back");
    let won = row("late", 0.5);
    assert_history(
        late,
        &loser,
        expected("delete_exists", "keep_local", Some((&winner.stamp, won.clone())), (&loser, None)),
    );
    let mut deleted = expected("update_deleted", "apply_remote", None, (&winner, Some(won)));
    deleted.local = Some(Side { stamp: loser.stamp.clone(), row: None });
    assert_history(early, &winner, deleted);
    cluster.finish();
}

#[test]
fn delete_exists_when_the_higher_node_wrote_last() {
    delete_exists(1);
}

#[test]
fn delete_exists_when_the_lower_node_wrote_last() {
    delete_exists(2);
}

/// Rows that were there before the table joined the set are on one node only.
#[test]
fn update_missing_inserts_and_delete_missing_is_skipped() {
    let cluster = Plan::new("missing", 2).start_mesh();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    cluster.batch(TABLE);
    n1.batch("INSERT INTO t VALUES (1, 'old', 0.5), (2, 'old', 0.5)");
    cluster.batch("SELECT meld.repset_add_table('default', 't')");
    let updated = write(n1, "UPDATE t SET v = 'new' WHERE id = 1");
    settle::settle(&cluster);
    let here = expected("update_missing", "apply_remote", None, (&updated, Some(row("new", 0.5))));
    assert_history(n2, &updated, here);
    assert_eq!(stamp_of(n2, "t", "id = 1 AND v = 'new' AND w = 0.5"), updated.stamp);

    n2.batch("DELETE FROM meld.resolutions");
    n2.batch("BEGIN; SET LOCAL session_replication_role = replica; COMMIT");
    let deleted = write(n1, "DELETE FROM t WHERE id = 2");
    settle::settle(&cluster);
    let mut here = expected("delete_missing", "skip", None, (&deleted, None));
    here.key = Some(json!({ "id": 2 }));
    assert_history(n2, &deleted, here);
    compare::equal(&cluster);
    assert_eq!(resolutions::of(n1, "t"), []);
    cluster.finish();
}

/// Nodes that take turns on a row have no conflicts, whoever wrote it before, and lose nothing.
#[test]
fn writes_in_turn_lose_nothing() {
    let cluster = start("turns");
    for round in 0..10 {
        for node in cluster.nodes() {
            let k = round * 2 + node.place;
            node.batch(&format!(
                "INSERT INTO t VALUES ({k}, 'x', 0); UPDATE t SET w = w + 1, v = v || '{}'",
                node.name
            ));
            settle::settle(&cluster);
        }
    }
    compare::equal(&cluster);
    assert_eq!(cluster.node(1).value::<i32>("SELECT max(w)::int FROM t"), 20);
    for node in cluster.nodes() {
        // each write replaced the version that its writer had seen
        assert_eq!(resolutions::of(node, "t"), [], "{}", node.name);
    }
    cluster.finish();
}

/// A key change is a delete of the old key and an insert of the new one.
#[test]
fn key_changes_meet_conflicts_on_both_keys() {
    let cluster = start("key_changes");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    write(n1, "INSERT INTO t VALUES (1, 'old', 0.5)");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    write(n2, "INSERT INTO t VALUES (2, 'taken', 0)");
    write(n1, "UPDATE t SET id = 2, v = 'moved' WHERE id = 1");
    write(n2, "UPDATE t SET v = 'late' WHERE id = 1");
    mesh::reconnect(&cluster);
    compare::equal(&cluster);
    let rows: String = n1.value("SELECT string_agg(concat(id, v), ' ' ORDER BY id) FROM t");
    assert_eq!(rows, "1late 2moved", "the later write of each key wins");
    let kinds = |node: &Node| -> Vec<String> { resolutions::of(node, "t").into_iter().map(|r| r.conflict).collect() };
    assert_eq!(kinds(n2), ["delete_exists", "insert_exists"]);
    assert_eq!(kinds(n1), ["insert_exists", "update_deleted"]);
    cluster.finish();
}

/// With the history switched off conflicts are decided alike and still logged by the server.
#[test]
fn conflicts_are_logged_by_the_server_and_counted() {
    let cluster = start("conflict_log");
    let n2 = cluster.node(2);
    for (key, save) in [(1, "on"), (2, "off")] {
        n2.batch(&format!("ALTER SYSTEM SET meld.save_resolutions = {save}"));
        n2.value::<bool>("SELECT pg_reload_conf()");
        mesh::disconnect(&cluster);
        cluster.batch(&format!("INSERT INTO t VALUES ({key}, (SELECT node_id FROM meld.local_node), 0)"));
        mesh::reconnect(&cluster);
    }
    compare::equal(&cluster);
    assert_eq!(resolutions::of(n2, "t").len(), 1);
    let lines =
        meld_cluster_tests::log_scan::entries_with(&n2.server.log, "conflict detected on relation \"public.t\"");
    assert_eq!(lines.len(), 2);
    assert!(
        lines.iter().all(|line| line.severity == "LOG" && line.message.contains("conflict=insert_exists")),
        "{lines:?}"
    );
    cluster.finish();
}
