//! Messages that a user writes under meld's prefix: they do nothing, and are counted and reported.

use meld_cluster_tests::{Node, log_scan};
use meld_core::conflict::ConflictType;
use meld_core::ids::{NodeId, RelId, Xid};
use meld_core::lsn::Lsn;
use meld_core::time::{Stamp, Timestamp};
use meld_core::value::{Tuple, Value};
use meld_core::version::Replaced;
use meld_core::wire::{
    Contribution, LogicalMessage, Message, Removal, RemovalNote, Replacing, Secret, Version, Void, codec,
};

use crate::stream::{add_to_set, create_slot, frames, messages, options, provider, transcript};

const REPORT: &str = "logical message with prefix \"meld\" is ignored";

/// One message of each kind that would do harm to the row of `t` with id 1.
fn harmful(table: RelId) -> Vec<LogicalMessage> {
    let key: Tuple = [Value::Text(b"1"), Value::Null].into_iter().collect();
    let numbers: Tuple = [Value::Null, Value::Text(b"1000")].into_iter().collect();
    let version = Stamp { commit_ts: Timestamp(i64::MAX), node: NodeId(3) };
    let removal = Removal { relation: table, key: key.clone(), version, cause: ConflictType::InsertExists };
    // of the key 1 as the row trigger would make it
    let fingerprint = {
        let mut fingerprint = meld_core::fingerprint::Fingerprint::default();
        fingerprint.add(&1_u64.to_le_bytes());
        fingerprint.finish()
    };
    vec![
        LogicalMessage::SyncEvent { lsn: Lsn(u64::MAX) },
        LogicalMessage::Heartbeat {
            promise: Timestamp(i64::MAX),
            horizon: Timestamp(i64::MAX),
            beyond: Timestamp(i64::MAX),
            without: 0,
        },
        LogicalMessage::Version(Version {
            relation: table,
            change: Replacing::Update,
            key: fingerprint,
            replaced: Replaced::Version(version),
            old_counters: Some(numbers.clone()),
        }),
        LogicalMessage::Removal(RemovalNote { removal, row_goes: true, fingerprint }),
        LogicalMessage::Void(Void { relation: table, key: key.clone(), tombstone: version, residue: numbers.clone() }),
        LogicalMessage::Contribution(Contribution { relation: table, key, amounts: numbers }),
    ]
}

/// A transaction of the user's own, with the message directly before an UPDATE and a DELETE. `content` gets its number.
fn emit(node: &Node, is_alone: bool, content: impl Fn(Xid) -> Vec<u8>) {
    let mut client = node.client();
    let mut transaction = client.transaction().expect("BEGIN");
    transaction.batch_execute("SET LOCAL ROLE mallory").expect("a role of no rights on meld");
    let number: i64 = transaction.query_one("SELECT txid_current()", &[]).expect("its number").get(0);
    let content = content(Xid(number as u32));
    let changes = ["UPDATE t SET n = n + 1 WHERE id = 1", "DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 0)"];
    for change in changes {
        let sql = "SELECT pg_logical_emit_message($1, 'meld', $2::bytea)";
        transaction.query(sql, &[&!is_alone, &content]).expect("everybody may");
        transaction.batch_execute(change).expect("a change");
    }
    transaction.commit().expect("COMMIT");
}

#[test]
fn what_a_user_forges_or_repeats_does_nothing() {
    let cluster = provider("plugin-forged");
    let node = cluster.node(1);
    node.batch("CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL); INSERT INTO t VALUES (1, 0)");
    node.batch("CREATE ROLE mallory; GRANT SELECT, INSERT, UPDATE, DELETE ON t TO mallory");
    node.batch(&add_to_set("default", "t"));
    create_slot(node, "s");
    let table = RelId(node.value::<u32>("SELECT 't'::regclass::oid"));
    let secret = Secret::new(&node.value::<Vec<u8>>("SELECT secret FROM meld.message_secret")).expect("16 bytes");
    let honest = ["begin of n1", "table public.t (*id n)", "update t(1 1)", "delete t(1 -)", "insert t(1 0)", "commit"];
    let honest = |is_first: bool| honest.into_iter().filter(move |line| is_first || !line.starts_with("table"));

    emit(node, false, |_| b"garbage".to_vec());
    assert!(transcript(node, "s", &options()).into_iter().eq(honest(true)));
    let ignored = || node.value::<i64>("SELECT meld.ignored_messages()");
    assert_eq!(ignored(), 2);
    let mut forged = 0;
    for message in harmful(table) {
        let body = |message: &LogicalMessage| {
            let mut body = Vec::new();
            codec::encode(&Message::Logical(message.clone()), &mut body).expect("encode");
            body
        };
        let seal = |secret: &Secret, xid| secret.seal(xid, message.clone()).expect("seal");
        for is_alone in [false, true] {
            let other = Secret::new(&[7; 16]).expect("16 bytes");
            emit(node, is_alone, |_| body(&message));
            emit(node, is_alone, |_| [vec![0; 8], body(&message)].concat());
            emit(node, is_alone, |xid| seal(&other, (!is_alone).then_some(xid)));
            // a real one, repeated in another transaction
            emit(node, is_alone, |xid| seal(&secret, Some(Xid(xid.0 - 1))));
            forged += 4;
        }
    }
    let lines = transcript(node, "s", &options());
    let wanted: Vec<String> = (0..forged).flat_map(|at| honest(at == 0)).map(str::to_owned).collect();
    assert_eq!(lines, wanted);
    assert_eq!(ignored(), 2 + 2 * i64::from(forged));
    assert_eq!(log_scan::entries_with(&node.server.log, REPORT).len(), 2, "once per stream");
    cluster.finish();
}

/// The same with the right seal, or the test above would show nothing.
#[test]
fn what_is_sealed_for_its_transaction_counts() {
    let cluster = provider("plugin-sealed");
    let node = cluster.node(1);
    node.batch("CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL); INSERT INTO t VALUES (1, 0)");
    node.batch("CREATE ROLE mallory; GRANT SELECT, INSERT, UPDATE, DELETE ON t TO mallory");
    node.batch(&add_to_set("default", "t"));
    create_slot(node, "s");
    let table = RelId(node.value::<u32>("SELECT 't'::regclass::oid"));
    let secret = Secret::new(&node.value::<Vec<u8>>("SELECT secret FROM meld.message_secret")).expect("16 bytes");
    for message in harmful(table) {
        let is_alone = matches!(message, LogicalMessage::SyncEvent { .. } | LogicalMessage::Heartbeat { .. });
        emit(node, is_alone, |xid| secret.seal((!is_alone).then_some(xid), message.clone()).expect("seal"));
    }
    let got = messages(&frames(node, "s", &options()));
    let count = |is_wanted: fn(&Message) -> bool| got.iter().filter(|message| is_wanted(message)).count();
    assert_eq!(count(|message| matches!(message, Message::Logical(_))), 4);
    assert_eq!(count(|message| matches!(message, Message::Removal(_))), 2);
    assert_eq!(count(|message| matches!(message, Message::Void(_))), 2);
    assert_eq!(count(|message| matches!(message, Message::Contribution(_))), 2);
    // one went with its removal
    assert_eq!(count(|message| matches!(message, Message::Delete(_))), 5);
    let told = |message: &Message| matches!(message, Message::Update(update) if update.old_counters.is_some());
    assert_eq!(got.iter().filter(|message| told(message)).count(), 1);
    assert_eq!(node.value::<i64>("SELECT meld.ignored_messages()"), 0);
    cluster.finish();
}

#[test]
fn the_secret_is_for_its_owner_and_changes_with_the_extension() {
    let cluster = provider("plugin-secret");
    let node = cluster.node(1);
    node.batch("CREATE ROLE mallory; GRANT USAGE ON SCHEMA meld TO mallory; CREATE ROLE reader; GRANT pg_read_all_data TO reader");
    let refused = node.error("SET ROLE mallory; SELECT secret FROM meld.message_secret");
    assert_eq!(refused.sqlstate, "42501");
    node.batch("RESET ROLE");
    let seen = "SET ROLE reader; SELECT 1 / (count(*) = 0)::int FROM meld.message_secret; RESET ROLE";
    node.batch(seen);

    create_slot(node, "s");
    let secret = || node.value::<Vec<u8>>("SELECT secret FROM meld.message_secret");
    let before = secret();
    // in one session, whose process has used the secret of before
    node.batch("SELECT meld.sync_event()");
    assert_eq!(transcript(node, "s", &options()).len(), 1);
    node.batch("SELECT meld.sync_event()");
    // what is at work in the moment of the drop says what it misses
    node.expect_log("this node has no secret to seal messages with");
    node.expect_log("relation \"meld.");
    node.expect_log("could not open relation with OID");
    node.batch("DROP EXTENSION meld");
    meld_cluster_tests::mesh::create_node(node);
    assert_ne!(secret(), before);
    node.batch("SELECT meld.sync_event()");
    let lines = transcript(node, "s", &options());
    assert_eq!(lines.len(), 1, "{lines:?}");
    // what nobody can tell any more from what somebody forged; a heartbeat of before may be among it
    let ignored: i64 = node.value("SELECT meld.ignored_messages()");
    assert!(ignored >= 1, "{ignored}");
    cluster.finish();
}
