//! Foreign keys of all kinds, each in the conflict that it is for.

use meld_cluster_tests::{Cluster, Node, Plan, compare, mesh, settle, stamps};
use serde_json::json;

use crate::orphans::{self, Reference};

fn start(name: &str, nodes: usize, mode: &str, tables: &str) -> Cluster {
    let cluster = Plan::new(name, nodes).setting(&format!("meld.foreign_key_conflict = {mode}")).start_mesh();
    mesh::replicate(&cluster, tables);
    cluster
}

/// The keys in a table, the same on all nodes.
#[track_caller]
fn assert_ids(cluster: &Cluster, table: &str, expected: &[i32]) {
    for node in cluster.nodes() {
        let ids: Vec<i32> = node.values(&format!("SELECT id FROM {table} ORDER BY id"));
        assert_eq!(ids, expected, "{table} on {}", node.name);
    }
}

#[track_caller]
fn assert_agree(cluster: &Cluster, references: &[Reference]) {
    compare::equal(cluster);
    let nodes: Vec<&Node> = cluster.nodes().iter().collect();
    let keys: Vec<_> = (1..10).map(|id| json!({ "id": id })).collect();
    for table in compare::user_tables(cluster.node(1)).iter().filter(|table| !table.contains("pair")) {
        stamps::agree(&nodes, table.rsplit('.').next().unwrap_or(table), &keys);
    }
    orphans::assert_none(cluster, references);
}

const fn reference(
    child: &'static str,
    columns: &'static str,
    parent: &'static str,
    referred: &'static str,
) -> Reference {
    Reference { child, columns, parent, referred }
}

const CHAIN: &str = "CREATE TABLE t1 (id int PRIMARY KEY, v text);
    CREATE TABLE t2 (id int PRIMARY KEY, t1 int NOT NULL REFERENCES t1 ON DELETE CASCADE, v text);
    CREATE TABLE t3 (id int PRIMARY KEY, t2 int NOT NULL REFERENCES t2 ON DELETE CASCADE, v text)";
const CHAIN_REFERENCES: [Reference; 2] = [reference("t2", "t1", "t1", "id"), reference("t3", "t2", "t2", "id")];

/// The head of a chain goes with all that hangs on it, while a third node adds to its end.
fn chain(mode: &str) -> Cluster {
    let cluster = start(&format!("fk_chain_{mode}"), 3, mode, CHAIN);
    let [n1, _, n3] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    n1.batch(
        "INSERT INTO t1 VALUES (1), (2); INSERT INTO t2 VALUES (1, 1), (2, 2); INSERT INTO t3 VALUES (1, 1), (2, 2)",
    );
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    n1.batch("DELETE FROM t1 WHERE id = 1");
    n3.batch("INSERT INTO t3 VALUES (3, 1)");
    mesh::reconnect(&cluster);
    settle::settle_decisions(&cluster);
    cluster
}

#[test]
fn a_chain_is_kept() {
    let cluster = chain("keep_parent");
    assert_ids(&cluster, "t1", &[1, 2]);
    assert_ids(&cluster, "t2", &[1, 2]);
    assert_ids(&cluster, "t3", &[2, 3]);
    assert_agree(&cluster, &CHAIN_REFERENCES);
    cluster.finish();
}

#[test]
fn the_end_of_a_chain_is_dropped() {
    let cluster = chain("drop_child");
    assert_ids(&cluster, "t1", &[2]);
    assert_ids(&cluster, "t2", &[2]);
    assert_ids(&cluster, "t3", &[2]);
    assert_agree(&cluster, &CHAIN_REFERENCES);
    cluster.finish();
}

/// Two links at different speed: the child of a row comes before the row, and its parents are fetched up the chain.
#[test]
fn parents_that_are_late_are_fetched() {
    let cluster = start("fk_early", 3, "exception", CHAIN);
    let [n1, n2, n3] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    mesh::set_enabled(n3, n1, false);
    n1.batch("INSERT INTO t1 VALUES (1, 'one'); INSERT INTO t2 VALUES (1, 1, 'two')");
    settle::settle_link(n1, n2);
    n2.batch("INSERT INTO t3 VALUES (1, 1, 'three')");
    settle::settle_link(n2, n3);
    let whole = "SELECT concat(t1.v, ' ', t2.v, ' ', t3.v) FROM t3 JOIN t2 ON t2.id = t2 JOIN t1 ON t1.id = t1";
    assert_eq!(n3.value::<String>(whole), "one two three");
    // gone again at n2 by the time that n3 hears of its child
    mesh::set_enabled(n3, n2, false);
    n1.batch("INSERT INTO t1 VALUES (2, 'one')");
    settle::settle_link(n1, n2);
    n2.batch("INSERT INTO t2 VALUES (2, 2, 'two'); DELETE FROM t2 WHERE id = 2; DELETE FROM t1 WHERE id = 2");
    mesh::set_enabled(n3, n2, true);
    settle::settle_link(n2, n3);
    assert_eq!(n3.values::<i32>("SELECT id FROM t2"), [1]);
    mesh::reconnect(&cluster);
    assert_agree(&cluster, &CHAIN_REFERENCES);
    for node in cluster.nodes() {
        assert_eq!(node.value::<i64>("SELECT count(*) FROM meld.resolutions WHERE conflict_type = 'foreign_key'"), 0);
    }
    cluster.finish();
}

const CODES: &str = "CREATE TABLE p (id int PRIMARY KEY, code text UNIQUE, v text);
    CREATE TABLE c (id int PRIMARY KEY, code text REFERENCES p (code) ON UPDATE CASCADE, v text)";
const CODES_REFERENCES: [Reference; 1] = [reference("c", "code", "p", "code")];

/// A foreign key to a unique index that is not the key by which rows are found.
#[test]
fn references_to_another_unique_key() {
    let cluster = start("fk_codes", 3, "keep_parent", CODES);
    let [n1, n2, n3] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    n1.batch("INSERT INTO p VALUES (1, 'a', 'A'), (2, 'b', 'B'), (3, 'c', 'C'), (4, 'd', 'D')");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    // deleted, renamed, and with its old value given to another
    n1.batch("DELETE FROM p WHERE id = 1; UPDATE p SET code = 'bb', v = 'renamed' WHERE id = 2");
    n1.batch("UPDATE p SET code = 'cc' WHERE id = 3; INSERT INTO p VALUES (5, 'c', 'new')");
    n2.batch("INSERT INTO c VALUES (1, 'a'), (2, 'b'), (3, 'c')");
    mesh::reconnect(&cluster);
    settle::settle_decisions(&cluster);
    assert_ids(&cluster, "c", &[1, 2, 3]);
    assert_agree(&cluster, &CODES_REFERENCES);
    let codes = "SELECT string_agg(concat(id, code), ' ' ORDER BY id) FROM p WHERE id < 3";
    assert_eq!(n3.value::<String>(codes), "1a 2b");
    // one that is late
    mesh::set_enabled(n3, n1, false);
    n1.batch("INSERT INTO p VALUES (7, 'late', 'L')");
    settle::settle_link(n1, n2);
    n2.batch("INSERT INTO c VALUES (7, 'late')");
    settle::settle_link(n2, n3);
    assert_eq!(n3.values::<i32>("SELECT id FROM p WHERE code = 'late'"), [7]);
    mesh::reconnect(&cluster);
    assert_agree(&cluster, &CODES_REFERENCES);
    cluster.finish();
}

/// If the parent can't come back, the child goes.
#[test]
fn a_parent_whose_value_was_given_away_does_not_return() {
    let cluster = start(
        "fk_given_away",
        2,
        "keep_parent",
        "CREATE TABLE p (id int PRIMARY KEY, u text UNIQUE);
        CREATE TABLE c (id int PRIMARY KEY, p int NOT NULL REFERENCES p)",
    );
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("INSERT INTO p VALUES (1, 'mine')");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    n1.batch("DELETE FROM p; INSERT INTO p VALUES (2, 'mine')");
    n2.batch("INSERT INTO c VALUES (1, 1)");
    mesh::deliver(n2, n1);
    assert_eq!(n1.values::<i32>("SELECT id FROM p"), [2]);
    assert_eq!(n1.values::<i32>("SELECT id FROM c"), [0; 0]);
    // n2 hears of the delete before it hears of the removal, and keeps the parent, whose value then clashes
    mesh::reconnect(&cluster);
    settle::settle_decisions(&cluster);
    assert_ids(&cluster, "c", &[]);
    assert_agree(&cluster, &[reference("c", "p", "p", "id")]);
    cluster.finish();
}

const ODD: &str = "CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree);
    CREATE TABLE pair (x int, y text, PRIMARY KEY (y, x));
    CREATE TABLE simple (id int PRIMARY KEY, x int, y text, FOREIGN KEY (x, y) REFERENCES pair (x, y) MATCH SIMPLE);
    CREATE TABLE strict (id int PRIMARY KEY, x int, y text, FOREIGN KEY (x, y) REFERENCES pair (x, y) MATCH FULL);
    CREATE TABLE left_ring (id int PRIMARY KEY, other int);
    CREATE TABLE right_ring (id int PRIMARY KEY, other int REFERENCES left_ring DEFERRABLE INITIALLY DEFERRED);
    ALTER TABLE left_ring ADD FOREIGN KEY (other) REFERENCES right_ring DEFERRABLE INITIALLY DEFERRED;
    CREATE TABLE whole (id int PRIMARY KEY, v text) PARTITION BY LIST (id);
    CREATE TABLE whole_1 PARTITION OF whole FOR VALUES IN (1, 2);
    CREATE TABLE whole_2 PARTITION OF whole DEFAULT;
    CREATE TABLE part (id int PRIMARY KEY, w int NOT NULL REFERENCES whole) PARTITION BY LIST (id);
    CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1, 2);
    CREATE TABLE part_2 PARTITION OF part DEFAULT";

const ODD_REFERENCES: [Reference; 6] = [
    reference("tree", "up", "tree", "id"),
    reference("simple", "x, y", "pair", "x, y"),
    reference("strict", "x, y", "pair", "x, y"),
    reference("left_ring", "other", "right_ring", "id"),
    reference("right_ring", "other", "left_ring", "id"),
    reference("part", "w", "whole", "id"),
];

/// Everything that n1 deletes here gets children on n2.
fn odd(mode: &str) -> Cluster {
    let cluster = start(&format!("fk_odd_{mode}"), 2, mode, ODD);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("INSERT INTO tree VALUES (1, 1), (2, 1); INSERT INTO pair VALUES (1, 'a'), (2, 'b')");
    n1.batch("INSERT INTO whole VALUES (1), (5)");
    n1.batch(
        "BEGIN; INSERT INTO left_ring VALUES (1, 1), (2, 2); INSERT INTO right_ring VALUES (1, 1), (2, 2); COMMIT",
    );
    n2.batch("INSERT INTO simple VALUES (8, 1, NULL), (9, NULL, NULL); INSERT INTO strict VALUES (9, NULL, NULL)");
    settle::settle(&cluster);
    orphans::assert_none(&cluster, &ODD_REFERENCES);
    mesh::disconnect(&cluster);
    n1.batch("DELETE FROM tree; DELETE FROM pair; DELETE FROM whole");
    n1.batch("BEGIN; DELETE FROM left_ring; DELETE FROM right_ring; COMMIT");
    n2.batch(
        "INSERT INTO tree VALUES (3, 2); INSERT INTO simple VALUES (1, 1, 'a'); INSERT INTO strict VALUES (1, 2, 'b')",
    );
    n2.batch("INSERT INTO part VALUES (1, 1), (3, 5); INSERT INTO left_ring VALUES (3, 1)");
    mesh::reconnect(&cluster);
    settle::settle_decisions(&cluster);
    assert_agree(&cluster, &ODD_REFERENCES);
    cluster
}

#[test]
fn odd_ones_are_kept() {
    let cluster = odd("keep_parent");
    assert_ids(&cluster, "tree", &[1, 2, 3]);
    assert_ids(&cluster, "simple", &[1, 8, 9]);
    assert_ids(&cluster, "strict", &[1, 9]);
    assert_ids(&cluster, "whole", &[1, 5]);
    assert_ids(&cluster, "part", &[1, 3]);
    assert_ids(&cluster, "left_ring", &[1, 3]);
    assert_ids(&cluster, "right_ring", &[1]);
    cluster.finish();
}

#[test]
fn odd_ones_are_dropped() {
    let cluster = odd("drop_child");
    assert_ids(&cluster, "tree", &[]);
    assert_ids(&cluster, "simple", &[8, 9]);
    assert_ids(&cluster, "strict", &[9]);
    assert_ids(&cluster, "whole", &[]);
    assert_ids(&cluster, "part", &[]);
    assert_ids(&cluster, "left_ring", &[]);
    assert_ids(&cluster, "right_ring", &[]);
    cluster.finish();
}

/// A truncate takes the parent of a row that is later than it.
#[test]
fn a_truncate_leaves_no_row_alone() {
    for mode in ["keep_parent", "drop_child"] {
        let cluster = start(&format!("fk_truncate_{mode}"), 2, mode, CHAIN);
        let [n1, n2] = [cluster.node(1), cluster.node(2)];
        n1.batch("INSERT INTO t1 VALUES (1), (2); INSERT INTO t2 VALUES (1, 1), (2, 2)");
        settle::settle(&cluster);
        mesh::disconnect(&cluster);
        n1.batch("TRUNCATE t1, t2, t3");
        n2.batch("INSERT INTO t2 VALUES (3, 2)");
        mesh::reconnect(&cluster);
        settle::settle_decisions(&cluster);
        let kept = mode == "keep_parent";
        assert_ids(&cluster, "t1", if kept { &[2] } else { &[] });
        assert_ids(&cluster, "t2", if kept { &[3] } else { &[] });
        assert_agree(&cluster, &CHAIN_REFERENCES);
        cluster.finish();
    }
}

/// Rows that the origin took away with their parent, or cut from it, are not taken or cut again.
#[test]
fn cascades_are_not_run_twice() {
    let cluster = start(
        "fk_cascades",
        2,
        "keep_parent",
        "CREATE TABLE p (id int PRIMARY KEY);
        CREATE TABLE gone (id int PRIMARY KEY, p int NOT NULL REFERENCES p ON DELETE CASCADE);
        CREATE TABLE cut (id int PRIMARY KEY, p int REFERENCES p ON DELETE SET NULL ON UPDATE CASCADE)",
    );
    let n1 = cluster.node(1);
    n1.batch("INSERT INTO p SELECT g FROM generate_series(1, 300) g;
              INSERT INTO gone SELECT g, g FROM generate_series(1, 300) g; INSERT INTO cut SELECT g, g FROM generate_series(1, 300) g");
    n1.batch("UPDATE p SET id = id + 1000 WHERE id NOT IN (SELECT p FROM gone)");
    n1.batch("DELETE FROM p WHERE id > 100");
    settle::settle(&cluster);
    assert_agree(&cluster, &[reference("gone", "p", "p", "id"), reference("cut", "p", "p", "id")]);
    for node in cluster.nodes() {
        assert_eq!(node.value::<i64>("SELECT count(*) FROM gone"), 100);
        assert_eq!(node.value::<i64>("SELECT count(p) FROM cut"), 100);
        assert_eq!(node.value::<i64>("SELECT count(*) FROM meld.resolutions"), 0, "no conflict on {}", node.name);
    }
    cluster.finish();
}

/// A transaction that looks up, takes away and puts back what its own rows refer to, while another node wants to keep it.
#[test]
fn parents_that_come_and_go_in_one_transaction() {
    let cluster = start(
        "fk_come_and_go",
        2,
        "drop_child",
        "CREATE TABLE p (id int PRIMARY KEY);
        CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
    );
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("INSERT INTO p VALUES (1), (2)");
    settle::settle(&cluster);
    n1.batch(
        "BEGIN; INSERT INTO c VALUES (1, 1), (2, 1), (3, 3); DELETE FROM p WHERE id = 1; INSERT INTO c VALUES (4, 1);
              INSERT INTO p VALUES (1), (3); DELETE FROM c WHERE id = 2; COMMIT",
    );
    settle::settle(&cluster);
    assert_ids(&cluster, "c", &[1, 3, 4]);
    mesh::disconnect(&cluster);
    n1.batch(
        "BEGIN; INSERT INTO c VALUES (5, 2), (6, 2); DELETE FROM c WHERE p = 2; DELETE FROM p WHERE id = 2;
              INSERT INTO c VALUES (7, 2); UPDATE c SET p = 3 WHERE id = 7; COMMIT",
    );
    n2.batch("INSERT INTO c VALUES (8, 2), (9, 1)");
    mesh::reconnect(&cluster);
    assert_ids(&cluster, "c", &[1, 3, 4, 7, 9]);
    assert_agree(&cluster, &[reference("c", "p", "p", "id")]);
    cluster.finish();
}

/// One transaction fills tables that were empty: a look for each row must not become a scan for each row.
#[test]
fn a_transaction_that_fills_parents_and_children() {
    let cluster = start(
        "fk_fill",
        2,
        "keep_parent",
        "CREATE TABLE p (id text PRIMARY KEY);
        CREATE TABLE c (id int PRIMARY KEY, p text NOT NULL REFERENCES p ON DELETE CASCADE); CREATE INDEX ON c (p)",
    );
    let n1 = cluster.node(1);
    n1.batch(
        "BEGIN; INSERT INTO p SELECT g FROM generate_series(1, 30000) g;
              INSERT INTO c SELECT g, g FROM generate_series(1, 30000) g; COMMIT",
    );
    settle::settle(&cluster);
    n1.batch("DELETE FROM p");
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(cluster.node(2).value::<i64>("SELECT count(*) FROM c"), 0);
    cluster.finish();
}
