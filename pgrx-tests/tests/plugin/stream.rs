//! Slots, and streams as text.

use std::collections::HashMap;

use meld_cluster_tests::node::literal;
use meld_cluster_tests::{Cluster, Node, Plan, mesh};
use meld_core::ids::{NodeId, NodeIdentity, RelId};
use meld_core::value::{Tuple, Value};
use meld_core::wire::{FrameReader, LogicalMessage, Message, RelationDescription, SUPPORTED, StartOptions};

/// A server whose database is node 1.
pub fn provider(name: &str) -> Cluster {
    let cluster = Plan::new(name, 1).start();
    mesh::create_node(cluster.node(1));
    cluster
}

pub fn add_to_set(set: &str, table: &str) -> String {
    format!("SELECT meld.repset_add_table({}, {});", literal(set), literal(table))
}

pub fn remove_from_set(set: &str, table: &str) -> String {
    format!("SELECT meld.repset_remove_table({}, {});", literal(set), literal(table))
}

/// What a subscriber that fits asks for.
pub fn options() -> StartOptions {
    StartOptions {
        protocol: SUPPORTED,
        meld_version: "0.1.0".into(),
        node: NodeIdentity {
            id: NodeId(2),
            name: "n2".into(),
            system_identifier: 77,
            database: "app".into(),
            snowflake_node: 2,
        },
        replication_sets: vec!["default".into()],
        forward_origins: Vec::new(),
        server_version: 150_000,
        encoding: "UTF8".into(),
        big_endian: cfg!(target_endian = "big"),
        horizon: meld_core::time::Timestamp::MIN,
        capabilities: Vec::new(),
    }
}

pub fn create_slot(node: &Node, slot: &str) {
    node.batch(&format!("SELECT pg_create_logical_replication_slot({}, 'meld')", literal(slot)));
}

/// The query that reads a slot to its end.
pub fn query(function: &str, slot: &str, pairs: &[(&str, String)]) -> String {
    let pairs: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{}, {}", literal(name), literal(value))).collect();
    format!("SELECT data FROM {function}({}, NULL, NULL, {})", literal(slot), pairs.join(", "))
}

#[track_caller]
pub fn frames(node: &Node, slot: &str, options: &StartOptions) -> Vec<Vec<u8>> {
    node.values(&query("pg_logical_slot_get_binary_changes", slot, &options.to_pairs()))
}

/// Without the heartbeats that the node lets go by itself; those of tests promise the end of time.
#[track_caller]
pub fn messages(frames: &[Vec<u8>]) -> Vec<Message> {
    let mut reader = FrameReader::new();
    let messages = frames.iter().flat_map(|frame| reader.read(frame).expect("a good frame"));
    messages.filter(|message| !is_heartbeat(message)).collect()
}

fn is_heartbeat(message: &Message) -> bool {
    matches!(message, Message::Logical(LogicalMessage::Heartbeat { promise, .. }) if promise.0 != i64::MAX)
}

/// Reads a slot to its end, one line per message, without the startup message.
#[track_caller]
pub fn transcript(node: &Node, slot: &str, options: &StartOptions) -> Vec<String> {
    let messages = messages(&frames(node, slot, options));
    if let Some(first) = messages.first() {
        assert!(matches!(first, Message::Startup(_)), "{first:?}");
    }
    let mut tables = HashMap::new();
    messages.iter().skip(1).map(|message| line(message, &mut tables)).collect()
}

fn line(message: &Message, tables: &mut HashMap<RelId, RelationDescription>) -> String {
    match message {
        Message::Startup(_) => "startup once more".into(),
        Message::Begin(begin) => format!("begin of n{}", begin.origin),
        Message::Commit(_) => "commit".into(),
        Message::Relation(table) => {
            tables.insert(table.id, table.clone());
            let column =
                |column: &meld_core::wire::Column| format!("{}{}", if column.is_key { "*" } else { "" }, column.name);
            let columns: Vec<String> = table.columns.iter().map(column).collect();
            format!("table {}.{} ({})", table.schema, table.name, columns.join(" "))
        }
        Message::Insert(insert) => format!("insert {}", row(&insert.new, &tables[&insert.relation])),
        Message::Update(update) => {
            let table = &tables[&update.relation];
            let old = update.old_key.as_ref().map_or(String::new(), |key| format!("{} to ", row(key, table)));
            format!("update {old}{}", row(&update.new, table))
        }
        Message::Delete(delete) => format!("delete {}", row(&delete.key, &tables[&delete.relation])),
        Message::Truncate(truncate) => {
            let names: Vec<&str> = truncate.relations.iter().map(|id| tables[id].name.as_str()).collect();
            format!("truncate {}", names.join(" "))
        }
        Message::Logical(message) => format!("{message:?}"),
        Message::Removal(removal) => {
            format!("removal {} {}", removal.cause, row(&removal.key, &tables[&removal.relation]))
        }
        Message::Void(void) => format!("void {}", row(&void.residue, &tables[&void.relation])),
        Message::Contribution(own) => format!("contribution {}", row(&own.amounts, &tables[&own.relation])),
    }
}

/// The table's name and the values of columns of type integer or text.
fn row(values: &Tuple, table: &RelationDescription) -> String {
    assert_eq!(values.len(), table.columns.len(), "{table:?}");
    let shown = |(column, value): (&meld_core::wire::Column, Value<'_>)| match (value, column.type_oid) {
        (Value::Null, _) => "-".to_owned(),
        (Value::Unchanged, _) => "unchanged".to_owned(),
        (Value::Binary(bytes), 23) => i32::from_be_bytes(bytes.try_into().expect("4 bytes")).to_string(),
        (Value::Binary(bytes) | Value::Text(bytes), _) if bytes.len() > 40 => format!("<{}>", bytes.len()),
        (Value::Binary(bytes) | Value::Text(bytes), _) => String::from_utf8_lossy(bytes).into_owned(),
    };
    let values: Vec<String> = table.columns.iter().zip(values.values()).map(shown).collect();
    format!("{}({})", table.name, values.join(" "))
}
