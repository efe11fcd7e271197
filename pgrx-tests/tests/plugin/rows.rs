//! Which changes arrive, and how.

use meld_cluster_tests::log_scan;

use crate::stream::{add_to_set, create_slot, options, provider, transcript};

#[test]
fn changes_arrive_with_their_keys_and_nothing_else_does() {
    let cluster = provider("plugin-rows");
    let node = cluster.node(1);
    node.batch("CREATE TABLE t (id int PRIMARY KEY, a text); CREATE TABLE private (id int PRIMARY KEY)");
    node.batch(&add_to_set("default", "t"));
    create_slot(node, "s");

    node.batch("INSERT INTO t VALUES (1, 'one'), (2, NULL)");
    node.batch("UPDATE t SET a = 'eins' WHERE id = 1; UPDATE t SET id = 3 WHERE id = 2; DELETE FROM t WHERE id = 3");
    // not a word of these
    node.batch("INSERT INTO private VALUES (1)");
    node.batch("CREATE TABLE empty_transaction (id int)");
    node.batch("BEGIN; INSERT INTO t VALUES (9, 'rolled back'); ROLLBACK");
    node.batch("UPDATE t SET a = 'nobody' WHERE id = 99");
    node.batch(
        "BEGIN; INSERT INTO t VALUES (4, 'kept'); SAVEPOINT a; INSERT INTO t VALUES (5, 'lost'); ROLLBACK TO a;
         SAVEPOINT b; INSERT INTO t VALUES (6, 'kept too'); RELEASE b; COMMIT",
    );
    node.batch("TRUNCATE t, private");
    assert_eq!(
        transcript(node, "s", &options()),
        [
            "begin of n1",
            "table public.t (*id a)",
            "insert t(1 one)",
            "insert t(2 -)",
            "commit",
            "begin of n1",
            "update t(1 eins)",
            "update t(2 -) to t(3 -)",
            "delete t(3 -)",
            "commit",
            "begin of n1",
            "insert t(4 kept)",
            "insert t(6 kept too)",
            "commit",
            "begin of n1",
            "truncate t",
            "commit",
        ]
    );
    assert!(transcript(node, "s", &options()).is_empty(), "all was read, and a stream with nothing to say is silent");
    cluster.finish();
}

#[test]
fn sets_choose_tables_and_actions() {
    let cluster = provider("plugin-sets");
    let node = cluster.node(1);
    node.batch("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE log (id int PRIMARY KEY)");
    node.batch(&add_to_set("default", "t"));
    node.batch(&add_to_set("default_insert_only", "log"));
    for slot in ["both", "one", "none"] {
        create_slot(node, slot);
    }
    node.batch(
        "INSERT INTO t VALUES (1); INSERT INTO log VALUES (1); UPDATE log SET id = 2; DELETE FROM log; TRUNCATE log",
    );
    let of = |sets: &[&str]| {
        let mut options = options();
        options.replication_sets = sets.iter().map(|&set| set.to_owned()).collect();
        options
    };
    let insert_t = ["table public.t (*id)", "insert t(1)"];
    let of_log = ["table public.log (*id)", "insert log(1)", "truncate log"];
    assert_eq!(
        transcript(node, "both", &of(&["default", "default_insert_only"])),
        [&["begin of n1"][..], &insert_t, &of_log, &["commit"]].concat()
    );
    assert_eq!(
        transcript(node, "one", &of(&["default_insert_only", "no such set"])),
        [&["begin of n1"][..], &of_log, &["commit"]].concat()
    );
    assert!(transcript(node, "none", &of(&[])).is_empty());
    cluster.finish();
}

#[test]
fn a_table_without_a_key_is_reported_and_stops_nothing() {
    let cluster = provider("plugin-keyless");
    let node = cluster.node(1);
    node.batch("CREATE TABLE keyless (id int PRIMARY KEY); CREATE TABLE nothing (id int PRIMARY KEY)");
    node.batch(&add_to_set("default", "keyless"));
    node.batch(&add_to_set("default", "nothing"));
    // lost after they were added
    node.batch("ALTER TABLE keyless DROP CONSTRAINT keyless_pkey; ALTER TABLE nothing REPLICA IDENTITY NOTHING");
    create_slot(node, "s");
    node.expect_log("is not replicated, because the table has no usable key");
    node.batch("INSERT INTO keyless VALUES (1); UPDATE keyless SET id = 2; DELETE FROM keyless");
    node.batch("INSERT INTO nothing VALUES (1); UPDATE nothing SET id = 2; DELETE FROM nothing");
    node.batch("ALTER TABLE keyless ADD PRIMARY KEY (id); INSERT INTO keyless VALUES (3); UPDATE keyless SET id = 4");
    assert_eq!(
        transcript(node, "s", &options()),
        [
            "begin of n1",
            "table public.keyless (id)",
            "insert keyless(1)",
            "commit",
            "begin of n1",
            "table public.nothing (id)",
            "insert nothing(1)",
            "commit",
            "begin of n1",
            "table public.keyless (*id)",
            "insert keyless(3)",
            "update keyless(3) to keyless(4)",
            "commit",
        ]
    );
    let reports = log_scan::entries_with(&node.server.log, "no usable key");
    let reports: Vec<_> = reports.iter().filter(|entry| entry.severity == "WARNING").collect();
    assert_eq!(reports.len(), 2, "one for each table: {reports:?}");

    // what the plugin can't use as a key is not taken into a set in the first place
    for (table, key) in [("a", "(id int)"), ("b", "(id int PRIMARY KEY DEFERRABLE)"), ("c", "(id int PRIMARY KEY)")] {
        node.batch(&format!("CREATE TABLE {table} {key}"));
    }
    node.batch("ALTER TABLE c REPLICA IDENTITY NOTHING");
    for table in ["a", "b", "c"] {
        assert_eq!(node.error(&add_to_set("default", table)).sqlstate, "55000", "{table}");
    }
    node.batch("ALTER TABLE c REPLICA IDENTITY FULL");
    node.batch(&add_to_set("default", "c"));
    cluster.finish();
}

#[test]
fn messages_of_meld_pass_and_others_are_ignored() {
    let cluster = provider("plugin-messages");
    let node = cluster.node(1);
    create_slot(node, "s");
    node.batch("SELECT meld.sync_event()");
    node.batch("SELECT pg_logical_emit_message(true, 'other', 'x'), pg_logical_emit_message(false, 'other', 'x')");
    let lines = transcript(node, "s", &options());
    assert!(matches!(&lines[..], [only] if only.starts_with("SyncEvent")), "{lines:?}");
    cluster.finish();
}

#[test]
fn changes_from_elsewhere_are_dropped_or_keep_their_origin() {
    let cluster = provider("plugin-origins");
    let node = cluster.node(1);
    node.batch("CREATE TABLE t (id int PRIMARY KEY)");
    node.batch(&add_to_set("default", "t"));
    node.batch(
        "INSERT INTO meld.node (node_id, node_name, system_identifier, database, snowflake_node)
         VALUES (2, 'n2', 77, 'app', 2), (3, 'n3', 78, 'app', 3);
         INSERT INTO meld.origin (roident, node_id, origin_name)
         SELECT pg_replication_origin_create('o' || id), id, 'o' || id FROM generate_series(2, 3) id;
         SELECT pg_replication_origin_create('foreign')",
    );
    for slot in ["nobody", "everybody", "only"] {
        create_slot(node, slot);
    }
    node.batch("INSERT INTO t VALUES (1)");
    for (id, origin) in [(2, "o2"), (3, "o3"), (4, "foreign")] {
        node.batch(&format!(
            "SELECT pg_replication_origin_session_setup('{origin}');
             INSERT INTO t VALUES ({id});
             SELECT pg_replication_origin_xact_setup('0/{id}', '2026-01-0{id} 00:00+00')"
        ));
        node.batch("SELECT pg_replication_origin_session_reset()");
    }
    let forward = |origins: &[&str]| {
        let mut options = options();
        options.forward_origins = origins.iter().map(|&origin| origin.to_owned()).collect();
        options
    };
    let own = ["begin of n1", "table public.t (*id)", "insert t(1)", "commit"];
    let of_n3 = ["begin of n3", "insert t(3)", "commit"];
    let foreign = ["begin of n1", "insert t(4)", "commit"];
    assert_eq!(transcript(node, "nobody", &forward(&[])), own);
    // never back to where it came from
    assert_eq!(transcript(node, "everybody", &forward(&["all"])), [&own[..], &of_n3, &foreign].concat());
    assert_eq!(transcript(node, "only", &forward(&["n3"])), [&own[..], &of_n3].concat());
    cluster.finish();
}
