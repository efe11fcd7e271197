//! `row_stamp`: live rows, explicit stamps, tombstones, what is forgotten, partitions, rights, and bad keys.
//!
//! What is kept beside the rows is put there by hand, as the extension would write it, so that each case can be had.

use meld_cluster_tests::refusal::judge;
use meld_cluster_tests::server::Stop;
use meld_cluster_tests::{Node, Plan, mesh, settle};

/// `commit_ts|node|is_tombstone` for each row of the answer; times in UTC.
fn stamps(node: &Node, table: &str, key: &str) -> Vec<String> {
    node.values(&format!(
        "SELECT concat_ws('|', coalesce(to_char(commit_ts AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'), '-'),
             coalesce(node_id::text, '-'), is_tombstone) FROM meld.row_stamp('{table}', '{key}')"
    ))
}

fn committed(node: &Node, table: &str, condition: &str) -> String {
    node.value(&format!(
        "SELECT to_char(pg_xact_commit_timestamp(xmin) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')
         FROM {table} WHERE {condition}"
    ))
}

#[test]
fn live_rows_have_the_stamp_of_their_writer() {
    let cluster = Plan::new("row_stamp_live", 2).start_mesh();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    mesh::replicate(
        &cluster,
        "CREATE TYPE mood AS ENUM ('sad', 'ok');
         CREATE TABLE t (id int PRIMARY KEY, v text);
         CREATE TABLE keys (a text, \"B c\" numeric, u uuid, m mood, v text, PRIMARY KEY (u, a, \"B c\", m));
         CREATE TABLE by_index (id int PRIMARY KEY, code text NOT NULL UNIQUE);
         ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_code_key;
         CREATE TABLE parted (id int, at date, v text, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
         CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY HASH (id);
         CREATE TABLE parted_1_0 PARTITION OF parted_1 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE parted_1_1 PARTITION OF parted_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         CREATE TABLE parted_2 PARTITION OF parted DEFAULT",
    );
    n1.batch("INSERT INTO t VALUES (1, 'n1'), (2, 'n1')");
    n2.batch("INSERT INTO t VALUES (3, 'n2')");
    n1.batch(
        "INSERT INTO keys VALUES ('x', 12345678901234567890.10, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'ok', 'v')",
    );
    n1.batch("INSERT INTO by_index VALUES (1, 'one'); INSERT INTO parted SELECT n, '2024-06-01' FROM generate_series(1, 9) n");
    n2.batch("INSERT INTO parted VALUES (1, '2030-01-01')");
    settle::settle(&cluster);
    for node in cluster.nodes() {
        let of = |author: &Node, table: &str, condition: &str| {
            vec![format!("{}|{}|f", committed(author, table, condition), author.id())]
        };
        assert_eq!(stamps(node, "t", r#"{"id": 1}"#), of(n1, "t", "id = 1"), "{}", node.name);
        assert_eq!(stamps(node, "t", r#"{"id": "3"}"#), of(n2, "t", "id = 3"), "{}", node.name);
        assert_eq!(stamps(node, "t", r#"{"id": 4}"#), [""; 0]);
        let key = r#"{"a": "x", "B c": 12345678901234567890.1, "u": "A0EEBC999C0B4EF8BB6D6BB9BD380A11", "m": "ok"}"#;
        assert_eq!(stamps(node, "keys", key), of(n1, "keys", "true"));
        assert_eq!(stamps(node, "by_index", r#"{"code": "one"}"#), of(n1, "by_index", "true"));
        for id in 1..10 {
            let found = stamps(node, "parted", &format!(r#"{{"id": {id}, "at": "2024-06-01"}}"#));
            assert_eq!(found, of(n1, "parted", &format!("id = {id} AND at = '2024-06-01'")), "{id}");
        }
        let other = r#"{"id": 1, "at": "2030-01-01"}"#;
        assert_eq!(stamps(node, "parted", other), of(n2, "parted", "at = '2030-01-01'"));
        assert_eq!(stamps(node, "parted_2", other), of(n2, "parted", "at = '2030-01-01'"));
        assert_eq!(stamps(node, "parted_1", other), [""; 0], "not one of its rows");
    }
    // a frozen row keeps its stamp; one of the transaction that asks has none yet
    let before = stamps(n1, "t", r#"{"id": 1}"#);
    n1.batch("VACUUM FREEZE t");
    assert_eq!(stamps(n1, "t", r#"{"id": 1}"#), before);
    n1.batch("BEGIN; UPDATE t SET v = 'again' WHERE id = 3");
    assert_eq!(stamps(n1, "t", r#"{"id": 3}"#), ["-|1|f"]);
    n1.batch("ROLLBACK");
    cluster.finish();
}

#[test]
fn explicit_stamps_and_tombstones_count() {
    let cluster = Plan::new("row_stamp_kept", 1).start();
    let node = cluster.node(1);
    mesh::create_node(node);
    node.batch("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT n FROM generate_series(1, 6) n");
    let key = |id: i32| format!("'\\x{:08x}'", id as u32 ^ 1 << 31);
    let explicit = |id: i32, ts: &str, node_id: i32| {
        format!("INSERT INTO meld.row_stamp_override VALUES ('t'::regclass, {}, '{ts}', {node_id})", key(id))
    };
    let tombstone = |id: i32, stamp: &str| {
        format!(
            "INSERT INTO meld.tombstone (relid, key, stamp_ts, stamp_node) VALUES ('t'::regclass, {}, {stamp})",
            key(id)
        )
    };
    // an explicit stamp holds for the version that its transaction wrote
    node.batch(&format!(
        "BEGIN; UPDATE t SET v = 'merged' WHERE id = 1; {}; COMMIT",
        explicit(1, "2020-01-01 00:00+00", 7)
    ));
    assert_eq!(stamps(node, "t", r#"{"id": 1}"#), ["2020-01-01 00:00:00.000000|7|f"]);
    let fetched = "SELECT DISTINCT concat_ws('|', commit_us, node_id, is_known) FROM meld.fetch_row('public', 't', '{id}', '{1}')";
    assert_eq!(node.values::<String>(fetched), ["631152000000000|7|t"]);
    node.batch("UPDATE t SET v = 'local'  WHERE id = 1");
    assert_eq!(stamps(node, "t", r#"{"id": 1}"#), [format!("{}|1|f", committed(node, "t", "id = 1"))]);
    node.batch(&explicit(2, "2020-01-01 00:00+00", 7));
    assert_eq!(stamps(node, "t", r#"{"id": 2}"#), [format!("{}|1|f", committed(node, "t", "id = 2"))], "another's");

    // tombstones: none for a live row, the larger of two, the writer's own stamp, the floor
    node.batch(&format!("{}; {}", tombstone(1, "'2030-01-01 00:00+00', 9"), tombstone(20, "'2021-01-01 00:00+00', 3")));
    assert_eq!(stamps(node, "t", r#"{"id": 1}"#), [format!("{}|1|f", committed(node, "t", "id = 1"))]);
    assert_eq!(stamps(node, "t", r#"{"id": 20}"#), ["2021-01-01 00:00:00.000000|3|t"]);
    node.batch(&format!(
        "{}; {}",
        tombstone(20, "'2022-01-01 00:00+00', 2"),
        tombstone(20, "'2021-06-01 00:00+00', 9")
    ));
    assert_eq!(stamps(node, "t", r#"{"id": 20}"#), ["2022-01-01 00:00:00.000000|2|t"]);
    node.batch(&tombstone(21, "'-infinity', 0"));
    assert_eq!(stamps(node, "t", r#"{"id": 21}"#), [""; 0], "counters that wait are no tombstone");
    node.batch(&tombstone(22, "NULL, NULL"));
    let own: String = node.value(
        "SELECT to_char(pg_xact_commit_timestamp(xmin) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')
         FROM meld.tombstone WHERE stamp_ts IS NULL",
    );
    assert_eq!(stamps(node, "t", r#"{"id": 22}"#), [format!("{own}|1|t")]);
    node.batch(&format!("BEGIN; {}", tombstone(23, "NULL, NULL")));
    assert_eq!(stamps(node, "t", r#"{"id": 23}"#), ["-|1|t"]);
    node.batch("ROLLBACK");
    node.batch("INSERT INTO meld.tombstone (relid, key, stamp_ts, stamp_node) VALUES ('t'::regclass, '', '2021-12-01 00:00+00', 5)");
    assert_eq!(stamps(node, "t", r#"{"id": 24}"#), ["2021-12-01 00:00:00.000000|5|t"]);
    assert_eq!(stamps(node, "t", r#"{"id": 20}"#), ["2022-01-01 00:00:00.000000|2|t"]);
    assert_eq!(stamps(node, "t", r#"{"id": 5}"#), [format!("{}|1|f", committed(node, "t", "id = 5"))]);
    cluster.finish();
}

#[test]
fn forgotten_stamps_are_null() {
    let cluster = Plan::new("row_stamp_forgotten", 1).setting("track_commit_timestamp = off").start();
    let node = cluster.node(1);
    node.batch("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    node.server.stop(Stop::Fast).expect("stop");
    node.server.configure(&["track_commit_timestamp = on".to_owned()]).expect("configure");
    node.server.start().expect("start");
    node.forget_session();
    mesh::create_node(node);
    node.batch("INSERT INTO t VALUES (2)");
    assert_eq!(stamps(node, "t", r#"{"id": 1}"#), ["-|-|f"]);
    assert_eq!(stamps(node, "t", r#"{"id": 2}"#), [format!("{}|1|f", committed(node, "t", "id = 2"))]);
    cluster.finish();
}

#[test]
fn bad_questions_are_refused() {
    let cluster = Plan::new("row_stamp_refusals", 1).start();
    let node = cluster.node(1);
    mesh::create_node(node);
    node.batch(
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE two (a int, b text, PRIMARY KEY (b, a));
         CREATE TABLE keyless (id int); CREATE VIEW view AS SELECT 1 AS id; CREATE TABLE policed (id int PRIMARY KEY);
         ALTER TABLE policed ENABLE ROW LEVEL SECURITY; INSERT INTO t VALUES (1); INSERT INTO policed VALUES (1);
         CREATE TABLE loose (id int NOT NULL, at int) PARTITION BY LIST (at);
         CREATE TABLE loose_1 PARTITION OF loose FOR VALUES IN (1); ALTER TABLE loose_1 ADD PRIMARY KEY (id);
         INSERT INTO loose VALUES (1, 1);
         CREATE ROLE reader LOGIN; CREATE ROLE stranger LOGIN; GRANT SELECT ON t, policed TO reader",
    );
    let cases: &[(&str, &str, &str, &[&str])] = &[
        ("'t'", "NULL", "22004", &["\"key\""]),
        ("NULL", "'{}'", "22004", &["\"relation\""]),
        ("'t'", "'[1]'", "22023", &["object"]),
        ("'t'", "'1'", "22023", &["object"]),
        ("'t'", "'null'", "22023", &["object"]),
        ("'t'", "'{}'", "22023", &["\"public.t\"", "\"id\""]),
        ("'t'", "'{\"v\": 1}'", "22023", &["\"id\""]),
        ("'t'", "'{\"id\": 1, \"v\": 1}'", "22023", &["\"id\""]),
        ("'t'", "'{\"id\": null}'", "22023", &["null"]),
        ("'t'", "'{\"id\": \"one\"}'", "22P02", &["integer"]),
        ("'t'", "'{\"id\": [1]}'", "22P02", &[]),
        ("'t'", "'{\"id\": 99999999999}'", "22003", &[]),
        ("'two'", "'{\"a\": 1}'", "22023", &["\"b\", \"a\""]),
        ("'keyless'", "'{\"id\": 1}'", "55000", &["no key"]),
        ("'view'", "'{\"id\": 1}'", "42809", &["view"]),
        ("'meld.node'", "'{\"node_id\": 1}'", "42809", &["meld"]),
        ("'pg_class'", "'{\"oid\": 1}'", "42809", &[]),
        ("'loose'", "'{\"id\": 1}'", "22023", &["\"at\""]),
        ("4711", "'{\"id\": 1}'", "42P01", &[]),
    ];
    for (relation, key, sqlstate, texts) in cases {
        let sql = format!("SELECT * FROM meld.row_stamp({relation}, {key})");
        judge(&node.error(&sql), &sql, &[sqlstate], texts);
    }
    assert_eq!(stamps(node, "loose_1", r#"{"id": 1}"#).len(), 1);

    let as_role = |role: &str, table: &str| {
        let mut client = node.server.connect_as("app", role).expect("connect");
        let sql = format!("SELECT count(*) FROM meld.row_stamp('{table}', '{{\"id\": 1}}')");
        client
            .query_one(&sql, &[])
            .map(|row| row.get::<_, i64>(0))
            .map_err(|error| error.code().map_or_else(String::new, |code| code.code().to_owned()))
    };
    assert_eq!(as_role("reader", "t"), Ok(1));
    assert_eq!(as_role("stranger", "t"), Err("42501".to_owned()));
    assert_eq!(as_role("reader", "policed"), Err("42501".to_owned()));
    node.batch("ALTER ROLE reader BYPASSRLS");
    assert_eq!(as_role("reader", "policed"), Ok(1));
    cluster.discard();
}
