//! The receiver room by itself, against real servers: it is Rust and libpq and is built here by its path, without the
//! extension around it. Its own tests, some of them against a fake provider, run here, too.

#[allow(dead_code, unused_imports, reason = "the extension uses all of it")]
#[path = "../../../src/receiver/mod.rs"]
mod receiver;

mod connecting;
mod fetching;
mod queries;
mod streaming;

use std::time::Duration;

use meld_cluster_tests::wait::{DEADLINE, Look, until};
use meld_core::ids::{NodeId, NodeIdentity};
use meld_core::lsn::Lsn;
use meld_core::wire::{SUPPORTED, StartOptions};
use receiver::{Event, Link, LinkError, LinkOptions, SlotPlan};

/// Stands for a password wherever one could leak.
const SECRET: &str = "geheim-4711";

/// How long what ends at once may take on a busy machine; every time-out of a link is longer.
const SOON: Duration = Duration::from_secs(8);

fn subscriber() -> NodeIdentity {
    NodeIdentity {
        id: NodeId(900),
        name: "subscriber".into(),
        system_identifier: 900,
        database: "elsewhere".into(),
        snowflake_node: 900,
    }
}

fn options(dsn: &str) -> LinkOptions {
    LinkOptions {
        dsn: dsn.to_owned(),
        application_name: "meld_receiver_test".into(),
        slot_name: "meld_receiver_test".into(),
        slot: SlotPlan::Existing { from: Lsn::ZERO },
        start: StartOptions {
            protocol: SUPPORTED,
            meld_version: "0".into(),
            node: subscriber(),
            replication_sets: vec!["default".into()],
            forward_origins: Vec::new(),
            server_version: 150_000,
            encoding: "UTF8".into(),
            big_endian: false,
            horizon: meld_core::time::Timestamp::MIN,
            capabilities: Vec::new(),
        },
        expected_provider: None,
        server_run: 0,
        queue_bytes: 1 << 20,
        status_interval: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(10),
    }
}

/// The next event; the test fails if none comes.
#[track_caller]
fn next(link: &mut Link) -> Event {
    until("an event", DEADLINE, || link.try_next().map_or_else(|| Look::Seen("none".into()), Look::Done))
}

/// What a link ended with.
#[track_caller]
fn end(link: &mut Link) -> LinkError {
    loop {
        if let Event::Closed(error) = next(link) {
            return error;
        }
    }
}

/// Nothing that an error can show holds the password.
#[track_caller]
fn tells_no_secret(error: &LinkError) {
    let shown = format!("{error} {error:?} {:?} {:?}", error.detail(), error.hint());
    assert!(!shown.contains("geheim") && !shown.contains("4711"), "{shown}");
}
