//! Large values that the stream leaves out because they did not change: the whole row is on every node all the same, also
//! where the version that the change replaced is not.

use meld_cluster_tests::mesh::Proxied;
use meld_cluster_tests::proxy::Damage;
use meld_cluster_tests::wait::{self, Look};
use meld_cluster_tests::{Cluster, Node, Plan, compare, fault, mesh, settle};

/// A megabyte that is neither compressed nor kept in the row.
const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, big text);
    ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
    CREATE FUNCTION big(name text) RETURNS text LANGUAGE sql IMMUTABLE AS
    $$ SELECT name || string_agg(md5(name || i), '') FROM generate_series(1, 32768) i $$";

const WHOLE: usize = 32768 * 32 + 1;

#[track_caller]
fn write(node: &Node, statements: &[&str]) {
    statements.iter().for_each(|sql| node.batch(sql));
}

/// Key, small value and name of the large one of all rows; each large value must be whole.
#[track_caller]
fn assert_rows(cluster: &Cluster, expected: &str) {
    compare::equal(cluster);
    for node in cluster.nodes() {
        let rows: String =
            node.value("SELECT string_agg(concat(id, ' ', v, ' ', left(big, 1)), ', ' ORDER BY id) FROM t");
        assert_eq!(rows, expected, "{}", node.name);
        let torn: i64 =
            node.value(&format!("SELECT count(*) FROM t WHERE length(big) <> {WHOLE} OR big <> big(left(big, 1))"));
        assert_eq!(torn, 0, "{}", node.name);
    }
}

/// The third node hears of the second one's updates before it has what they replaced, or has written the rows itself.
/// Whatever the order in which the first and the third node hear the others, all end with the same whole rows.
#[track_caller]
fn three_nodes(name: &str, at_first: [usize; 2], at_third: [usize; 2]) {
    let cluster = Plan::new(name, 3).start_mesh();
    mesh::replicate(&cluster, TABLE);
    let [n1, n2, n3] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    n1.batch("INSERT INTO t SELECT i, 'base', big('A') FROM generate_series(2, 14) i");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    write(
        n1,
        &[
            "INSERT INTO t VALUES (20, 'base', big('A'))",
            "INSERT INTO t VALUES (21, 'base', big('A'))",
            "UPDATE t SET big = big('B') WHERE id IN (2, 3, 6)",
        ],
    );
    mesh::deliver(n1, n2);
    write(n3, &["UPDATE t SET big = big('C') WHERE id IN (4, 8, 14)", "UPDATE t SET v = 'n3' WHERE id = 13"]);
    write(
        n2,
        &[
            // rows that the third node lacks
            "UPDATE t SET v = 'n2' WHERE id = 20",
            "UPDATE t SET v = 'n2' WHERE id = 21",
            "DELETE FROM t WHERE id = 21",
            // versions of the first node that the third has not heard of
            "UPDATE t SET v = 'n2' WHERE id = 2",
            "UPDATE t SET v = 'n2' WHERE id = 3",
            "DELETE FROM t WHERE id = 3",
            "UPDATE t SET id = 106 WHERE id = 6",
            // of base rows, which the third has or has written itself
            "UPDATE t SET id = 107 WHERE id = 7",
            "UPDATE t SET v = 'n2' WHERE id IN (4, 5)",
            "UPDATE t SET id = id + 100 WHERE id IN (8, 9, 10)",
            "DELETE FROM t WHERE id IN (11, 13)",
            "UPDATE t SET v = 'n2' WHERE id = 12",
            "DELETE FROM t WHERE id = 12",
            // what is fetched for the first update is newer than it
            "UPDATE t SET v = 'n2' WHERE id = 14",
            "UPDATE t SET big = big('D') WHERE id = 14",
        ],
    );
    write(
        n3,
        &[
            "UPDATE t SET big = big('C') WHERE id IN (5, 9)",
            // back from the dead, and the large value is not in the stream
            "UPDATE t SET v = 'n3' WHERE id IN (10, 11, 12)",
        ],
    );
    for place in at_third {
        mesh::deliver(cluster.node(place), n3);
    }
    for place in at_first {
        mesh::set_enabled(n1, cluster.node(place), true);
        settle::settle_link(cluster.node(place), n1);
    }
    mesh::reconnect(&cluster);
    assert_rows(
        &cluster,
        "2 n2 B, 4 n2 A, 5 base C, 9 base C, 10 n3 A, 11 n3 A, 12 n3 A, 14 n2 D, 20 n2 A, \
         106 base B, 107 base A, 108 base A, 109 base A, 110 base A",
    );
    cluster.finish();
}

#[test]
fn left_out_values_when_the_replaced_version_comes_last() {
    three_nodes("toast_last", [2, 3], [2, 1]);
}

#[test]
fn left_out_values_when_the_replaced_version_comes_first() {
    three_nodes("toast_first", [3, 2], [1, 2]);
}

/// Rows that were there before the table was replicated are on one node only.
#[test]
fn a_row_that_is_missing_comes_whole() {
    let cluster = Plan::new("toast_missing", 2).start_mesh();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    cluster.batch(TABLE);
    n1.batch("INSERT INTO t SELECT i, 'old', big('A') FROM generate_series(1, 4) i");
    cluster.batch("SELECT meld.repset_add_table('default', 't')");
    n1.batch("UPDATE t SET v = 'new' WHERE id = 1");
    n1.batch("UPDATE t SET id = 12 WHERE id = 2");
    n1.batch("BEGIN; UPDATE t SET v = 'one' WHERE id = 3; UPDATE t SET v = 'two' WHERE id = 3; COMMIT");
    n1.batch("UPDATE t SET v = 'new' WHERE id = 4");
    settle::settle(&cluster);
    assert_rows(&cluster, "1 new A, 3 two A, 4 new A, 12 old A");
    n2.batch("UPDATE t SET v = v || '!'");
    settle::settle(&cluster);
    assert_rows(&cluster, "1 new! A, 3 two! A, 4 new! A, 12 old! A");
    cluster.finish();
}

/// The provider cannot be reached just when its row is needed; nothing is guessed meanwhile, and all is well afterwards.
#[test]
fn an_unreachable_provider_is_waited_for() {
    let cluster = Plan::new("toast_unreachable", 2).start();
    let links = Proxied::connect_all(&cluster);
    fault::expect_lost_links(&cluster);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    mesh::replicate(&cluster, TABLE);
    cluster.batch("CREATE TABLE gate (id int PRIMARY KEY, n int); SELECT meld.repset_add_table('default', 'gate')");
    n1.batch("INSERT INTO gate VALUES (1, 0); INSERT INTO t SELECT i, 'base', big('A') FROM generate_series(1, 2) i");
    settle::settle(&cluster);
    for (round, damage) in [Damage::Refuse, Damage::Stall].into_iter().enumerate() {
        let id = round + 1;
        mesh::set_enabled(n1, n2, false);
        n2.batch(&format!("UPDATE t SET big = big('C') WHERE id = {id}"));
        // the transaction is here, and stands still before it comes to the row
        let mut client = n2.client();
        let mut local = client.transaction().expect("begin");
        local.batch_execute("SELECT FROM gate FOR UPDATE").expect("lock");
        n1.batch(&format!("BEGIN; UPDATE gate SET n = n + 1; UPDATE t SET v = 'n1' WHERE id = {id}; COMMIT"));
        until_apply_waits(n2);
        links.between(n2, n1).set(damage);
        local.rollback().expect("release");
        if damage == Damage::Refuse {
            let failed = until_fetch_fails(n2, n1);
            assert!(failed.starts_with("08"), "a connection's error and not {failed}");
        } else {
            wait::until_equal("apply waiting for locks", 0, || lock_waits(n2));
        }
        let row: String = n2.value(&format!("SELECT concat(v, left(big, 1)) FROM t WHERE id = {id}"));
        assert_eq!(row, "baseC", "nothing is guessed");
        links.heal();
        mesh::set_enabled(n1, n2, true);
        settle::settle(&cluster);
    }
    assert_rows(&cluster, "1 n1 A, 2 n1 A");
    cluster.finish();
}

#[track_caller]
fn until_apply_waits(node: &Node) {
    wait::until_value("apply to wait for a lock", || lock_waits(node), |count| *count > 0);
}

fn lock_waits(node: &Node) -> i64 {
    node.value(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND backend_type LIKE 'meld apply%'",
    )
}

/// The provider sends a commit before its own sessions can see what it did.
#[test]
fn a_fetch_waits_for_the_transaction_that_led_to_it() {
    let cluster = Plan::new("toast_behind", 1).start_mesh();
    let node = cluster.node(1);
    mesh::replicate(&cluster, TABLE);
    let mut client = node.client();
    let mut writer = client.transaction().expect("begin");
    writer.batch_execute("INSERT INTO t VALUES (1, 'new', big('A'))").expect("insert");
    let xid: String = writer.query_one("SELECT pg_current_xact_id()::xid::text", &[]).expect("xid").get(0);
    let fetch =
        |behind: &str| format!("SELECT count(*) FROM meld.fetch_row('public', 't', '{{id}}', '{{1}}', {behind})");
    assert_eq!(node.value::<i64>(&fetch("NULL")), 0, "not there yet");
    let mut other = node.client();
    let fetched = std::thread::spawn(move || other.query_one(&fetch(&xid), &[]).expect("fetch").get::<_, i64>(0));
    fault::session_pid(node, "wait_event = 'transactionid'");
    writer.commit().expect("commit");
    assert_eq!(fetched.join().expect("fetched"), 3, "a row for each column");
    cluster.finish();
}

/// SQLSTATE of the error that the link shows.
#[track_caller]
fn until_fetch_fails(subscriber: &Node, provider: &Node) -> String {
    let name = mesh::subscription(subscriber, provider);
    let sql = format!("SELECT last_sqlstate FROM meld.sub_show_status('{name}') WHERE last_sqlstate IS NOT NULL");
    wait::until("the link to show an error", wait::DEADLINE, || match subscriber.try_value::<String>(&sql) {
        Some(sqlstate) => Look::Done(sqlstate),
        None => Look::Seen(mesh::status(subscriber, provider)),
    })
}
