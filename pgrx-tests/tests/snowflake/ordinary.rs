//! Ordinary sequences: kept ahead of what another node has drawn; and the keys that they feed.

use std::sync::atomic::{AtomicUsize, Ordering};

use meld_cluster_tests::node::{SqlError, literal};
use meld_cluster_tests::refusal::{judge, refused};
use meld_cluster_tests::wait::until_value;
use meld_cluster_tests::{Cluster, Node, Plan, compare, fault, log_scan, mesh, settle};

const WARNING: &str = "fed by an ordinary sequence";

fn last(node: &Node, sequence: &str) -> i64 {
    node.value(&format!("SELECT last_value FROM {sequence}"))
}

#[track_caller]
fn wait_until_ahead(node: &Node, sequence: &str, of: i64) -> i64 {
    until_value(&format!("{sequence} of {} ahead of {of}", node.name), || last(node, sequence), |now| *now > of)
}

fn mesh_of_two(name: &str) -> Cluster {
    Plan::new(name, 2).setting("meld.sequence_sync_interval = '200ms'").start_mesh()
}

#[test]
fn a_node_that_takes_over_repeats_no_value() {
    let cluster = mesh_of_two("sequence_failover");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    cluster
        .batch("CREATE SEQUENCE s; CREATE SEQUENCE \"down \"\"one\" INCREMENT -3 MAXVALUE -1; CREATE SEQUENCE quiet");
    cluster.batch("SELECT meld.repset_add_all_seqs('default', '{public}')");
    let drawn: i64 = n1.value("SELECT max(nextval('s')) FROM generate_series(1, 5000)");
    assert_eq!(drawn, 5000);
    n1.value::<i64>("SELECT min(nextval('\"down \"\"one\"')) FROM generate_series(1, 10)");
    assert!(wait_until_ahead(n2, "s", drawn) >= 6000);
    until_value("the other", || last(n2, "\"down \"\"one\""), |now| *now <= -3000);
    // what was set is no news to the node that drew, however often they look
    let before = (last(n1, "s"), last(n2, "s"), last(n2, "quiet"));
    let round: String = n2.value("SELECT clock_timestamp()::text");
    let since = format!("SELECT clock_timestamp() > {}::timestamptz + interval '2 s'", literal(&round));
    until_value("some rounds", || n2.value::<bool>(&since), |over| *over);
    assert_eq!((last(n1, "s"), last(n2, "s"), last(n2, "quiet")), before);
    // more in one go than the distance, and at once: on demand
    let drawn: i64 = n1.value("SELECT max(nextval('s')) FROM generate_series(1, 200000)");
    assert!(n2.value::<bool>("SELECT meld.sync_seq('s')"));
    assert!(last(n2, "s") > drawn);
    let drawn: i64 = n1.value("SELECT nextval('s')");
    fault::expect_lost_links(&cluster);
    fault::kill_postmaster(n1);
    let taken_over: i64 = n2.value("SELECT nextval('s')");
    assert!(taken_over > drawn, "{taken_over} after {drawn}");
    let taken_over: i64 = n2.value("SELECT max(nextval('s')) FROM generate_series(1, 300)");
    // back again: the first node follows the second
    fault::start(n1);
    wait_until_ahead(n1, "s", taken_over);
    cluster.finish();
}

#[test]
fn functions_of_sequences_refuse_what_cannot_be() {
    let cluster = mesh_of_two("sequence_functions");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch(
        "CREATE SEQUENCE s; CREATE SEQUENCE round CYCLE; CREATE UNLOGGED SEQUENCE u; CREATE TABLE t (id serial PRIMARY KEY);
         CREATE SEQUENCE flake; CREATE SEQUENCE only_here",
    );
    n1.batch("SELECT snowflake.convert_sequence_to_snowflake('flake')");
    for (call, sqlstate, texts) in [
        ("repset_add_seq('none', 's')", "42704", vec!["\"none\""]),
        ("repset_add_seq('default', 't')", "42809", vec!["is not a sequence"]),
        ("repset_add_seq('default', 'u')", "55000", vec!["unlogged"]),
        ("repset_add_seq('default', 'round')", "55000", vec!["begins anew", "NO CYCLE"]),
        ("repset_add_seq('default', 'flake')", "55000", vec!["snowflake ids"]),
        ("repset_add_seq('default', 'snowflake.id_seq')", "42809", vec!["belongs to"]),
        ("repset_add_seq('default', NULL)", "22004", vec!["\"relation\""]),
        ("repset_add_all_seqs('default', '{nowhere}')", "3F000", vec!["\"nowhere\""]),
        ("repset_remove_seq('default', 's')", "42704", vec!["is not in replication set"]),
        ("sync_seq('s')", "55000", vec!["no provider", "repset_add_seq"]),
    ] {
        refused(n1, &format!("SELECT meld.{call}"), &[sqlstate], &texts);
    }
    assert!(n1.value::<bool>("SELECT meld.repset_add_seq('default', 's')"));
    judge(&n1.error("SELECT meld.repset_add_seq('default', 's')"), "again", &["42710"], &["already"]);
    assert!(n1.value::<bool>("SELECT meld.repset_remove_seq('default', 's')"));
    assert!(n1.value::<bool>("SELECT meld.repset_add_all_seqs('default', '{public}')"));
    let names = "SELECT seqid::text FROM meld.replication_set_sequence ORDER BY 1";
    assert_eq!(n1.values::<String>(names), ["only_here", "s", "t_id_seq"]);
    n1.batch("DROP TABLE t");
    assert_eq!(n1.values::<String>(names), ["only_here", "s"]);
    // one that is missing is reported once, and the others go on
    n2.batch("CREATE SEQUENCE s");
    n2.expect_log("sequence \"public.only_here\" does not exist here");
    n1.batch("SELECT nextval('only_here'), nextval('s')");
    wait_until_ahead(n2, "s", 1000);
    let reports = || log_scan::entries_with(&n2.server.log, "WARNING:  sequence \"public.only_here\"").len();
    until_value("a report", reports, |n| *n == 1);
    cluster.finish();
}

/// Rows that both nodes put in at one time, into the same table. Gives how many were refused, since the other node's row
/// had come first.
fn write_on_both(cluster: &Cluster, rows: usize) -> usize {
    let refused = AtomicUsize::new(0);
    let refused = &refused;
    std::thread::scope(|scope| {
        for node in cluster.nodes() {
            for session in 0..4 {
                scope.spawn(move || {
                    let mut client = node.client();
                    let statement = client.prepare("INSERT INTO t (v) VALUES ($1)").expect("prepare");
                    for row in 0..rows {
                        let outcome = client.execute(&statement, &[&format!("{} {session} {row}", node.name)]);
                        if let Err(error) = outcome.map_err(|error| SqlError::of(&error)) {
                            assert_eq!(error.sqlstate, "23505", "{error:?}");
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        }
    });
    settle::settle_decisions(cluster);
    refused.load(Ordering::Relaxed)
}

#[test]
fn a_serial_key_is_warned_of_and_once_converted_has_no_conflicts() {
    let cluster = Plan::new("serial_keys", 2).start_mesh();
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    cluster.expect_log(WARNING);
    cluster.batch("CREATE TABLE t (id serial PRIMARY KEY, v text); CREATE TABLE fine (id bigint PRIMARY KEY)");
    mesh::replicate(
        &cluster,
        "CREATE TABLE stepped (id bigint GENERATED BY DEFAULT AS IDENTITY (INCREMENT 2) PRIMARY KEY)",
    );
    for node in cluster.nodes() {
        let warnings = log_scan::entries_with(&node.server.log, WARNING);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].text.contains("key column \"id\" of table \"public.t\""), "{warnings:?}");
        eprintln!("{}", warnings[0].text);
        let hint =
            log_scan::entries_with(&node.server.log, "HINT:  Execute SELECT snowflake.convert_column_to_snowflake");
        assert_eq!(hint.len(), 1);
        assert!(hint[0].text.contains("convert_column_to_snowflake('public.t', 'id') on each node."), "{hint:?}");
    }
    let conflicts = |node: &Node| node.value::<i64>("SELECT count(*) FROM meld.resolutions");
    let refused = write_on_both(&cluster, 20);
    compare::equal(&cluster);
    let conflicts_before = conflicts(n1) + conflicts(n2);
    let rows: i64 = n1.value("SELECT count(*) FROM t");
    eprintln!("before: {rows} of 160 rows, {refused} refused, {conflicts_before} conflicts");
    assert!(rows < 160 && refused as i64 + conflicts_before > 0, "both drew the same keys");
    for node in cluster.nodes() {
        assert!(node.value::<bool>("SELECT snowflake.convert_column_to_snowflake('t', 'id')"));
    }
    cluster.batch("DELETE FROM t");
    settle::settle_decisions(&cluster);
    let before = (conflicts(n1), conflicts(n2));
    assert_eq!(write_on_both(&cluster, 500), 0);
    compare::equal(&cluster);
    assert_eq!((conflicts(n1), conflicts(n2)), before);
    assert_eq!(n1.value::<i64>("SELECT count(*) FROM t"), 4000);
    n1.batch("SELECT meld.repset_remove_table('default', 't')");
    n1.batch("SELECT meld.repset_add_table('default', 't')");
    assert_eq!(log_scan::entries_with(&n1.server.log, WARNING).len(), 1, "no more warnings");
    cluster.finish();
}

/// As in the shortest way to a mesh: the tables are in the set before anybody subscribes.
#[test]
fn keys_of_tables_that_were_there_before_are_warned_of_when_a_node_subscribes() {
    let cluster = Plan::new("serial_keys_before", 2).start();
    cluster.expect_log("are fed by ordinary sequences");
    cluster.nodes().iter().for_each(mesh::create_node);
    cluster.batch(
        "CREATE TABLE a (id serial PRIMARY KEY); CREATE TABLE b (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
         SELECT meld.repset_add_all_tables('default', '{public}')",
    );
    let texts = ["keys of 2 tables", "convert_column_to_snowflake('public.a', 'id')", "('public.b', 'id')"];
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    mesh::subscribe(n1, n2, &n2.dsn());
    let text = std::fs::read_to_string(&n1.server.log).expect("log");
    assert!(texts.iter().all(|part| text.contains(part)), "{text}");
    mesh::wait_until_replicating(n1, n2);
    cluster.finish();
}
