//! What updates of delta columns say in the stream: what the counters were before, whatever the row became on its way.

use meld_cluster_tests::Node;
use meld_core::value::Value;
use meld_core::wire::Message;

use crate::stream::{add_to_set, create_slot, frames, messages, options, provider};

fn delta(table: &str, column: &str) -> String {
    format!("SELECT meld.delta_add_column('{table}', '{column}');")
}

/// For each update of the stream, the old counters that came with it (`-` for none), then the new values of the same
/// columns if they are integers.
#[track_caller]
fn updates(node: &Node) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_delta = Vec::new();
    for message in messages(&frames(node, "s", &options())) {
        match message {
            Message::Relation(table) => is_delta = table.columns.iter().map(|column| column.is_delta).collect(),
            Message::Update(update) => {
                let old = update.old_counters.as_ref().map(|old| {
                    assert_eq!(old.len(), is_delta.len());
                    let given: Vec<bool> = old.values().map(|value| value != Value::Null).collect();
                    assert_eq!(given, is_delta, "the delta columns and no others");
                    let text = |value: Value<'_>| String::from_utf8(value.bytes().to_vec()).expect("UTF-8");
                    old.values().filter(|value| *value != Value::Null).map(text).collect::<Vec<_>>().join(" ")
                });
                let new = update.new.values().zip(&is_delta).filter(|(_, is_delta)| **is_delta);
                let new: Vec<String> = new
                    .filter_map(|(value, _)| Some(i32::from_be_bytes(value.bytes().try_into().ok()?).to_string()))
                    .collect();
                found.push(format!("{} to {}", old.unwrap_or("-".into()), new.join(" ")));
            }
            _ => {}
        }
    }
    found
}

#[test]
fn each_update_says_what_the_counters_were() {
    let cluster = provider("plugin-counters");
    let node = cluster.node(1);
    node.batch("CREATE TABLE t (gone int, id int PRIMARY KEY, a text, n int NOT NULL, twice int GENERATED ALWAYS AS (id * 2) STORED)");
    node.batch("ALTER TABLE t DROP COLUMN gone; INSERT INTO t VALUES (1, 'a', 10), (2, 'b', 20)");
    node.batch(&delta("t", "n"));
    node.batch(&add_to_set("default", "t"));
    create_slot(node, "s");
    node.batch("UPDATE t SET n = n + 1");
    node.batch("UPDATE t SET a = 'same' WHERE id = 1");
    assert_eq!(updates(node), ["10 to 11", "20 to 21", "11 to 11"]);

    node.batch("INSERT INTO t VALUES (1, 'x', 5), (3, 'y', 5) ON CONFLICT (id) DO UPDATE SET n = t.n + excluded.n");
    assert_eq!(updates(node), ["11 to 16"], "ON CONFLICT");
    node.batch(
        "BEGIN; UPDATE t SET n = 100 WHERE id = 1; SAVEPOINT s; UPDATE t SET n = 200 WHERE id = 1; ROLLBACK TO s;
                UPDATE t SET n = n + 1 WHERE id = 1; COMMIT",
    );
    assert_eq!(updates(node), ["16 to 100", "100 to 101"], "savepoints");
    node.batch("MERGE INTO t USING (VALUES (1), (2)) v (id) ON t.id = v.id WHEN MATCHED THEN UPDATE SET n = t.n - 1");
    assert_eq!(updates(node), ["101 to 100", "21 to 20"], "MERGE");
    node.batch("UPDATE t SET id = 9 WHERE id = 3");
    assert_eq!(updates(node), ["5 to 5"], "a change of the key");
    node.batch("SELECT meld.delta_remove_column('t', 'n')");
    node.batch("UPDATE t SET n = n + 1 WHERE id = 1");
    assert_eq!(updates(node), ["- to "]);
    cluster.finish();
}

#[test]
fn triggers_of_users_change_and_suppress_rows() {
    let cluster = provider("plugin-counter-triggers");
    let node = cluster.node(1);
    node.batch("CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, m int NOT NULL); INSERT INTO t SELECT g, 10 * g, 0 FROM generate_series(1, 3) g");
    node.batch(&(delta("t", "n") + &delta("t", "m")));
    node.batch(&add_to_set("default", "t"));
    create_slot(node, "s");
    // fires first, and what it does is counted; the other one fires after meld's
    node.batch(
        "CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.m := NEW.m + 1; RETURN NEW; END$$;
         CREATE TRIGGER a BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION more();
         CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN IF NEW.id = 2 THEN RETURN NULL; END IF; NEW.n := NEW.n + 1000; RETURN NEW; END$$;
         CREATE TRIGGER \"~~~\" BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION odd()",
    );
    node.batch("UPDATE t SET n = n + 1");
    assert_eq!(updates(node), ["10 0 to 1011 1", "30 0 to 1031 1"]);
    assert_eq!(node.values::<i32>("SELECT n FROM t ORDER BY id"), [1011, 20, 1031]);
    cluster.finish();
}

/// A key of which WAL has only a pointer in an update that leaves it alone.
#[test]
fn a_row_with_its_key_out_of_line_counts() {
    let cluster = provider("plugin-counter-toast");
    let node = cluster.node(1);
    node.batch("CREATE TABLE t (id text PRIMARY KEY, n int NOT NULL, filler text)");
    node.batch("ALTER TABLE t ALTER id SET STORAGE EXTERNAL");
    node.batch("INSERT INTO t SELECT repeat(g::text, 2400), 5, repeat('x', 1500) FROM generate_series(1, 2) g");
    node.batch(&delta("t", "n"));
    node.batch(&add_to_set("default", "t"));
    create_slot(node, "s");
    node.batch("UPDATE t SET n = n + 1");
    assert_eq!(updates(node), ["5 to 6", "5 to 6"]);
    cluster.finish();
}

#[test]
fn every_type_travels_exactly_and_what_is_no_number_is_refused() {
    let cluster = provider("plugin-counter-types");
    let node = cluster.node(1);
    node.batch(
        "CREATE TABLE t (id int PRIMARY KEY, a smallint NOT NULL, b bigint NOT NULL, c real NOT NULL,
         d double precision NOT NULL, e numeric NOT NULL, f money NOT NULL);
         INSERT INTO t VALUES (1, -7, 9223372036854775807, 0.1, 1e300, 123456789012345678901234567890.0125, '-12.34')",
    );
    for column in ["a", "b", "c", "d", "e", "f"] {
        node.batch(&delta("t", column));
    }
    node.batch(&add_to_set("default", "t"));
    create_slot(node, "s");
    node.batch("SET lc_monetary = 'C'; SET extra_float_digits = 0; UPDATE t SET d = 0");
    let e300 = format!("1{}", "0".repeat(300));
    let c = f64::from(0.1_f32);
    let old = format!("-7 9223372036854775807 {c} {e300} 123456789012345678901234567890.0125 -1234 to ");
    assert!(matches!(&updates(node)[..], [only] if only.starts_with(&old)));
    for value in ["c = 'NaN'", "d = 'infinity'", "e = 'NaN'", "e = '-infinity'"] {
        assert_eq!(node.error(&format!("UPDATE t SET {value}")).sqlstate, "22003", "{value}");
    }
    cluster.finish();
}
