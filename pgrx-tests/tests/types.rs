//! Values of all common types, and tables of all common shapes, arrive as they were.

use meld_cluster_tests::wait::{self, Look};
use meld_cluster_tests::{Cluster, Plan, compare, fault, log_scan, mesh, settle};

/// The second node makes types in another order and more of them, so that oids differ between the nodes.
const OTHER_OIDS: &str = "CREATE TYPE filler AS ENUM ('a', 'b', 'c'); CREATE TABLE filler_table (a int, b filler[]);
    DROP TABLE filler_table; CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE TYPE point3 AS (x int, y numeric, label text); CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TYPE band AS RANGE (subtype = numeric)";
const TYPES: &str = "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy'); CREATE TYPE band AS RANGE (subtype = numeric);
    CREATE TYPE point3 AS (x int, y numeric, label text); CREATE DOMAIN positive AS int CHECK (VALUE > 0)";

const COLUMNS: &str = "
    c_bool bool, c_int2 int2, c_int8 int8, c_float4 float4, c_float8 float8, c_numeric numeric, c_fixed numeric(12, 3),
    c_money money, c_text text, c_varchar varchar(20), c_bpchar char(8), c_char \"char\", c_name name, c_bytea bytea,
    c_date date, c_time time, c_timetz timetz, c_timestamp timestamp, c_timestamptz timestamptz, c_interval interval,
    c_uuid uuid, c_json json, c_jsonb jsonb, c_xml xml, c_inet inet, c_cidr cidr, c_macaddr macaddr, c_bit bit(5),
    c_varbit varbit, c_point point, c_line line, c_box box, c_path path, c_polygon polygon, c_circle circle,
    c_tsvector tsvector, c_tsquery tsquery, c_int4range int4range, c_numrange numrange, c_tstzrange tstzrange,
    c_multirange int4multirange, c_ints int[], c_texts text[], c_matrix numeric[][], c_mood mood, c_moods mood[],
    c_point3 point3, c_point3s point3[], c_positive positive, c_positives positive[], c_band band, c_regclass regclass,
    c_oid oid, c_lsn pg_lsn, c_jsonpath jsonpath";

const ORDINARY: &str = "
    true, 7, 9000000000, 1.5, 0.1, 12345678901234567890.000000001, 3.142,
    '12.34', E'quote '' back\\\\slash\\ttab \u{2603}', 'short', 'pad', 'x', 'a_name', '\\x00ff10',
    '2024-02-29', '13:14:15.123456', '13:14:15+02', '2024-01-01 00:00:00.000001', '2024-01-01 12:00+05', '1 mon 2 days 3.5 s',
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{\"b\":1,  \"a\":[1,2]}', '{\"b\":1,\"a\":[1,null,\"x\"]}', '<a b=\"c\">d</a>',
    '192.168.0.1/24', '10.0.0.0/8', '08:00:2b:01:02:03', B'10110',
    B'1', '(1,2)', '{1,2,3}', '(3,4),(1,2)', '[(0,0),(1,1)]', '((0,0),(1,1),(1,0))', '<(1,2),3>',
    'fat:1 cat:2', 'fat & !rat', '[1,10)', '(0.5,]', '[2024-01-01 00:00+00,2024-02-01 00:00+00)',
    '{[1,3),[5,7)}', '{1,NULL,3}', '{\"a b\",\"\",NULL,\"null\"}', '{{1.5,2},{3,4}}', 'happy', '{sad,ok}',
    '(1,2.50,\"a,b\")', ARRAY[ROW(1, 2, 'x')::point3, NULL], 5, '{1,2}', '[1.5,2.5]', 'pg_class',
    4294967295, '16/B374D848', '$.a[*] ? (@ > 1)'";

const EXTREME: &str = "
    false, -32768, -9223372036854775808, 'NaN', '-Infinity', 'NaN', 0,
    '-92233720368547758.08', '', '', '', '', '', '',
    'infinity', '24:00:00', '00:00+15:59', '-infinity', '4713-01-01 00:00+00 BC', '-178000000 years',
    '00000000-0000-0000-0000-000000000000', 'null', 'null', '', '::/0', '::1/128', 'ff:ff:ff:ff:ff:ff', B'00000',
    B'', '(-0,1e300)', '{1,0,-5}', '(0,0),(0,0)', '((0,0))', '((0,0))', '<(0,0),0>',
    '', '', 'empty', '(,)', '(,)',
    '{}', '{}', '[2:3]={a,b}', '{}', 'sad', '{}',
    '(,,)', '{}', NULL, '{}', '(,)', NULL, 0, '0/0', '$'";

fn mesh_with_types(name: &str) -> Cluster {
    let cluster = Plan::new(name, 2).start_mesh();
    cluster.node(1).batch(TYPES);
    cluster.node(2).batch(OTHER_OIDS);
    cluster
}

#[test]
fn every_type_arrives_as_it_was() {
    let cluster = mesh_with_types("types");
    mesh::replicate(&cluster, &format!("CREATE TABLE every_type (id int PRIMARY KEY, {COLUMNS})"));
    for (place, node) in cluster.nodes().iter().enumerate() {
        let base = place * 10;
        node.batch(&format!("INSERT INTO every_type VALUES ({}, {ORDINARY}), ({}, {EXTREME})", base + 1, base + 2));
        node.batch(&format!("INSERT INTO every_type (id) VALUES ({})", base + 3));
    }
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(cluster.node(2).value::<i64>("SELECT count(*) FROM every_type"), 6);

    // every value becomes another's: values to null, null to values
    for (place, node) in cluster.nodes().iter().enumerate() {
        let columns = "(SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute
            WHERE attrelid = 'every_type'::regclass AND attnum > 1)";
        let list: String = node.value(&format!("SELECT {columns}"));
        let base = place * 10;
        for (to, from) in [(3, 1), (1, 2), (2, 3)] {
            node.batch(&format!(
                "UPDATE every_type SET ({list}) = (SELECT {list} FROM every_type WHERE id = {}) WHERE id = {}",
                base + from,
                base + to
            ));
        }
    }
    settle::settle(&cluster);
    compare::equal(&cluster);
    cluster.batch("ALTER TYPE mood ADD VALUE 'elated'");
    cluster.node(1).batch("UPDATE every_type SET c_mood = 'elated', c_moods = '{elated,sad}' WHERE id = 1");
    settle::settle(&cluster);
    compare::equal(&cluster);
    cluster.finish();
}

#[test]
fn large_values_arrive_and_stay() {
    let cluster = Plan::new("large", 2).start_mesh();
    mesh::replicate(&cluster, "CREATE TABLE large (id int PRIMARY KEY, note text, words text, bytes bytea, doc jsonb)");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    // what cannot be compressed stays out of line and is left out of the stream when it does not change
    n1.batch(
        "INSERT INTO large SELECT 1, 'first', repeat('meld ', 200000),
            (SELECT string_agg(decode(md5(i::text), 'hex'), '') FROM generate_series(1, 65536) i),
            jsonb_build_object('list', (SELECT jsonb_agg(md5(i::text)) FROM generate_series(1, 20000) i))",
    );
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(n2.value::<i32>("SELECT length(bytes) FROM large"), 1024 * 1024);

    n1.batch("UPDATE large SET note = 'second'");
    settle::settle(&cluster);
    compare::equal(&cluster);
    n2.batch("UPDATE large SET note = 'third'");
    settle::settle(&cluster);
    compare::equal(&cluster);
    n1.batch("UPDATE large SET id = 2");
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(n2.value::<i32>("SELECT length(bytes) FROM large WHERE id = 2 AND note = 'third'"), 1024 * 1024);
    n2.batch("UPDATE large SET words = NULL, bytes = bytes || bytes");
    settle::settle(&cluster);
    compare::equal(&cluster);
    cluster.finish();
}

#[test]
fn tables_of_all_shapes_replicate() {
    let cluster = Plan::new("shapes", 2).start_mesh();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    // not the same number, order and place of columns on the two nodes
    n1.batch("CREATE TABLE dropped (gone int, id int PRIMARY KEY, a text, gone_too text, b int); ALTER TABLE dropped DROP COLUMN gone, DROP COLUMN gone_too");
    n2.batch("CREATE TABLE dropped (b int, x int, a text, y int, id int PRIMARY KEY); ALTER TABLE dropped DROP COLUMN x, DROP COLUMN y");
    mesh::replicate(
        &cluster,
        "CREATE TABLE generated (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED, b text);
         CREATE TABLE identity (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int GENERATED BY DEFAULT AS IDENTITY, a text);
         CREATE TABLE two_keys (a int, b text, c int, v text, PRIMARY KEY (c, a));
         CREATE TABLE only_key (a int, b text, PRIMARY KEY (a, b));
         CREATE TABLE by_index (a int NOT NULL, b int NOT NULL, v text);
         CREATE UNIQUE INDEX by_index_b ON by_index (b);
         ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_b;
         CREATE TABLE full_row (id int PRIMARY KEY, v text); ALTER TABLE full_row REPLICA IDENTITY FULL;
         CREATE TABLE \"Mixed Case\" (\"Id\" int PRIMARY KEY, \"a column\" text, \"quote\"\"d\" int, \"Ünïcode\" text)",
    );
    cluster.batch(
        "CREATE SCHEMA other; CREATE SCHEMA \"Other Schema\";
         CREATE TABLE other.dropped (id int PRIMARY KEY, c text);
         CREATE TABLE \"Other Schema\".\"T\" (id int PRIMARY KEY, \"select\" text);
         SELECT meld.repset_add_table('default', 'other.dropped');
         SELECT meld.repset_add_table('default', '\"Other Schema\".\"T\"')",
    );
    for (place, node) in cluster.nodes().iter().enumerate() {
        let k = place as i32 * 10 + 1;
        node.batch(&format!(
            "INSERT INTO dropped (id, a, b) VALUES ({k}, 'a', 1), ({k} + 1, NULL, NULL);
             INSERT INTO generated (id, a, b) VALUES ({k}, {k}, 'x'), ({k} + 1, NULL, NULL);
             INSERT INTO identity (id, a) OVERRIDING SYSTEM VALUE VALUES ({k}, 'x');
             INSERT INTO identity (id, n, a) OVERRIDING SYSTEM VALUE VALUES ({k} + 1, {k}, 'y');
             INSERT INTO two_keys VALUES ({k}, 'b', {k}, 'v'), ({k}, 'b', {k} + 1, 'w');
             INSERT INTO only_key VALUES ({k}, 'b'), ({k}, 'c');
             INSERT INTO by_index VALUES (1, {k}, 'v'), (1, {k} + 1, 'w');
             INSERT INTO full_row VALUES ({k}, 'v'), ({k} + 1, NULL), ({k} + 2, 'w');
             INSERT INTO \"Mixed Case\" VALUES ({k}, 'v', 1, 'ö'), ({k} + 1, NULL, NULL, '');
             INSERT INTO other.dropped VALUES ({k}, 'c'), ({k} + 1, 'd');
             INSERT INTO \"Other Schema\".\"T\" VALUES ({k}, 'c'), ({k} + 1, 'd')"
        ));
    }
    settle::settle(&cluster);
    compare::equal(&cluster);
    for (place, node) in cluster.nodes().iter().enumerate() {
        let k = place as i32 * 10 + 1;
        node.batch(&format!(
            "UPDATE dropped SET b = 2 WHERE id = {k}; DELETE FROM dropped WHERE id = {k} + 1;
             UPDATE generated SET a = a + 1 WHERE id = {k}; DELETE FROM generated WHERE id = {k} + 1;
             UPDATE identity SET a = 'z' WHERE id = {k}; DELETE FROM identity WHERE id = {k} + 1;
             UPDATE two_keys SET v = 'z' WHERE c = {k}; UPDATE two_keys SET a = 500 + {k} WHERE c = {k} + 1;
             UPDATE only_key SET b = 'z' WHERE a = {k} AND b = 'b'; DELETE FROM only_key WHERE a = {k} AND b = 'c';
             UPDATE by_index SET a = 2 WHERE b = {k}; UPDATE by_index SET b = {k} + 5 WHERE b = {k} + 1;
             UPDATE full_row SET v = 'z' WHERE id = {k}; DELETE FROM full_row WHERE id = {k} + 1;
             UPDATE full_row SET id = {k} + 5 WHERE id = {k} + 2;
             UPDATE \"Mixed Case\" SET \"a column\" = 'z' WHERE \"Id\" = {k}; DELETE FROM \"Mixed Case\" WHERE \"Id\" = {k} + 1;
             UPDATE other.dropped SET c = 'z' WHERE id = {k}; DELETE FROM \"Other Schema\".\"T\" WHERE id = {k}"
        ));
    }
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(n2.value::<i32>("SELECT twice FROM generated WHERE id = 1"), 4);
    assert_eq!(n1.value::<i64>("SELECT count(*) FROM dropped"), 2);
    cluster.finish();
}

#[test]
fn columns_may_be_more_on_the_subscriber_but_not_fewer() {
    let cluster = Plan::new("columns", 2).start_mesh();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("CREATE TABLE more (id int PRIMARY KEY, a text); CREATE TABLE fewer (id int PRIMARY KEY, a text, b int)");
    n2.batch("CREATE TABLE more (id int PRIMARY KEY, extra text DEFAULT 'by default', a text, seen int)");
    n2.batch("CREATE TABLE fewer (id int PRIMARY KEY, a text)");
    n1.batch("SELECT meld.repset_add_all_tables('default', '{public}')");

    n1.batch("INSERT INTO more VALUES (1, 'x')");
    settle::settle_link(n1, n2);
    n2.batch("UPDATE more SET seen = 7");
    n1.batch("UPDATE more SET a = 'y'");
    settle::settle_link(n1, n2);
    let row = "SELECT concat_ws(' ', id, extra, a, seen) FROM more";
    assert_eq!(n2.value::<String>(row), "1 by default y 7", "columns that do not travel keep their values");

    n2.expect_log("\"public.fewer\"");
    fault::expect_worker_exits(n2);
    n1.batch("INSERT INTO fewer VALUES (1, 'x', 5)");
    let report = wait::until("the error about the missing column", wait::DEADLINE, || {
        match log_scan::entries_with(&n2.server.log, "ERROR:  table \"public.fewer\"").pop() {
            Some(entry) => Look::Done(entry.text),
            None => Look::Seen(n2.server.log_tail(3)),
        }
    });
    assert!(report.contains("\"b\""), "the column is named: {report}");
    wait::until_equal("state of the subscription", "down".to_owned(), || mesh::status(n2, n1));
    n2.batch("ALTER TABLE fewer ADD COLUMN b int");
    settle::settle_link(n1, n2);
    assert_eq!(n2.value::<String>("SELECT concat_ws(' ', id, a, b) FROM fewer"), "1 x 5");
    cluster.finish();
}

#[test]
fn a_column_may_have_another_type() {
    let cluster = Plan::new("other_types", 2).start_mesh();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("CREATE TABLE t (id int PRIMARY KEY, a int, b varchar(10), c timestamptz, d json, e text)");
    n2.batch("CREATE TABLE t (id bigint PRIMARY KEY, a numeric, b text, c timestamptz(0), d jsonb, e int)");
    n1.batch("SELECT meld.repset_add_all_tables('default', '{public}')");
    n1.batch("INSERT INTO t VALUES (1, 42, 'short', '2024-01-01 00:00:00.7+00', '{\"a\": 1}', '17')");
    n1.batch("INSERT INTO t (id) VALUES (2); UPDATE t SET a = 43 WHERE id = 1; UPDATE t SET id = 3 WHERE id = 2");
    settle::settle_link(n1, n2);
    let rows = "SELECT string_agg(t::text, ' ' ORDER BY id) FROM t";
    let expected = "(1,43,short,\"2024-01-01 00:00:01+00\",\"{\"\"a\"\": 1}\",17) (3,,,,,)";
    assert_eq!(n2.value::<String>(rows), expected);
    cluster.finish();
}
