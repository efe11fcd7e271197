//! Conversion of sequences and columns: what it does, that it can be repeated and undone, and what is refused.

use meld_cluster_tests::node::SqlError;
use meld_cluster_tests::{Cluster, Node, Plan, mesh};

fn one_node(name: &str) -> Cluster {
    let cluster = Plan::new(name, 1).start();
    mesh::create_node(cluster.node(1));
    cluster
}

#[track_caller]
fn convert(node: &Node, table: &str, column: &str) -> bool {
    node.value(&format!("SELECT snowflake.convert_column_to_snowflake('{table}', '{column}')"))
}

/// Type and default of a column.
#[track_caller]
fn column(node: &Node, table: &str, column: &str) -> (String, String) {
    let sql = format!(
        "SELECT format_type(a.atttypid, a.atttypmod), coalesce(pg_get_expr(d.adbin, d.adrelid), a.attidentity::text)
           FROM pg_attribute a LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
          WHERE a.attrelid = '{table}'::regclass AND a.attname = '{column}'"
    );
    let row = &node.rows(&sql, &[])[0];
    (row.get(0), row.get(1))
}

#[track_caller]
fn insert(node: &Node, table: &str) -> i64 {
    node.value(&format!("INSERT INTO {table} (v) VALUES ('x') RETURNING id::int8"))
}

/// The server's own way to draw finds nothing, rather than what another node may give, too.
#[track_caller]
fn plain_nextval_fails(node: &Node, sequence: &str) -> SqlError {
    let error = node.error(&format!("SELECT nextval('{sequence}')"));
    assert_eq!(error.sqlstate, "2200H", "{error:?}");
    error
}

#[test]
fn serial_columns_of_every_size_are_converted_and_back() {
    let cluster = one_node("convert_serial");
    let node = cluster.node(1);
    for (table, kind) in [("s2", "smallserial"), ("s4", "serial"), ("s8", "bigserial")] {
        node.batch(&format!("CREATE TABLE {table} (id {kind} PRIMARY KEY, v text)"));
        assert_eq!((insert(node, table), insert(node, table)), (1, 2));
        assert!(convert(node, table, "id"));
        assert!(!convert(node, table, "id"), "a second time there is nothing to do");
        let expected = format!("snowflake.nextval('{table}_id_seq'::regclass)");
        assert_eq!(column(node, table, "id"), ("bigint".to_owned(), expected));
        let id = insert(node, table);
        assert_eq!((id & 1023, node.value::<i32>(&format!("SELECT snowflake.get_node({id})"))), (1, 1));
        plain_nextval_fails(node, &format!("{table}_id_seq"));
        let owned: String = node.value(&format!("SELECT pg_get_serial_sequence('{table}', 'id')"));
        assert_eq!(owned, format!("public.{table}_id_seq"));
        assert!(node.value::<bool>(&format!("SELECT snowflake.revert_column('{table}', 'id')")));
        assert!(!node.value::<bool>(&format!("SELECT snowflake.revert_column('{table}', 'id')")));
        let expected = format!("nextval('{table}_id_seq'::regclass)");
        assert_eq!(column(node, table, "id"), ("bigint".to_owned(), expected));
        assert_eq!(insert(node, table), 3, "it counts on where it was");
        assert!(convert(node, table, "id"));
        assert!(insert(node, table) > id);
    }
    cluster.finish();
}

#[test]
fn identity_columns_are_converted_and_back() {
    let cluster = one_node("convert_identity");
    let node = cluster.node(1);
    node.batch("CREATE ROLE reader");
    for (table, kind, letter) in [("a", "ALWAYS", "a"), ("d", "BY DEFAULT", "d")] {
        node.batch(&format!(
            "CREATE TABLE {table} (id int GENERATED {kind} AS IDENTITY (START 5 INCREMENT 10) PRIMARY KEY, v text);
             GRANT USAGE ON SEQUENCE {table}_id_seq TO reader"
        ));
        assert_eq!((insert(node, table), insert(node, table)), (5, 15));
        assert!(convert(node, table, "id"));
        assert!(!convert(node, table, "id"));
        let expected = format!("snowflake.nextval('{table}_id_seq'::regclass)");
        assert_eq!(column(node, table, "id"), ("bigint".to_owned(), expected));
        assert!(insert(node, table) > 1 << 40);
        plain_nextval_fails(node, &format!("{table}_id_seq"));
        assert!(node.value::<bool>(&format!("SELECT has_sequence_privilege('reader', '{table}_id_seq', 'USAGE')")));
        assert!(node.value::<bool>(&format!("SELECT snowflake.revert_sequence('{table}_id_seq')")));
        assert_eq!(column(node, table, "id"), ("bigint".to_owned(), letter.to_owned()));
        assert_eq!(insert(node, table), 25);
    }
    cluster.finish();
}

#[test]
fn a_sequence_takes_all_of_its_columns_along() {
    let cluster = one_node("convert_shared");
    let node = cluster.node(1);
    node.batch(
        "CREATE SEQUENCE \"A seq\" MINVALUE -10 START -10;
         CREATE TABLE one (id int PRIMARY KEY DEFAULT nextval('\"A seq\"'), v text);
         CREATE TABLE two (id bigint PRIMARY KEY DEFAULT nextval('\"A seq\"'), v text, n numeric DEFAULT nextval('\"A seq\"'));
         CREATE TABLE parent (id int DEFAULT nextval('\"A seq\"'), v text) PARTITION BY LIST (v);
         CREATE TABLE part PARTITION OF parent FOR VALUES IN ('x');
         CREATE TABLE other (id int DEFAULT 7, v text);
         ALTER TABLE other ALTER v SET DEFAULT 'y'",
    );
    assert_eq!(insert(node, "one"), -10);
    assert!(node.value::<bool>("SELECT snowflake.convert_sequence_to_snowflake('\"A seq\"')"));
    assert!(!node.value::<bool>("SELECT snowflake.convert_sequence_to_snowflake('\"A seq\"')"));
    let mut last = 0;
    for table in ["one", "two", "parent", "part"] {
        assert_eq!(column(node, table, "id").0, "bigint");
        let id = insert(node, table);
        assert!(id > last && id > 1 << 40, "{table}");
        last = id;
    }
    assert!(node.value::<bool>("SELECT bool_and(n > 1000000000000) FROM two"));
    plain_nextval_fails(node, "\"A seq\"");
    assert_eq!(node.value::<i64>("SELECT snowflake.currval('\"A seq\"')"), last);
    assert!(node.value::<bool>("SELECT snowflake.revert_sequence('\"A seq\"')"));
    assert_eq!(insert(node, "part"), -9);
    cluster.finish();
}

#[test]
fn what_cannot_be_converted_is_refused_with_the_reason() {
    let cluster = one_node("convert_refused");
    let node = cluster.node(1);
    node.batch(
        "CREATE SEQUENCE plain; CREATE UNLOGGED SEQUENCE unlogged; CREATE TABLE t (id serial PRIMARY KEY, v text);
         CREATE VIEW v1 AS SELECT id FROM t;
         CREATE TABLE parent (id serial PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent);
         CREATE TABLE expression (id text DEFAULT 'A' || nextval('plain'));
         CREATE SEQUENCE typed; CREATE TABLE typed_t (id real DEFAULT nextval('typed'));
         CREATE ROLE nobody_much",
    );
    let state = "SELECT string_agg(format('%s %s %s', s.seqrelid::regclass, s.seqincrement, s.seqtypid), ',' ORDER BY s.seqrelid)
                   FROM pg_sequence s";
    let before: String = node.value(state);
    for (call, sqlstate, texts) in [
        ("convert_column_to_snowflake('t', 'id')", "55000", vec!["used by views", "public.v1", "bigint"]),
        ("convert_sequence_to_snowflake('parent_id_seq')", "55000", vec!["referenced by columns", "public.child(p)"]),
        (
            "convert_sequence_to_snowflake('plain')",
            "55000",
            vec!["does more than draw", "snowflake.nextval('public.plain')"],
        ),
        ("convert_sequence_to_snowflake('typed')", "55000", vec!["another type", "real"]),
        ("convert_sequence_to_snowflake('unlogged')", "55000", vec!["temporary or unlogged"]),
        ("convert_sequence_to_snowflake('t')", "42809", vec!["is not a sequence"]),
        ("convert_column_to_snowflake('t', 'v')", "55000", vec!["not fed by a sequence"]),
        ("convert_column_to_snowflake('t', 'w')", "42703", vec!["does not exist"]),
        ("convert_sequence_to_snowflake(NULL)", "22004", vec!["must not be null"]),
        ("revert_sequence('snowflake.id_seq')", "42809", vec!["snowflake ids only"]),
        ("nextval('plain')", "55000", vec!["does not give snowflake ids", "convert_sequence_to_snowflake('plain')"]),
        ("nextval('t')", "42809", vec!["is not a sequence"]),
        ("currval()", "55000", vec!["is not yet defined in this session"]),
    ] {
        let sql = format!("SELECT snowflake.{call}");
        let error = node.error(&sql);
        meld_cluster_tests::refusal::judge(&error, &sql, &[sqlstate], &texts);
        eprintln!("{sql}\n    {}", error.text().replace('\n', "\n    "));
        assert_eq!(node.value::<String>(state), before, "{sql}");
    }
    node.batch("DROP VIEW v1");
    assert!(convert(node, "t", "id"));
    let mut client = node.client();
    client.batch_execute("SET ROLE nobody_much").expect("a role");
    let refused =
        client.batch_execute("SELECT snowflake.nextval('t_id_seq')").map_err(|e| SqlError::of(&e)).unwrap_err();
    assert_eq!(refused.sqlstate, "42501", "{refused:?}");
    client.batch_execute("SELECT snowflake.nextval()").expect("everybody may draw from the extension's own sequence");
    cluster.finish();
}

#[test]
fn a_session_that_may_not_write_does_not_draw() {
    let cluster = one_node("snowflake_read_only");
    let node = cluster.node(1);
    let error = node.error("BEGIN READ ONLY; SELECT snowflake.nextval()");
    assert_eq!(error.sqlstate, "25006", "{error:?}");
    node.batch("ROLLBACK");
    node.batch("SELECT meld.node_drop('n1')");
    let error = node.error("SELECT snowflake.nextval()");
    assert_eq!(error.sqlstate, "55000", "{error:?}");
    assert!(error.message.contains("no node number"), "{error:?}");
    node.batch(&format!("SELECT meld.node_create('n1', '{}', node_id => 77)", node.dsn()));
    assert_eq!(node.value::<i64>("SELECT snowflake.nextval() & 1023"), 77);
    let shown: String = node.value("SELECT snowflake.format(136169504773242881)::text");
    assert_eq!(shown, "{\"ts\": \"2024-01-11 18:08:59.845+00\", \"node\": 1, \"count\": 0}");
    assert_eq!(node.value::<String>("SELECT snowflake.get_epoch(136169504773242881)::text"), "1704996539.845");
    cluster.finish();
}
