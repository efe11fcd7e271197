//! Streams that must not start.

use meld_cluster_tests::Node;
use meld_cluster_tests::node::SqlError;
use meld_core::ids::NodeId;
use meld_core::wire::StartOptions;

use crate::stream::{create_slot, options, provider, query};

fn refusal_of_pairs(node: &Node, pairs: &[(&str, String)]) -> SqlError {
    node.error(&query("pg_logical_slot_peek_binary_changes", "s", pairs))
}

fn refusal(node: &Node, change: impl FnOnce(&mut StartOptions)) -> SqlError {
    let mut options = options();
    change(&mut options);
    refusal_of_pairs(node, &options.to_pairs())
}

#[track_caller]
fn assert_refused(error: &SqlError, sqlstate: &str, message: &str) {
    assert_eq!((error.sqlstate.as_str(), error.message.as_str()), (sqlstate, message), "{}", error.text());
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let cluster = provider("plugin-options");
    let node = cluster.node(1);
    create_slot(node, "s");
    let pairs = options().to_pairs();
    assert_refused(&refusal_of_pairs(node, &pairs[..2]), "22023", "start option \"meld_version\" is missing");
    let stray = [&pairs[..], &[("nonsense", "1".into())]].concat();
    assert_refused(&refusal_of_pairs(node, &stray), "22023", "unrecognized start option \"nonsense\"");
    let twice = [&pairs[..], &pairs[..1]].concat();
    assert_refused(&refusal_of_pairs(node, &twice), "22023", "start option \"protocol_min\" is given more than once");
    let error = refusal(node, |options| (options.protocol.min, options.protocol.max) = (7, 9));
    assert_refused(&error, "0A000", "no protocol version in common: this node speaks 1, its peer 7 to 9");
    let error = refusal(node, |options| options.encoding = "LATIN1".into());
    assert_refused(&error, "0A000", "provider's encoding \"UTF8\" and subscriber's encoding \"LATIN1\" differ");
    let error = refusal(node, |options| options.forward_origins = vec!["n9".into()]);
    assert_refused(&error, "42704", "node \"n9\" in forward_origins is not known to node \"n1\"");

    node.batch("SET client_encoding = 'LATIN1'");
    let error = refusal(node, |_| ());
    assert_refused(&error, "55000", "changes can be decoded in the encoding of the database only");
    cluster.finish();
}

#[test]
fn nodes_that_can_not_be_told_apart_are_refused() {
    let cluster = provider("plugin-identity");
    let node = cluster.node(1);
    create_slot(node, "s");
    type Change = fn(&mut StartOptions);
    let cases: [(Change, &str); 3] = [
        (|options| options.node.id = NodeId(1), "nodes \"n1\" and \"n2\" have the same node id"),
        (|options| options.node.name = "n1".into(), "nodes \"n1\" and \"n1\" have the same name"),
        (|options| options.node.snowflake_node = 1, "nodes \"n1\" and \"n2\" have the same snowflake node number"),
    ];
    for (change, message) in cases {
        assert_refused(&refusal(node, change), "42710", message);
    }
    let system: i64 = node.value("SELECT system_identifier FROM pg_control_system()");
    let error = refusal(node, |options| options.node.system_identifier = system as u64);
    assert_refused(&error, "42710", "nodes \"n1\" and \"n2\" have the same system identifier and database");
    assert!(error.detail.contains("\"n1\" with node id 1") && error.detail.contains("\"n2\" with node id 2"));

    node.batch(
        "INSERT INTO meld.node (node_id, node_name, system_identifier, database, snowflake_node)
         VALUES (3, 'n3', 78, 'app', 3)",
    );
    let error = refusal(node, |options| options.node.id = NodeId(3));
    assert_refused(&error, "42710", "node \"n2\" can't be told from known node \"n3\": same node id");
    let error = refusal(node, |options| options.node.name = "n3".into());
    assert_refused(&error, "42710", "node \"n3\" can't be told from known node \"n3\": same name");
    node.batch(
        "INSERT INTO meld.node (node_id, node_name, system_identifier, database, snowflake_node)
         VALUES (2, 'n2', 77, 'app', 2)",
    );
    // the known node itself is welcome
    node.batch(&query("pg_logical_slot_peek_binary_changes", "s", &options().to_pairs()));
    cluster.finish();
}

#[test]
fn a_database_that_is_no_node_is_refused() {
    let cluster = meld_cluster_tests::Plan::new("plugin-no-node", 1).start();
    let node = cluster.node(1);
    create_slot(node, "s");
    let error = refusal(node, |_| ());
    assert_refused(&error, "55000", "database \"app\" is not a node of meld");
    assert!(error.hint.contains("CREATE EXTENSION meld"), "{}", error.hint);
    node.batch("CREATE EXTENSION meld");
    let error = refusal(node, |_| ());
    assert_refused(&error, "55000", "database \"app\" is not a node of meld");
    assert!(!error.hint.contains("CREATE EXTENSION"), "{}", error.hint);
    cluster.finish();
}
