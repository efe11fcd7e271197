//! The functions: what they refuse, and what they do.

use meld_cluster_tests::{Plan, mesh, refusal::refused};

#[test]
fn functions_check_their_arguments() {
    let cluster = Plan::new("delta-arguments", 1).start();
    let node = cluster.node(1);
    mesh::create_node(node);
    node.batch(
        "CREATE TABLE parent (id int PRIMARY KEY);
         CREATE DOMAIN amount AS int;
         CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, free int, word text NOT NULL, made int GENERATED ALWAYS AS (id) STORED NOT NULL,
             uniq int NOT NULL UNIQUE, expr int NOT NULL, cond int NOT NULL, incl int NOT NULL, ref int NOT NULL REFERENCES parent, dom amount NOT NULL);
         CREATE UNIQUE INDEX by_expr ON t ((expr + 1));
         CREATE UNIQUE INDEX by_cond ON t (uniq) INCLUDE (incl) WHERE cond > 0;
         CREATE INDEX harmless ON t (n);
         CREATE VIEW v AS SELECT * FROM t;
         CREATE UNLOGGED TABLE u (id int PRIMARY KEY, n int NOT NULL);
         CREATE TABLE root (id int, n int NOT NULL, part int NOT NULL, PRIMARY KEY (id, part)) PARTITION BY RANGE (part);
         CREATE TABLE empty (id int, n int NOT NULL) PARTITION BY RANGE (id);
         CREATE TABLE leaf1 PARTITION OF root FOR VALUES FROM (0) TO (10);
         CREATE TABLE leaf2 (part int NOT NULL, extra int, n int NOT NULL, id int NOT NULL);
         ALTER TABLE leaf2 DROP extra;
         ALTER TABLE root ATTACH PARTITION leaf2 FOR VALUES FROM (10) TO (20);
         CREATE TABLE root2 (id int, n int NOT NULL, part int NOT NULL) PARTITION BY RANGE ((part + 1));
         CREATE TABLE leaf3 PARTITION OF root2 FOR VALUES FROM (0) TO (10)",
    );
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("SELECT meld.delta_add_column(NULL, 'n')", &["22004"], &["relation"]),
        ("SELECT meld.delta_add_column('t', NULL)", &["22004"], &["column_name"]),
        ("SELECT meld.delta_add_column('t', 'no')", &["42703"], &["\"no\""]),
        ("SELECT meld.delta_add_column('t', 'xmin')", &["42703"], &["\"xmin\""]),
        ("SELECT meld.delta_add_column('t', 'word')", &["42804"], &["text"]),
        ("SELECT meld.delta_add_column('t', 'dom')", &["42804"], &["amount"]),
        ("SELECT meld.delta_add_column('t', 'free')", &["55000"], &["SET NOT NULL"]),
        ("SELECT meld.delta_add_column('t', 'made')", &["55000"], &["generated"]),
        ("SELECT meld.delta_add_column('t', 'id')", &["55000"], &["t_pkey"]),
        ("SELECT meld.delta_add_column('t', 'uniq')", &["55000"], &["index"]),
        ("SELECT meld.delta_add_column('t', 'expr')", &["55000"], &["by_expr"]),
        ("SELECT meld.delta_add_column('t', 'cond')", &["55000"], &["by_cond"]),
        ("SELECT meld.delta_add_column('t', 'incl')", &["55000"], &["by_cond"]),
        ("SELECT meld.delta_add_column('t', 'ref')", &["55000"], &["t_ref_fkey"]),
        ("SELECT meld.delta_add_column('v', 'n')", &["42809"], &["v\""]),
        ("SELECT meld.delta_add_column('u', 'n')", &["42809"], &["u\""]),
        ("SELECT meld.delta_add_column('empty', 'n')", &["42809"], &["partitions"]),
        ("SELECT meld.delta_add_column('root', 'part')", &["55000"], &["part\""]),
        ("SELECT meld.delta_add_column('root2', 'part')", &["55000"], &["partition key"]),
        ("SELECT meld.delta_add_column('pg_class', 'relpages')", &["42809"], &["pg_class\""]),
        ("SELECT meld.delta_remove_column('t', 'n')", &["42704"], &["not a delta column"]),
    ];
    for (sql, sqlstates, texts) in cases {
        refused(node, sql, sqlstates, texts);
    }
    let listed = || node.values::<String>("SELECT relname || '.' || column_name FROM meld.delta_columns ORDER BY 1");
    node.batch("SELECT meld.delta_add_column('t', 'n'); SELECT meld.delta_add_column('root', 'n')");
    refused(node, "SELECT meld.delta_add_column('t', 'n')", &["42710"], &["already"]);
    assert_eq!(listed(), ["leaf1.n", "leaf2.n", "t.n"]);
    node.batch("ALTER TABLE t RENAME n TO counter");
    node.batch("DROP TABLE leaf1");
    assert_eq!(listed(), ["leaf2.n", "t.counter"]);
    node.batch("DROP VIEW v; ALTER TABLE t DROP counter; SELECT meld.delta_remove_column('root', 'n')");
    assert_eq!(node.value::<i64>("SELECT count(*) FROM meld.delta_column"), 0);
    node.batch("CREATE ROLE nobody; GRANT USAGE ON SCHEMA meld TO nobody; SET ROLE nobody");
    assert_eq!(node.error("SELECT meld.delta_add_column('leaf2', 'n')").sqlstate, "42501");
    node.batch("RESET ROLE");
    cluster.finish();
}

#[test]
fn delta_apply_adds_what_a_peer_has_added() {
    let cluster = Plan::new("delta-apply", 1).start();
    let node = cluster.node(1);
    mesh::create_node(node);
    let sum = |kind: &str, old: &str, new: &str, local: &str| {
        node.value::<String>(&format!(
            "SELECT meld.delta_apply('{old}'::{kind}, '{new}'::{kind}, '{local}'::{kind})::text"
        ))
    };
    assert_eq!(sum("int2", "-32768", "32767", "-32768"), "32767");
    assert_eq!(sum("int4", "-2147483648", "2147483647", "-2147483648"), "2147483647");
    assert_eq!(
        sum("int8", "-9223372036854775808", "9223372036854775807", "-9223372036854775808"),
        "9223372036854775807"
    );
    assert_eq!(sum("float4", "1.5", "2.25", "10"), "10.75");
    assert_eq!(sum("float8", "1.5", "2.25", "10"), "10.75");
    assert_eq!(sum("numeric", "0.1", "0.35", "99999999999999999999"), "99999999999999999999.25");
    assert_eq!(sum("money", "1.10", "2.20", "-5.05"), "-$3.95");
    let too_large = [
        ("int2", "0", "1", "32767"),
        ("int4", "1", "0", "-2147483648"),
        ("int8", "0", "1", "9223372036854775807"),
        ("float4", "0", "3e38", "3e38"),
        ("float8", "0", "1e308", "1.7e308"),
        ("money", "0", "0.01", "92233720368547758.07"),
    ];
    for (kind, old, new, local) in too_large {
        let sql = format!("SELECT meld.delta_apply('{old}'::{kind}, '{new}'::{kind}, '{local}'::{kind})");
        assert_eq!(node.error(&sql).sqlstate, "22003", "{kind}");
    }
    assert_eq!(node.value::<Option<i32>>("SELECT meld.delta_apply(1, NULL, 2)"), None);
    cluster.finish();
}
