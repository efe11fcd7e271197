//! TRUNCATE: rows up to its stamp go on every node, newer ones stay, older ones that arrive later stay out.

use meld_cluster_tests::{Cluster, Node, Plan, compare, mesh, resolutions, settle, stamps};
use serde_json::json;

/// Runs statements as transactions of their own, so that each has its own stamp.
#[track_caller]
fn write(node: &Node, statements: &[&str]) {
    statements.iter().for_each(|sql| node.batch(sql));
}

#[track_caller]
fn assert_rows(cluster: &Cluster, table: &str, expected: &str) {
    for node in cluster.nodes() {
        let rows: Option<String> =
            node.value(&format!("SELECT string_agg(concat(id, ' ', v), ', ' ORDER BY id) FROM {table}"));
        assert_eq!(rows.unwrap_or_default(), expected, "{}", node.name);
    }
    let nodes: Vec<&Node> = cluster.nodes().iter().collect();
    compare::tables_equal(&nodes, &[table]);
    let keys: Vec<_> = (1..=30).map(|id| json!({ "id": id })).collect();
    stamps::agree(&nodes, table, &keys);
}

fn history(node: &Node, table: &str) -> Vec<String> {
    let key = |entry: &resolutions::Resolution| entry.key.as_ref().map(|key| key["id"].to_string()).unwrap_or_default();
    let entries = resolutions::of(node, table);
    entries.iter().map(|entry| format!("{} {} {}", key(entry), entry.conflict, entry.resolution)).collect()
}

/// Rows of the second node, older and newer than the truncate of the first, in both orders at the third.
#[test]
fn older_rows_go_and_newer_ones_stay() {
    let cluster = Plan::new("truncate", 3).start_mesh();
    let [n1, n2, n3] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    for (table, order) in [("first", [1, 2]), ("second", [2, 1])] {
        mesh::replicate(&cluster, &format!("CREATE TABLE {table} (id int PRIMARY KEY, v text, w text)"));
        n1.batch(&format!("INSERT INTO {table} SELECT i, 'base', 'w' FROM generate_series(1, 8) i"));
        settle::settle(&cluster);
        mesh::disconnect(&cluster);
        let sql = |text: &str| text.replace("TABLE", table);
        write(
            n2,
            &[
                &sql("UPDATE TABLE SET v = 'old' WHERE id = 1"),
                &sql("INSERT INTO TABLE VALUES (11, 'old')"),
                &sql("DELETE FROM TABLE WHERE id = 2"),
                &sql("UPDATE TABLE SET id = 15 WHERE id = 7"),
            ],
        );
        write(n1, &[&sql("TRUNCATE TABLE"), &sql("INSERT INTO TABLE VALUES (3, 'after')")]);
        write(
            n2,
            &[
                &sql("UPDATE TABLE SET v = 'new' WHERE id = 4"),
                &sql("INSERT INTO TABLE VALUES (12, 'new')"),
                &sql("DELETE FROM TABLE WHERE id = 5"),
                &sql("UPDATE TABLE SET id = 16, v = 'moved' WHERE id = 8"),
            ],
        );
        for place in order {
            mesh::deliver(cluster.node(place), n3);
        }
        mesh::deliver(n2, n1);
        mesh::reconnect(&cluster);
        assert_rows(&cluster, table, "3 after, 4 new, 12 new, 16 moved");
        let whole: String = n1.value(&sql("SELECT w FROM TABLE WHERE id = 4"));
        assert_eq!(whole, "w", "the whole row is back");
        let late = [
            "1 update_deleted skip",
            "11 insert_deleted skip",
            "2 delete_missing skip",
            "7 delete_missing skip",
            "15 insert_deleted skip",
            "4 update_deleted apply_remote",
            "5 delete_missing skip",
            "8 delete_missing skip",
        ];
        assert_eq!(history(n1, table), late, "{table}");
        if order == [1, 2] {
            assert_eq!(history(n3, table), late, "{table}");
        }
    }
    cluster.finish();
}

/// A row that is older than a truncate stays out for good, also behind a younger tombstone of its key, also where that
/// arrives first, and after a restart.
#[test]
fn an_older_row_stays_out_behind_a_younger_tombstone() {
    let cluster = Plan::new("truncate_late", 3).start_mesh();
    let [n1, n2, n3] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    mesh::replicate(&cluster, "CREATE TABLE t (id int PRIMARY KEY, v text)");
    n1.batch("INSERT INTO t VALUES (1, 'base')");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    write(n2, &["INSERT INTO t VALUES (13, 'old')", "INSERT INTO t VALUES (14, 'old')"]);
    write(n1, &["TRUNCATE t"]);
    write(n3, &["INSERT INTO t VALUES (13, 'young')", "DELETE FROM t WHERE id = 13"]);
    write(n3, &["INSERT INTO t VALUES (14, 'stays')"]);
    mesh::deliver(n3, n1);
    mesh::deliver(n1, n3);
    meld_cluster_tests::fault::restart(n1);
    mesh::deliver(n2, n1);
    mesh::deliver(n2, n3);
    mesh::reconnect(&cluster);
    assert_rows(&cluster, "t", "14 stays");
    assert_eq!(history(n1, "t"), ["13 insert_deleted skip", "14 insert_exists keep_local"]);
    assert_eq!(history(n3, "t"), history(n1, "t"));
    cluster.finish();
}

/// Equal stamps are one transaction, whose changes act in its order.
#[test]
fn rows_of_the_truncating_transaction() {
    let cluster = Plan::new("truncate_own", 2).start_mesh();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    mesh::replicate(
        &cluster,
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text)",
    );
    n1.batch("INSERT INTO t VALUES (1, 'base'); INSERT INTO u VALUES (1, 'base')");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    n1.batch(
        "BEGIN; INSERT INTO t VALUES (2, 'before'); INSERT INTO u VALUES (2, 'before'); TRUNCATE t, u;
         INSERT INTO t VALUES (1, 'again'), (3, 'after'); UPDATE t SET v = v || '!'; COMMIT",
    );
    n2.batch("INSERT INTO u VALUES (4, 'newer')");
    n2.batch("BEGIN; TRUNCATE t; ROLLBACK");
    mesh::reconnect(&cluster);
    assert_rows(&cluster, "t", "1 again!, 3 after!");
    assert_rows(&cluster, "u", "4 newer");
    assert_eq!([history(n1, "t"), history(n2, "t")], [Vec::<String>::new(), Vec::new()]);

    // both truncate: the later one decides
    mesh::disconnect(&cluster);
    write(n1, &["TRUNCATE u", "INSERT INTO u VALUES (5, 'between')"]);
    write(n2, &["TRUNCATE u", "INSERT INTO u VALUES (6, 'behind')"]);
    mesh::reconnect(&cluster);
    assert_rows(&cluster, "u", "6 behind");
    assert_eq!(history(n2, "u"), ["5 insert_deleted skip"]);
    cluster.finish();
}
