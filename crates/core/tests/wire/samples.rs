//! Messages to test with: one of each kind by hand, and any by proptest.

use meld_core::conflict::ConflictType;
use meld_core::ids::{NodeId, NodeIdentity, RelId, Xid};
use meld_core::lsn::Lsn;
use meld_core::time::{Stamp, Timestamp};
use meld_core::value::{Tuple, Value};
use meld_core::version::Replaced;
use meld_core::wire::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// A value that a tuple can be made of.
#[derive(Clone, Debug)]
pub enum Owned {
    Null,
    Unchanged,
    Binary(Vec<u8>),
    Text(Vec<u8>),
}

impl Owned {
    pub fn borrow(&self) -> Value<'_> {
        match self {
            Owned::Null => Value::Null,
            Owned::Unchanged => Value::Unchanged,
            Owned::Binary(bytes) => Value::Binary(bytes),
            Owned::Text(bytes) => Value::Text(bytes),
        }
    }
}

/// One message of each kind, with the names by which the golden file calls them.
pub fn one_of_each() -> Vec<(&'static str, Message)> {
    vec![
        ("startup", startup()),
        ("begin", begin()),
        ("commit", commit()),
        ("relation", relation()),
        ("insert", Message::Insert(Insert { relation: RelId(16_385), new: row(Value::Text(b"it")) })),
        ("update", update(Replaced::Own, None, None, Value::Unchanged)),
        ("update_key", update(Replaced::Own, None, Some(key()), Value::Null)),
        ("update_version", update(Replaced::Version(version()), None, None, Value::Null)),
        ("update_unknown", update(Replaced::Unknown, None, None, Value::Null)),
        ("update_counters", update(Replaced::Own, Some(counters()), None, Value::Null)),
        ("delete", Message::Delete(Delete { relation: RelId(16_385), replaced: Replaced::Own, key: key() })),
        ("truncate", Message::Truncate(Truncate { relations: vec![RelId(16_385), RelId(100_000)] })),
        ("sync_event", Message::Logical(LogicalMessage::SyncEvent { lsn: Lsn(0x1_0000_0010) })),
        ("version", logical(LogicalMessage::Version(version_note(None)))),
        ("version_counters", logical(LogicalMessage::Version(version_note(Some(counters()))))),
        ("version_return", logical(LogicalMessage::Version(returning()))),
        (
            "heartbeat",
            logical(LogicalMessage::Heartbeat {
                promise: Timestamp(800_000_000_000_000),
                horizon: Timestamp(799_999_999_999_000),
                beyond: Timestamp(799_999_999_999_500),
                without: 3,
            }),
        ),
        (
            "removal_note",
            logical(LogicalMessage::Removal(RemovalNote {
                removal: removal(),
                row_goes: true,
                fingerprint: 0xcbf2_9ce4_8422_2325,
            })),
        ),
        ("void_note", logical(LogicalMessage::Void(void()))),
        ("contribution_note", logical(LogicalMessage::Contribution(contribution()))),
        ("removal", Message::Removal(removal())),
        ("void", Message::Void(void())),
        ("contribution", Message::Contribution(contribution())),
    ]
}

fn logical(message: LogicalMessage) -> Message {
    Message::Logical(message)
}

fn update(replaced: Replaced, old_counters: Option<Tuple>, old_key: Option<Tuple>, note: Value<'_>) -> Message {
    Message::Update(Update { relation: RelId(16_385), replaced, old_counters, old_key, new: row(note) })
}

fn version() -> Stamp {
    Stamp { commit_ts: Timestamp(800_000_000_000_000), node: NodeId(2) }
}

fn version_note(old_counters: Option<Tuple>) -> Version {
    Version {
        relation: RelId(16_385),
        change: Replacing::Delete,
        key: 0xcbf2_9ce4_8422_2325,
        replaced: Replaced::Version(version()),
        old_counters,
    }
}

fn returning() -> Version {
    Version { change: Replacing::Return, ..version_note(None) }
}

fn removal() -> Removal {
    let cause = ConflictType::MultipleUniqueConflicts;
    Removal { relation: RelId(16_385), key: text_key(), version: version(), cause }
}

fn void() -> Void {
    Void { relation: RelId(16_385), key: text_key(), tombstone: version(), residue: counters() }
}

fn contribution() -> Contribution {
    Contribution { relation: RelId(16_385), key: text_key(), amounts: counters() }
}

fn startup() -> Message {
    Message::Startup(Startup {
        protocol: 1,
        node: NodeIdentity {
            id: NodeId(1),
            name: "n1".into(),
            system_identifier: 7_300_000_000_000_000_001,
            database: "app".into(),
            snowflake_node: 1,
        },
        server_version: 150_020,
        encoding: "UTF8".into(),
        big_endian: false,
        horizon: Timestamp(817_000_000_000_000),
    })
}

fn begin() -> Message {
    Message::Begin(Begin {
        xid: Xid(741),
        commit_ts: Timestamp(800_000_000_000_000),
        origin: NodeId(1),
        commit_lsn: Lsn(0x16_b374_d848),
        end_lsn: Lsn(0x16_b374_d878),
    })
}

fn commit() -> Message {
    Message::Commit(Commit {
        commit_lsn: Lsn(0x16_b374_d848),
        end_lsn: Lsn(0x16_b374_d878),
        commit_ts: Timestamp(800_000_000_000_000),
    })
}

fn relation() -> Message {
    let column = |name: &str, type_oid, type_modifier, is_key| Column {
        name: name.into(),
        type_oid,
        type_modifier,
        is_key,
        is_delta: false,
    };
    Message::Relation(RelationDescription {
        id: RelId(16_385),
        schema: "public".into(),
        name: "t".into(),
        columns: vec![column("id", 23, -1, true), column("note", 1043, 24, false)],
    })
}

/// A row of the relation above.
fn row(note: Value<'_>) -> Tuple {
    [Value::Binary(&7_i32.to_be_bytes()), note].into_iter().collect()
}

fn key() -> Tuple {
    [Value::Binary(&6_i32.to_be_bytes()), Value::Null].into_iter().collect()
}

fn text_key() -> Tuple {
    [Value::Text(b"6"), Value::Null].into_iter().collect()
}

fn counters() -> Tuple {
    [Value::Null, Value::Text(b"-12.50")].into_iter().collect()
}

pub fn any_owned() -> impl Strategy<Value = Owned> {
    // 124 bytes is the longest value whose cell takes one byte
    let bytes = || prop_oneof![vec(any::<u8>(), 0..20), vec(any::<u8>(), 120..130)];
    prop_oneof![
        Just(Owned::Null),
        Just(Owned::Unchanged),
        bytes().prop_map(Owned::Binary),
        bytes().prop_map(Owned::Text)
    ]
}

pub fn any_row() -> impl Strategy<Value = Vec<Owned>> {
    prop_oneof![8 => vec(any_owned(), 0..12), 1 => vec(any_owned(), 248..256)]
}

pub fn any_tuple() -> impl Strategy<Value = Tuple> {
    any_row().prop_map(|row| row.iter().map(Owned::borrow).collect())
}

fn any_identity() -> impl Strategy<Value = NodeIdentity> {
    (any::<u16>(), ".{0,20}", any::<u64>(), ".{0,20}", any::<u16>()).prop_map(
        |(id, name, system_identifier, database, snowflake_node)| NodeIdentity {
            id: NodeId(id),
            name,
            system_identifier,
            database,
            snowflake_node,
        },
    )
}

fn any_startup() -> impl Strategy<Value = Message> {
    (any::<u8>(), any_identity(), any::<u32>(), ".{0,20}", any::<bool>(), any::<i64>()).prop_map(
        |(protocol, node, server_version, encoding, big_endian, horizon)| {
            let horizon = Timestamp(horizon);
            Message::Startup(Startup { protocol, node, server_version, encoding, big_endian, horizon })
        },
    )
}

fn any_relation() -> impl Strategy<Value = Message> {
    let column = (".{0,10}", any::<u32>(), any::<i32>(), any::<bool>(), any::<bool>()).prop_map(
        |(name, type_oid, type_modifier, is_key, is_delta)| Column { name, type_oid, type_modifier, is_key, is_delta },
    );
    (any::<u32>(), ".{0,20}", ".{0,20}", vec(column, 0..20)).prop_map(|(id, schema, name, columns)| {
        Message::Relation(RelationDescription { id: RelId(id), schema, name, columns })
    })
}

fn any_relation_id() -> impl Strategy<Value = RelId> {
    any::<u32>().prop_map(RelId)
}

fn any_change() -> impl Strategy<Value = Message> {
    let optional = || option::of(any_tuple());
    (any_relation_id(), any_replaced(), any_tuple(), optional(), optional(), 0..3).prop_map(
        |(relation, replaced, new, old_counters, old_key, kind)| match kind {
            0 => Message::Insert(Insert { relation, new }),
            1 => Message::Update(Update { relation, replaced, old_counters, old_key, new }),
            _ => Message::Delete(Delete { relation, replaced, key: new }),
        },
    )
}

fn any_stamp() -> impl Strategy<Value = Stamp> {
    (any::<i64>(), any::<u16>()).prop_map(|(ts, node)| Stamp { commit_ts: Timestamp(ts), node: NodeId(node) })
}

fn any_replaced() -> impl Strategy<Value = Replaced> {
    prop_oneof![Just(Replaced::Own), any_stamp().prop_map(Replaced::Version), Just(Replaced::Unknown)]
}

fn any_version() -> impl Strategy<Value = LogicalMessage> {
    let change = prop_oneof![Just(Replacing::Update), Just(Replacing::Delete), Just(Replacing::Return)];
    (any_relation_id(), change, any::<u64>(), any_replaced(), option::of(any_tuple())).prop_map(
        |(relation, change, key, replaced, old_counters)| {
            LogicalMessage::Version(Version { relation, change, key, replaced, old_counters })
        },
    )
}

fn any_removal() -> impl Strategy<Value = Removal> {
    (any_relation_id(), any_tuple(), any_stamp(), proptest::sample::select(&ConflictType::ALL))
        .prop_map(|(relation, key, version, cause)| Removal { relation, key, version, cause })
}

fn any_void() -> impl Strategy<Value = Void> {
    (any_relation_id(), any_tuple(), any_stamp(), any_tuple()).prop_map(|(relation, key, tombstone, residue)| Void {
        relation,
        key,
        tombstone,
        residue,
    })
}

fn any_contribution() -> impl Strategy<Value = Contribution> {
    (any_relation_id(), any_tuple(), any_tuple()).prop_map(|(relation, key, amounts)| Contribution {
        relation,
        key,
        amounts,
    })
}

fn any_logical() -> impl Strategy<Value = LogicalMessage> {
    let timestamp = || any::<i64>().prop_map(Timestamp);
    prop_oneof![
        any::<u64>().prop_map(|lsn| LogicalMessage::SyncEvent { lsn: Lsn(lsn) }),
        any_version(),
        (timestamp(), timestamp(), timestamp(), any::<u64>()).prop_map(|(promise, horizon, beyond, without)| {
            LogicalMessage::Heartbeat { promise, horizon, beyond, without }
        }),
        (any_removal(), any::<bool>(), any::<u64>()).prop_map(|(removal, row_goes, fingerprint)| {
            LogicalMessage::Removal(RemovalNote { removal, row_goes, fingerprint })
        }),
        any_void().prop_map(LogicalMessage::Void),
        any_contribution().prop_map(LogicalMessage::Contribution),
    ]
}

pub fn any_message() -> impl Strategy<Value = Message> {
    let lsn = || any::<u64>().prop_map(Lsn);
    let commit_ts = || any::<i64>().prop_map(Timestamp);
    prop_oneof![
        any_startup(),
        (any::<u32>(), commit_ts(), any::<u16>(), lsn(), lsn()).prop_map(
            |(xid, commit_ts, origin, commit_lsn, end_lsn)| {
                Message::Begin(Begin { xid: Xid(xid), commit_ts, origin: NodeId(origin), commit_lsn, end_lsn })
            }
        ),
        (lsn(), lsn(), commit_ts()).prop_map(|(commit_lsn, end_lsn, commit_ts)| {
            Message::Commit(Commit { commit_lsn, end_lsn, commit_ts })
        }),
        any_relation(),
        any_change(),
        any_change(),
        any_change(),
        vec(any::<u32>().prop_map(RelId), 0..10).prop_map(|relations| Message::Truncate(Truncate { relations })),
        any_logical().prop_map(Message::Logical),
        any_removal().prop_map(Message::Removal),
        any_void().prop_map(Message::Void),
        any_contribution().prop_map(Message::Contribution),
    ]
}
