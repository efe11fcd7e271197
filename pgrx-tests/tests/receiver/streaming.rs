//! Links to a real provider: slots, streams, a full queue, reports, crashes and shutdowns.

use std::time::{Duration, Instant};

use meld_cluster_tests::server::Stop;
use meld_cluster_tests::wait::{DEADLINE, Look, until, until_equal};
use meld_cluster_tests::{Cluster, Node, Plan, mesh};
use meld_core::ids::NodeId;
use meld_core::lsn::Lsn;
use meld_core::value::Value;
use meld_core::wire::Message;

use crate::receiver::{Event, Link, LinkError, LinkOptions, Positions, SlotPlan, query};
use crate::{SOON, end, next, options, subscriber};

const SLOT: &str = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'meld_receiver_test'";
const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

/// A cluster of one provider with a published table.
fn provider(name: &str, settings: &[&str]) -> Cluster {
    let plan = settings.iter().fold(Plan::new(name, 1), |plan, line| plan.setting(line));
    let cluster = plan.start();
    mesh::create_node(cluster.node(1));
    mesh::replicate(&cluster, TABLE);
    cluster
}

fn link(node: &Node, slot: SlotPlan) -> Link {
    link_with(node, slot, |_| {})
}

fn link_with(node: &Node, slot: SlotPlan, change: impl FnOnce(&mut LinkOptions)) -> Link {
    let mut options = options(&node.dsn());
    options.slot = slot;
    change(&mut options);
    Link::start(options).unwrap()
}

/// Takes events up to the one that makes the slot.
fn created(link: &mut Link) -> Lsn {
    loop {
        match next(link) {
            Event::SlotCreated { consistent } => return consistent,
            Event::Connected { provider, .. } => assert_eq!(provider.id, NodeId(1)),
            other => panic!("{other:?}"),
        }
    }
}

/// Takes events until so many rows were inserted; the end of the last commit.
fn take_rows(link: &mut Link, rows: usize) -> Lsn {
    let (mut seen, mut end) = (0, Lsn::ZERO);
    while seen < rows || end == Lsn::ZERO {
        match next(link) {
            Event::Frame { messages, .. } => {
                for message in messages {
                    match message {
                        Message::Insert(_) => (seen, end) = (seen + 1, Lsn::ZERO),
                        Message::Commit(commit) => end = commit.end_lsn,
                        _ => {}
                    }
                }
            }
            Event::Keepalive { .. } | Event::Connected { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, rows);
    end
}

fn all(lsn: Lsn) -> Positions {
    Positions { written: lsn, flushed: lsn, applied: lsn }
}

fn confirmed(node: &Node) -> Lsn {
    let sql = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = 'meld_receiver_test'";
    node.value::<String>(sql).parse().unwrap()
}

fn released(node: &Node) {
    until_equal("active slots", 0_i64, || node.value("SELECT count(*) FROM pg_replication_slots WHERE active"));
}

#[test]
fn a_new_slot_streams_and_an_old_one_goes_on_from_what_was_flushed() {
    let cluster = provider("receiver_slots", &[]);
    let node = cluster.node(1);
    node.batch("INSERT INTO t VALUES (0, 'before the slot')");
    let mut first = link(node, SlotPlan::Create);
    let consistent = created(&mut first);
    node.batch("INSERT INTO t SELECT n, 'first' FROM generate_series(1, 10) n");
    let flushed = take_rows(&mut first, 10);
    assert!(flushed > consistent && first.received() >= consistent);
    assert!(confirmed(node) < flushed, "nothing was reported");
    first.report(all(flushed), true);
    until_equal("confirmed position", flushed, || confirmed(node));
    node.batch("INSERT INTO t VALUES (11, 'received, not flushed')");
    take_rows(&mut first, 1);
    drop(first);
    released(node);
    assert_eq!(confirmed(node), flushed, "never more than was reported");

    let mut second = link(node, SlotPlan::Existing { from: flushed });
    let last = take_rows(&mut second, 1);
    let idle = until("a keepalive", DEADLINE, || {
        node.batch("CHECKPOINT; SELECT pg_logical_emit_message(true, 'other', 'x')");
        match second.try_next() {
            Some(Event::Keepalive { end: position }) if position > last => Look::Done(position),
            other => Look::Seen(format!("{other:?}")),
        }
    });
    assert!(idle > last, "the position moves though nothing is published");
    let busy = end(&mut link(node, SlotPlan::Existing { from: flushed }));
    assert_eq!(busy.sqlstate(), "55006", "{busy:?}");
    drop(second);
    released(node);

    let again = created(&mut link(node, SlotPlan::Create));
    assert!(again > flushed);
    assert_eq!(node.value::<i64>(SLOT), 1);
    refusals(node);
    cluster.discard();
}

fn refusals(node: &Node) {
    released(node);
    node.batch("SELECT pg_drop_replication_slot('meld_receiver_test')");
    let missing = end(&mut link(node, SlotPlan::Existing { from: Lsn::ZERO }));
    assert_eq!(missing.sqlstate(), "42704", "{missing:?}");
    node.batch("SELECT pg_create_logical_replication_slot('meld_receiver_test', 'test_decoding')");
    let foreign = end(&mut link(node, SlotPlan::Existing { from: Lsn::ZERO }));
    assert!(matches!(foreign, LinkError::Remote(_)), "another plugin does not know our options: {foreign:?}");
    released(node);
    let kept = end(&mut link(node, SlotPlan::Create));
    assert!(matches!(kept, LinkError::Protocol(_)), "a slot that is not ours is not dropped: {kept:?}");
    assert_eq!(node.value::<i64>(SLOT), 1);
    let clash = end(&mut link_with(node, SlotPlan::Create, |options| options.start.node.id = NodeId(1)));
    assert!(matches!(clash, LinkError::Clash(_)), "{clash:?}");
    let other = end(&mut link_with(node, SlotPlan::Create, |options| options.expected_provider = Some(subscriber())));
    assert!(matches!(other, LinkError::WrongProvider { .. }), "{other:?}");
}

#[test]
fn a_link_that_waits_for_a_slot_can_be_stopped() {
    let cluster = provider("receiver_waiting", &[]);
    let node = cluster.node(1);
    let mut client = node.client();
    let mut open = client.transaction().unwrap();
    open.batch_execute("INSERT INTO t VALUES (1, 'still open')").unwrap();
    let link = link(node, SlotPlan::Create);
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'meld_receiver_test' \
                 AND query LIKE 'CREATE_REPLICATION_SLOT%' AND wait_event = 'transactionid'";
    until_equal("a walsender that waits for the transaction", 1_i64, || node.value(waits));
    let start = Instant::now();
    drop(link);
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    until_equal("sessions of the link", 0_i64, || {
        node.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'meld_receiver_test'")
    });
    assert_eq!(node.value::<i64>(SLOT), 0, "no half-made slot is left");
    open.commit().unwrap();
    drop(client);
    cluster.discard();
}

#[test]
fn a_full_queue_does_not_run_into_the_senders_timeout() {
    let cluster = provider("receiver_full", &["wal_sender_timeout = '2s'"]);
    let node = cluster.node(1);
    let mut link = link_with(node, SlotPlan::Create, |options| options.queue_bytes = 64 << 10);
    let consistent = created(&mut link);
    node.batch(
        "DO $$ BEGIN FOR i IN 0..499 LOOP
            INSERT INTO t SELECT i * 100 + n, repeat('x', 1000) FROM generate_series(1, 100) n; COMMIT;
        END LOOP; END $$",
    );
    let told = |column: &str| -> f64 {
        let sql = format!("SELECT extract(epoch FROM {column})::float8 FROM pg_stat_replication");
        node.try_value(&sql).unwrap_or(0.0)
    };
    let connected = told("backend_start");
    // nothing is taken for more than the time-out, while 50 MB wait
    let begin = until("a first reply", DEADLINE, || match told("reply_time") {
        0.0 => Look::Seen("none".into()),
        time => Look::Done(time),
    });
    until("replies for three times the time-out", DEADLINE, || match told("reply_time") {
        time if time > begin + 6.0 => Look::Done(()),
        time => Look::Seen(format!("{time} after {begin}")),
    });
    let held = link.received().0 - consistent.0;
    assert!(held < 2 << 20, "{held} bytes of WAL were read into a queue of 64 kB");
    assert_eq!(told("backend_start"), connected, "it is still the same connection");
    take_rows(&mut link, 50_000);
    drop(link);
    cluster.discard();
}

#[test]
fn a_server_killed_in_mid_stream_closes_the_link_and_the_next_one_loses_nothing() {
    let cluster = provider("receiver_killed", &[]);
    let node = cluster.node(1);
    let mut first = link(node, SlotPlan::Create);
    created(&mut first);
    node.batch("INSERT INTO t SELECT n, 'one' FROM generate_series(1, 100) n");
    let flushed = take_rows(&mut first, 100);
    node.batch("INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1001, 31000) n");
    node.forget_session();
    node.server.stop(Stop::Kill).unwrap();
    let error = end(&mut first);
    assert!(matches!(error, LinkError::Closed | LinkError::Remote(_)), "{error:?}");
    drop(first);
    node.server.start().unwrap();
    let mut second = link(node, SlotPlan::Existing { from: flushed });
    take_rows(&mut second, 30_000);
    drop(second);
    cluster.discard();
}

#[test]
fn a_provider_that_shuts_down_is_told_as_soon_as_all_is_flushed() {
    // with no time-out and no timer, nothing but the provider's question makes the link tell what was flushed
    let cluster = provider("receiver_shutdown", &["wal_sender_timeout = 0"]);
    let node = cluster.node(1);
    let mut link = link_with(node, SlotPlan::Create, |options| options.status_interval = Duration::from_secs(86_400));
    created(&mut link);
    node.batch("INSERT INTO t VALUES (1, 'last')");
    take_rows(&mut link, 1);
    node.forget_session();
    let error = std::thread::scope(|scope| {
        let stop = scope.spawn(|| node.server.stop(Stop::Fast));
        let error = loop {
            match next(&mut link) {
                Event::Keepalive { end } => link.report(all(end), false),
                Event::Closed(error) => break error,
                other => panic!("{other:?}"),
            }
        };
        stop.join().unwrap().unwrap();
        error
    });
    assert!(matches!(error, LinkError::Closed | LinkError::Remote(_)), "{error:?}");
    cluster.discard();
}

#[test]
fn an_encrypted_link_keeps_nothing_back() {
    let cluster = provider("receiver_encrypted", &[]);
    let node = cluster.node(1);
    make_certificate(node);
    node.batch("ALTER SYSTEM SET ssl = on");
    node.batch("SELECT pg_reload_conf()");
    let dsn = node.dsn().replace("sslmode=disable", "sslmode=require");
    let ask = || query(&dsn, "meld_query_test", "SHOW ssl", &[], DEADLINE, &mut || {});
    until_equal("an encrypted connection", Ok(vec![vec![Some("on".to_owned())]]), ask);
    let mut link = link_with(node, SlotPlan::Create, |options| options.dsn = dsn.clone());
    created(&mut link);
    // around and above the size of a record, each alone, so that nothing that comes later pushes it through
    for (id, size) in [1, 8_000, 16_000, 16_300, 16_350, 16_384, 24_000, 33_000, 100_000, 1_000_000].iter().enumerate()
    {
        node.batch(&format!(
            "INSERT INTO t SELECT {id}, string_agg(md5(n::text), '') FROM generate_series(1, {size} / 32 + 1) n"
        ));
        let start = Instant::now();
        take_rows(&mut link, 1);
        assert!(start.elapsed() < SOON, "{size} bytes took {:?}", start.elapsed());
    }
    let sql = "SELECT repeat('x', 16300) FROM generate_series(1, 40)";
    let rows = query(&dsn, "meld_query_test", sql, &[], DEADLINE, &mut || {}).unwrap();
    assert_eq!(rows.len(), 40);
    drop(link);
    cluster.discard();
}

/// A key and a certificate that nobody trusts, where the server looks for them.
fn make_certificate(node: &Node) {
    let mut command = std::process::Command::new("openssl");
    node.server.environment().run_as.apply(&mut command);
    command.current_dir(&node.server.data).args(["req", "-new", "-x509", "-nodes", "-newkey", "rsa:2048"]);
    command.args(["-keyout", "server.key", "-out", "server.crt", "-subj", "/CN=localhost", "-days", "2"]);
    let done = command.output().expect("openssl is needed");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_provider_of_another_encoding_is_read_as_it_writes() {
    let cluster = provider("receiver_latin", &[]);
    let node = cluster.node(1);
    node.batch("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    let mut client = node.server.connect("latin").unwrap();
    for sql in [
        "CREATE EXTENSION meld",
        "SELECT meld.node_create('latin', 'dbname=latin', node_id => 2)",
        TABLE,
        "SELECT meld.repset_add_all_tables('default', '{public}')",
    ] {
        client.batch_execute(sql).unwrap();
    }
    let latin = |options: &mut LinkOptions| {
        options.dsn = options.dsn.replace("dbname=app", "dbname=latin");
        options.start.encoding = "LATIN1".into();
    };
    let mut link = link_with(node, SlotPlan::Create, latin);
    assert!(matches!(next(&mut link), Event::Connected { provider, .. } if provider.name == "latin"));
    created(&mut link);
    client.batch_execute("INSERT INTO t VALUES (1, 'grün')").unwrap();
    let value = loop {
        let Event::Frame { messages, .. } = next(&mut link) else { continue };
        let insert = messages.into_iter().find_map(|message| match message {
            Message::Insert(insert) => Some(insert),
            _ => None,
        });
        if let Some(insert) = insert {
            break insert.new;
        }
    };
    let text = value.values().nth(1);
    assert!(matches!(text, Some(Value::Text(b"gr\xfcn") | Value::Binary(b"gr\xfcn"))), "{text:?}");
    drop(link);
    released(node);
    let refused = end(&mut link_with(node, SlotPlan::Create, |options| {
        latin(options);
        options.start.replication_sets = vec!["grün".into()];
    }));
    assert!(matches!(refused, LinkError::System { .. }), "{refused:?}");
    cluster.discard();
}
