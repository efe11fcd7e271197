//! What is published and how tables look change in the middle of a stream, and of a transaction.

use crate::stream::{add_to_set, create_slot, options, provider, remove_from_set, transcript};

#[test]
fn membership_counts_as_it_was_at_each_change() {
    let cluster = provider("plugin-membership");
    let node = cluster.node(1);
    node.batch("CREATE TABLE t (id int PRIMARY KEY)");
    create_slot(node, "s");
    node.batch("INSERT INTO t VALUES (1)");
    // in its own transaction
    node.batch(&format!(
        "BEGIN; INSERT INTO t VALUES (2); {} INSERT INTO t VALUES (3); COMMIT",
        add_to_set("default", "t")
    ));
    node.batch("INSERT INTO t VALUES (4)");
    node.batch(&remove_from_set("default", "t"));
    node.batch("INSERT INTO t VALUES (5)");
    // in the middle of others that are open and have not used the table yet: the change of the sets waits for writers
    node.batch("CREATE TABLE other (id int)");
    let mut open = node.client();
    let mut run = |sql: &str| open.batch_execute(sql).expect(sql);
    run("BEGIN; INSERT INTO other VALUES (6)");
    node.batch(&add_to_set("default", "t"));
    run("INSERT INTO t VALUES (7); COMMIT");
    run("BEGIN; INSERT INTO other VALUES (8)");
    node.batch(&remove_from_set("default", "t"));
    run("INSERT INTO t VALUES (9); COMMIT");
    let transaction = |id: i32| vec!["begin of n1".to_owned(), format!("insert t({id})"), "commit".to_owned()];
    let mut expected = transaction(3);
    expected.insert(1, "table public.t (*id)".into());
    expected.extend([4, 7].into_iter().flat_map(transaction));
    assert_eq!(transcript(node, "s", &options()), expected);
    cluster.finish();
}

#[test]
fn a_table_is_described_anew_when_it_changed_and_only_then() {
    let cluster = provider("plugin-structure");
    let node = cluster.node(1);
    node.batch("CREATE SCHEMA \"A b\"; CREATE TABLE \"A b\".\"T\" (id int PRIMARY KEY, gone int, a text)");
    node.batch("ALTER TABLE \"A b\".\"T\" DROP gone");
    node.batch(&add_to_set("default", "\"A b\".\"T\""));
    create_slot(node, "s");
    node.batch("INSERT INTO \"A b\".\"T\" VALUES (1, 'a')");
    node.batch("ANALYZE");
    node.batch("VACUUM");
    node.batch("CREATE INDEX ON \"A b\".\"T\" (a); CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'");
    node.batch(
        "BEGIN; INSERT INTO \"A b\".\"T\" VALUES (2, 'b');
         ALTER TABLE \"A b\".\"T\" ADD n int DEFAULT 7; INSERT INTO \"A b\".\"T\" VALUES (3, 'c');
         ALTER TABLE \"A b\".\"T\" RENAME a TO aa; ALTER TABLE \"A b\".\"T\" ADD g int GENERATED ALWAYS AS (id * 2) STORED;
         INSERT INTO \"A b\".\"T\" VALUES (4, 'd', 8);
         ALTER TABLE \"A b\".\"T\" DROP aa; UPDATE \"A b\".\"T\" SET n = n + 1 WHERE id = 2;
         ALTER TABLE \"A b\".\"T\" RENAME TO t; INSERT INTO \"A b\".t VALUES (5); COMMIT",
    );
    node.batch("ALTER SCHEMA \"A b\" RENAME TO s; INSERT INTO s.t VALUES (6)");
    node.batch("CREATE UNIQUE INDEX u ON s.t (n, id); ALTER TABLE s.t ALTER n SET NOT NULL");
    node.batch("ALTER TABLE s.t REPLICA IDENTITY USING INDEX u; DELETE FROM s.t WHERE id = 6");
    assert_eq!(
        transcript(node, "s", &options()),
        [
            "begin of n1",
            "table A b.T (*id a)",
            "insert T(1 a)",
            "commit",
            "begin of n1",
            "insert T(2 b)",
            "table A b.T (*id a n)",
            "insert T(3 c 7)",
            "table A b.T (*id aa n)",
            "insert T(4 d 8)",
            "table A b.T (*id n)",
            "update T(2 8)",
            "table A b.t (*id n)",
            "insert t(5 7)",
            "commit",
            "begin of n1",
            "table s.t (*id n)",
            "insert t(6 7)",
            "commit",
            "begin of n1",
            "table s.t (*id *n)",
            "delete t(6 7)",
            "commit",
        ]
    );
    cluster.finish();
}

#[test]
fn a_rewritten_table_says_nothing_of_its_old_rows() {
    let cluster = provider("plugin-rewrite");
    let node = cluster.node(1);
    node.batch("CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, '10')");
    node.batch(&add_to_set("default", "t"));
    create_slot(node, "s");
    node.batch("ALTER TABLE t ALTER a TYPE int USING a::int; INSERT INTO t VALUES (2, 20)");
    node.batch("VACUUM FULL t");
    node.batch("CLUSTER t USING t_pkey");
    assert_eq!(
        transcript(node, "s", &options()),
        ["begin of n1", "table public.t (*id a)", "insert t(2 20)", "commit"]
    );
    cluster.finish();
}
