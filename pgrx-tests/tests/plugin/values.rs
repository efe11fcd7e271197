//! Values of all kinds of types, against what the server itself makes of them.

use meld_cluster_tests::Node;
use meld_core::value::{Tuple, Value};
use meld_core::wire::{Message, StartOptions};

use crate::stream::{add_to_set, create_slot, frames, messages, options, provider, transcript};

/// Types that travel in binary form: type, value.
const BINARY: [(&str, &str); 44] = [
    ("bool", "true"),
    ("\"char\"", "x"),
    ("int2", "-2"),
    ("int4", "-2147483648"),
    ("int8", "9223372036854775807"),
    ("oid", "4294967295"),
    ("float4", "-1.5"),
    ("float8", "NaN"),
    ("numeric", "-12345678901234567890.0123456789"),
    ("numeric(10,2)", "1.50"),
    ("money", "12.34"),
    ("text", "ascii and ünïcode"),
    ("text", ""),
    ("varchar(20)", "varchar"),
    ("char(10)", "padded"),
    ("name", "a name"),
    ("bytea", "\\x00ff00"),
    ("date", "2026-02-28"),
    ("date", "infinity"),
    ("time", "12:34:56.789"),
    ("timetz", "12:34:56.789+05:30"),
    ("timestamp", "2026-02-28 12:34:56.789"),
    ("timestamptz", "2026-02-28 12:34:56.789+05:30"),
    ("interval", "1 year 2 days 03:04:05.6"),
    ("uuid", "00112233-4455-6677-8899-aabbccddeeff"),
    ("json", "{\"a\":  1}"),
    ("jsonb", "{\"a\":  [1, null]}"),
    ("xml", "<a>b</a>"),
    ("inet", "10.0.0.1/8"),
    ("cidr", "10.0.0.0/8"),
    ("macaddr", "08:00:2b:01:02:03"),
    ("bit(5)", "10101"),
    ("varbit", "101"),
    ("point", "(1,2)"),
    ("box", "(2,2),(1,1)"),
    ("polygon", "((0,0),(1,1),(1,0))"),
    ("tsvector", "a:1 b:2A"),
    ("tsquery", "a & b"),
    ("int4range", "[1,5)"),
    ("int4multirange", "{[1,2),[4,5)}"),
    ("int4[]", "{{1,2},{NULL,4}}"),
    ("text[]", "{a,NULL,\"b c\"}"),
    ("jsonb[]", "{\"{}\"}"),
    ("pg_lsn", "16/B374D848"),
];

/// Types that travel as text, since their oids or those inside of their values mean nothing elsewhere.
const TEXT: [(&str, &str); 11] = [
    ("mood", "so so"),
    ("mood[]", "{ok,\"so so\"}"),
    ("pair", "(1,\"a b\")"),
    ("pair[]", "{\"(1,a)\"}"),
    ("positive", "5"),
    ("float_range", "[1.5,2.5]"),
    ("regclass", "public.values_in"),
    ("regclass[]", "{public.values_in}"),
    ("regtype", "integer"),
    ("regrole", "postgres"),
    ("information_schema.cardinal_number", "3"),
];

fn create_types(node: &Node) {
    node.batch(
        "CREATE TYPE mood AS ENUM ('ok', 'so so'); CREATE TYPE pair AS (a int, b text);
         CREATE DOMAIN positive AS int CHECK (value > 0); CREATE TYPE float_range AS RANGE (subtype = float8)",
    );
}

/// A table with a column for each type, and the values of its one row in the same order.
fn create_table(node: &Node, types: &[(&str, &str)]) {
    let columns: Vec<String> = types.iter().enumerate().map(|(place, (name, _))| format!("c{place} {name}")).collect();
    node.batch(&format!("CREATE TABLE values_in (id int PRIMARY KEY, {})", columns.join(", ")));
    node.batch(&add_to_set("default", "values_in"));
}

fn insert(node: &Node, types: &[(&str, &str)]) {
    let values: Vec<String> = types.iter().map(|(_, value)| meld_cluster_tests::node::literal(value)).collect();
    node.batch(&format!("INSERT INTO values_in VALUES (1, {})", values.join(", ")));
}

/// The one inserted row, without its first column.
fn inserted(node: &Node, slot: &str, options: &StartOptions) -> Tuple {
    let row = messages(&frames(node, slot, options)).into_iter().find_map(|message| match message {
        Message::Insert(insert) => Some(insert.new),
        _ => None,
    });
    row.expect("an insert").values().skip(1).collect()
}

/// What the type's send function makes of the value in the table.
fn sent(node: &Node, place: usize) -> Vec<u8> {
    let send: String = node.value(&format!(
        "SELECT typsend::regproc::text FROM pg_attribute JOIN pg_type t ON t.oid = atttypid
         WHERE attrelid = 'values_in'::regclass AND attname = 'c{place}'"
    ));
    node.value(&format!("SELECT {send}(c{place}) FROM values_in"))
}

#[test]
fn built_in_types_travel_as_their_send_functions_write_them() {
    let cluster = provider("plugin-binary");
    let node = cluster.node(1);
    create_table(node, &BINARY);
    create_slot(node, "s");
    insert(node, &BINARY);
    let row = inserted(node, "s", &options());
    for (place, (value, (name, text))) in row.values().zip(BINARY).enumerate() {
        assert_eq!(value, Value::Binary(&sent(node, place)), "{name} {text}");
    }
    cluster.finish();
}

#[test]
fn other_types_and_forced_ones_travel_as_text() {
    let cluster = provider("plugin-text");
    let node = cluster.node(1);
    create_types(node);
    create_table(node, &TEXT);
    // the session's own taste in formats must not matter
    node.batch("ALTER DATABASE app SET datestyle = 'German'; ALTER DATABASE app SET intervalstyle = 'sql_standard'");
    node.batch("ALTER DATABASE app SET bytea_output = 'escape'; ALTER DATABASE app SET extra_float_digits = 0");
    create_slot(node, "s");
    create_slot(node, "forced");
    insert(node, &TEXT);
    for (value, (name, text)) in inserted(node, "s", &options()).values().zip(TEXT) {
        assert_eq!(value, Value::Text(text.as_bytes()), "{name}");
    }

    node.batch("DROP TABLE values_in");
    let plain = [
        ("date", "2026-02-28"),
        ("timestamptz", "2026-02-28 12:34:56.789+00"),
        ("interval", "1 year 2 days 03:04:05.6"),
        ("bytea", "\\x00ff00"),
        ("float8", "0.30000000000000004"),
        ("int4[]", "{1,2}"),
    ];
    create_table(node, &plain);
    create_slot(node, "all");
    node.forget_session();
    insert(node, &plain);
    let mut forced = options();
    forced.capabilities = vec!["force_text".into()];
    for (value, (name, text)) in inserted(node, "all", &forced).values().zip(plain) {
        assert_eq!(value, Value::Text(text.as_bytes()), "{name}");
    }
    let mut other_byte_order = options();
    other_byte_order.big_endian = !other_byte_order.big_endian;
    node.batch("UPDATE values_in SET id = 2");
    let updated = transcript(node, "all", &other_byte_order);
    assert!(updated[2].starts_with("update values_in("), "{updated:?}");
    assert_eq!(node.value::<String>("SHOW datestyle"), "German, DMY", "the session got its own settings back");
    cluster.finish();
}

#[test]
fn large_values_come_whole_or_are_marked_unchanged() {
    let cluster = provider("plugin-toast");
    let node = cluster.node(1);
    node.batch("CREATE TABLE t (id int PRIMARY KEY, a int, plain text, packed text)");
    node.batch("ALTER TABLE t ALTER plain SET STORAGE EXTERNAL");
    // a key that is stored out of line, too
    node.batch("CREATE TABLE k (id text PRIMARY KEY, a int); ALTER TABLE k ALTER id SET STORAGE EXTERNAL");
    node.batch("ALTER TABLE k SET (toast_tuple_target = 128)");
    node.batch(
        "CREATE TABLE f (id int PRIMARY KEY, a int, plain text); ALTER TABLE f ALTER plain SET STORAGE EXTERNAL",
    );
    for table in ["t", "k", "f"] {
        node.batch(&add_to_set("default", table));
    }
    node.batch("ALTER TABLE f REPLICA IDENTITY FULL");
    create_slot(node, "s");
    node.batch("INSERT INTO t VALUES (1, 1, repeat('p', 1000000), repeat('q', 1000000))");
    node.batch("UPDATE t SET a = 2; UPDATE t SET plain = repeat('P', 999999); UPDATE t SET id = 2");
    node.batch("INSERT INTO k VALUES (repeat('k', 2100), 1); UPDATE k SET a = 2; DELETE FROM k");
    node.batch(
        "INSERT INTO f VALUES (1, 1, repeat('f', 100000)); UPDATE f SET a = 2; UPDATE f SET id = 2; DELETE FROM f",
    );
    assert_eq!(
        transcript(node, "s", &options()),
        [
            "begin of n1",
            "table public.t (*id a plain packed)",
            "insert t(1 1 <1000000> <1000000>)",
            "commit",
            "begin of n1",
            "update t(1 2 unchanged unchanged)",
            "update t(1 2 <999999> unchanged)",
            "update t(1 - - -) to t(2 2 unchanged unchanged)",
            "commit",
            "begin of n1",
            "table public.k (*id a)",
            "insert k(<2100> 1)",
            "update k(<2100> 2)",
            "delete k(<2100> -)",
            "commit",
            "begin of n1",
            "table public.f (*id a plain)",
            "insert f(1 1 <100000>)",
            "update f(1 2 unchanged)",
            "update f(1 - -) to f(2 2 unchanged)",
            "delete f(2 - -)",
            "commit",
        ]
    );
    cluster.finish();
}
