//! Tombstones of large transactions, many in a row: what was deleted by one stays deleted on every node, and no more than
//! that, whatever its keys are like; and all of it is forgotten in the end.

use meld_cluster_tests::{Cluster, Node, Plan, compare, fault, mesh, resolutions, settle, stamps, wait};
use serde_json::{Value, json};

const ROWS: i64 = 3000;

/// Keys of all kinds: dense and sparse integers, random ones, text of which some begin with others, several columns.
const TABLES: [(&str, &str, &str); 5] = [
    ("dense", "id int PRIMARY KEY", "i"),
    ("sparse", "id bigint PRIMARY KEY", "(i::bigint - 1500) * 1000003"),
    ("random", "id uuid PRIMARY KEY", "md5(i::text)::uuid"),
    ("texts", "id text PRIMARY KEY", "repeat('a', i % 40) || i / 40"),
    ("pairs", "one int, id text, PRIMARY KEY (one, id)", "i % 7, 'key ' || i"),
];

fn start(name: &str, nodes: usize) -> Cluster {
    let cluster = Plan::new(name, nodes).start_mesh();
    let tables: Vec<String> = TABLES
        .iter()
        .map(|(table, key, _)| format!("CREATE TABLE {table} ({key}, n int NOT NULL, v text)").replace(") (", "("))
        .collect();
    mesh::replicate(&cluster, &tables.join(";"));
    for (table, _, key) in TABLES {
        cluster.node(1).batch(&format!("INSERT INTO {table} SELECT {key}, i, 'x' FROM generate_series(1, {ROWS}) i"));
    }
    settle::settle(&cluster);
    cluster
}

fn on_all(node: &Node, statement: &str) {
    TABLES.iter().for_each(|(table, ..)| node.batch(&statement.replace("{t}", table)));
}

fn bundled(node: &Node) -> i64 {
    node.value("SELECT coalesce(sum(key_count), 0)::bigint FROM meld.tombstone_bundle")
}

/// The numbers in every table, which are equal on all nodes, stamps too.
#[track_caller]
fn assert_numbers(cluster: &Cluster, condition: &str) {
    compare::equal(cluster);
    for (table, ..) in TABLES {
        let sql = format!("SELECT coalesce(array_agg(n ORDER BY n), '{{}}') FROM {table}");
        let expected = format!(
            "SELECT coalesce(array_agg(n ORDER BY n), '{{}}')::int[] FROM generate_series(1, {ROWS}) n WHERE {condition}"
        );
        let node = cluster.node(1);
        assert_eq!(node.value::<Vec<i32>>(&sql), node.value::<Vec<i32>>(&expected), "{table}");
    }
}

#[test]
fn what_a_large_transaction_deletes_stays_deleted() {
    let cluster = start("bundles", 3);
    let [n1, n2, n3] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    mesh::disconnect(&cluster);
    // older: lost; of rows that n1 deletes, and of others
    on_all(n2, "UPDATE {t} SET v = 'older' WHERE n % 5 = 0");
    on_all(n1, "DELETE FROM {t} WHERE n % 2 = 0");
    // newer: the rows come back
    on_all(n3, "UPDATE {t} SET v = 'newer' WHERE n % 6 = 0 AND n % 5 <> 0");
    assert_eq!(stamps::tombstones(n1, None), 5 * ROWS / 2);
    assert!(bundled(n1) > 5 * ROWS / 2 * 9 / 10, "{} are in bundles", bundled(n1));
    // what is known of them in shared memory goes with the server
    fault::expect_lost_links(&cluster);
    fault::kill_postmaster(n1);
    fault::start(n1);
    mesh::reconnect(&cluster);
    settle::settle(&cluster);
    assert_numbers(&cluster, "n % 2 = 1 OR n % 6 = 0 AND n % 5 <> 0");
    for (table, ..) in TABLES {
        let lost = resolutions::of(n1, table).into_iter().filter(|entry| entry.conflict == "update_deleted").count();
        // the older ones, and the newer ones, which have won
        let newer = (1..=ROWS).filter(|n| n % 6 == 0 && n % 5 != 0).count();
        assert_eq!(lost, (ROWS / 10) as usize + newer, "{table}");
    }
    for node in cluster.nodes() {
        wait::until_equal(&format!("tombstones of {}", node.name), 0, || stamps::tombstones(node, None));
    }
    cluster.finish();
}

#[test]
fn rows_put_back_and_deleted_again_have_the_last_stamp() {
    let cluster = start("bundles_again", 2);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    mesh::disconnect(&cluster);
    n1.batch("DELETE FROM dense");
    n2.batch("UPDATE dense SET v = 'between' WHERE id <= 500");
    n1.batch("INSERT INTO dense SELECT i, i, 'again' FROM generate_series(1, 1000) i");
    n2.batch("UPDATE dense SET v = 'later' WHERE id <= 10 OR id > 2990");
    n1.batch("DELETE FROM dense WHERE id BETWEEN 401 AND 600");
    let keys: Vec<Value> = (1..=ROWS).step_by(37).map(|id| json!({ "id": id })).collect();
    let of_n1 = stamps::of(n1, "dense", &keys);
    for (key, known) in keys.iter().zip(&of_n1) {
        let id = key["id"].as_i64().expect("a number");
        assert_eq!(
            matches!(known, stamps::Known::Live(_)),
            id <= 400 || (601..=1000).contains(&id),
            "{key}: {known:?}"
        );
        assert_ne!(*known, stamps::Known::Nothing, "{key}");
    }
    mesh::reconnect(&cluster);
    settle::settle(&cluster);
    compare::equal(&cluster);
    stamps::agree(&cluster.nodes().iter().collect::<Vec<_>>(), "dense", &keys);
    let texts: Vec<String> = n2.values("SELECT concat_ws(' ', v, count(*)) FROM dense GROUP BY v ORDER BY v");
    assert_eq!(texts, ["again 790", "later 20"]);
    cluster.finish();
}

#[test]
fn a_truncate_and_a_drop_take_bundles_along() {
    let cluster = start("bundles_truncate", 2);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    mesh::disconnect(&cluster);
    on_all(n1, "DELETE FROM {t} WHERE n > 1000");
    on_all(n2, "UPDATE {t} SET v = 'between' WHERE n > 2000");
    on_all(n1, "TRUNCATE {t}");
    on_all(n2, "UPDATE {t} SET v = 'later' WHERE n <= 1500 AND n % 3 = 0");
    mesh::reconnect(&cluster);
    settle::settle(&cluster);
    assert_numbers(&cluster, "n <= 1500 AND n % 3 = 0");

    mesh::disconnect(&cluster);
    n1.batch("DELETE FROM random");
    assert!(bundled(n1) > 0);
    n1.batch("DROP TABLE random");
    let left: i64 =
        n1.value("SELECT count(*) FROM meld.tombstone_bundle WHERE relid NOT IN (SELECT oid FROM pg_class)");
    assert_eq!(left, 0);
    cluster.finish();
}

/// Stamps that the server may forget are written out. A day passes on n1 while n2 has not heard of the delete.
#[test]
fn stamps_of_old_tombstones_are_written_out() {
    let cluster = Plan::new("bundles_old", 2).own_clocks().start();
    cluster.expect_log("clock of node");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    mesh::connect_all(&cluster);
    mesh::replicate(&cluster, "CREATE TABLE t (id int PRIMARY KEY, v text)");
    n1.batch("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 1000) i");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    n1.batch("DELETE FROM t WHERE id > 500");
    n1.batch("DELETE FROM t WHERE id = 1");
    let keys: Vec<Value> = [1, 600].into_iter().map(|id| json!({ "id": id })).collect();
    let before = stamps::of(n1, "t", &keys);
    n1.set_clock(7_200_000);
    wait::until_equal("implied stamps", 0, || {
        n1.value::<i64>(
            "SELECT (SELECT count(*) FROM meld.tombstone WHERE stamp_ts IS NULL OR since_ts IS NULL)
                  + (SELECT count(*) FROM meld.tombstone_bundle WHERE stamp_ts IS NULL OR since_ts IS NULL)",
        )
    });
    assert_eq!(stamps::of(n1, "t", &keys), before);
    assert_eq!(stamps::tombstones(n1, None), 501);
    n1.set_clock(0);
    n2.set_clock(0);
    cluster.finish();
}
