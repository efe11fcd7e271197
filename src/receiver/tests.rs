//! Links to a fake provider: broken streams, the queue's bound, replies, silence, and a panic in the thread.

use std::time::{Duration, Instant};

use meld_core::lsn::Lsn;
use meld_core::wire::{FrameWriter, LogicalMessage, Message, ProtocolError};

use super::fake::{Fake, PATIENCE, Provider, node, options};
use super::libpq::{Want, poll};
use super::thread::Tuning;
use super::{Event, Link, LinkError, Positions};

/// The next event; the test fails if none comes.
fn next(link: &mut Link) -> Event {
    let limit = Instant::now() + PATIENCE;
    loop {
        if let Some(event) = link.try_next() {
            return event;
        }
        let left = limit.saturating_duration_since(Instant::now());
        assert!(poll([(link.wake_fd(), Want::Read)], Some(left))[0], "no event");
    }
}

/// What the link ended with, and how many frames came before.
fn outcome(link: &mut Link) -> (usize, LinkError) {
    let mut frames = 0;
    loop {
        match next(link) {
            Event::Frame { .. } => frames += 1,
            Event::Closed(error) => return (frames, error),
            Event::Connected { .. } | Event::SlotCreated { .. } | Event::Keepalive { .. } => {}
        }
    }
}

fn frames(count: usize) -> Vec<Vec<u8>> {
    let mut writer = FrameWriter::new(1);
    let mut frame = |number: usize| {
        writer.append(&Message::Logical(LogicalMessage::SyncEvent { lsn: Lsn(number as u64) })).unwrap();
        writer.finish().unwrap().to_vec()
    };
    (1..=count).map(&mut frame).collect()
}

fn link_to(script: impl FnOnce(Provider) + Send + 'static) -> (Link, Fake) {
    let fake = Fake::start(node(2), script);
    (Link::start(options(fake.port)).unwrap(), fake)
}

#[test]
fn frames_and_keepalives_come_in_order_and_the_servers_last_words_at_the_end() {
    let (mut link, fake) = link_to(|mut provider| {
        for (number, frame) in (1..).zip(frames(3)) {
            provider.wal(number * 100, &frame);
            provider.keepalive(number * 100 + 50, false);
        }
        provider.fatal("57P01", "terminating connection due to administrator command");
    });
    assert!(matches!(next(&mut link), Event::Connected { provider, server_version: 150_000 } if provider == node(2)));
    let mut seen = Vec::new();
    let error = loop {
        match next(&mut link) {
            Event::Frame { messages, .. } => match messages.as_slice() {
                [Message::Logical(LogicalMessage::SyncEvent { lsn })] => seen.push(lsn.0),
                other => panic!("{other:?}"),
            },
            Event::Keepalive { end } => seen.push(end.0),
            Event::Closed(error) => break error,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(seen, [1, 150, 2, 250, 3, 350]);
    assert_eq!(link.received(), Lsn(350));
    let LinkError::Remote(error) = error else { panic!("{error:?}") };
    assert_eq!((error.sqlstate.as_str(), error.detail.as_deref()), ("57P01", Some("Some detail.")));
    assert_eq!(error.message, "terminating connection due to administrator command");
    assert!(link.try_next().is_none(), "nothing comes after the end");
    fake.finish();
}

#[test]
fn a_broken_stream_ends_the_link_after_the_last_good_frame() {
    type Damage = fn(Vec<Vec<u8>>) -> Vec<Vec<u8>>;
    type Expected = fn(&LinkError) -> bool;
    let cases: [(&str, Damage, Expected); 6] = [
        (
            "flipped bit",
            |mut f| (f[2][15] ^= 4, f).1,
            |e| matches!(e, LinkError::Stream(ProtocolError::Checksum { .. })),
        ),
        (
            "gap",
            |mut f| (f.remove(2), f).1,
            |e| matches!(e, LinkError::Stream(ProtocolError::Sequence { expected: 3, found: 4 })),
        ),
        (
            "repeat",
            |mut f| (f.insert(2, f[1].clone()), f).1,
            |e| matches!(e, LinkError::Stream(ProtocolError::Sequence { expected: 3, found: 2 })),
        ),
        (
            "truncated",
            |mut f| (f[2].truncate(10), f).1,
            |e| matches!(e, LinkError::Stream(ProtocolError::Short { .. })),
        ),
        ("empty", |mut f| (f[2].clear(), f).1, |e| matches!(e, LinkError::Stream(ProtocolError::Short { .. }))),
        (
            "version",
            |mut f| (f[2][0] = 99, f).1,
            |e| matches!(e, LinkError::Stream(ProtocolError::VersionChanged { expected: 1, found: 99 })),
        ),
    ];
    for (name, damage, expected) in cases {
        let (mut link, fake) = link_to(move |mut provider| {
            for frame in damage(frames(5)) {
                provider.wal(1, &frame);
            }
            provider.wait_for_end();
        });
        let (good, error) = outcome(&mut link);
        assert!(good == 2 && expected(&error), "{name}: {good} frames, {error:?}");
        assert_eq!(error.sqlstate(), "08P01");
        drop(link);
        fake.finish();
    }
}

#[test]
fn a_connection_that_breaks_is_closed_after_what_had_arrived() {
    let (mut link, fake) = link_to(|mut provider| {
        for frame in frames(50) {
            provider.wal(1, &frame);
        }
    });
    assert_eq!(outcome(&mut link), (50, LinkError::Closed));
    fake.finish();
}

#[test]
fn a_full_queue_stops_reading_but_not_the_statuses() {
    const FRAMES: usize = 2000;
    let (heard, statuses_heard) = std::sync::mpsc::channel();
    let fake = Fake::start(node(2), move |mut provider| {
        let mut writer = FrameWriter::new(1);
        for number in 1..=FRAMES {
            for _ in 0..50 {
                writer.append(&Message::Logical(LogicalMessage::SyncEvent { lsn: Lsn(1) })).unwrap();
            }
            provider.wal(number as u64, writer.finish().unwrap());
        }
        for _ in 0..20 {
            provider.statuses.recv_timeout(PATIENCE).unwrap();
        }
        heard.send(()).unwrap();
        provider.wait_for_end();
    });
    let mut options = options(fake.port);
    options.queue_bytes = 100 * size_of::<Message>();
    options.status_interval = Duration::from_millis(20);
    let mut link = Link::start(options).unwrap();
    assert!(matches!(next(&mut link), Event::Connected { .. }));
    let Event::Frame { messages, .. } = next(&mut link) else { panic!("no frame") };
    assert_eq!(messages.len(), 50);
    statuses_heard.recv_timeout(PATIENCE).unwrap();
    assert!(link.received() <= Lsn(4), "{}", link.received());
    let mut taken = 1;
    while taken < FRAMES {
        taken += usize::from(matches!(next(&mut link), Event::Frame { .. }));
        assert!(link.received().0 <= taken as u64 + 3);
    }
    drop(link);
    fake.finish();
}

#[test]
fn a_frame_above_the_bound_passes() {
    let fake = Fake::start(node(2), |mut provider| {
        let mut writer = FrameWriter::new(1);
        for _ in 0..3 {
            for _ in 0..100_000 {
                writer.append(&Message::Logical(LogicalMessage::SyncEvent { lsn: Lsn(1) })).unwrap();
            }
            provider.wal(1, writer.finish().unwrap());
        }
        provider.wait_for_end();
    });
    let mut options = options(fake.port);
    options.queue_bytes = 1;
    let mut link = Link::start(options).unwrap();
    assert!(matches!(next(&mut link), Event::Connected { .. }));
    for _ in 0..3 {
        assert!(matches!(next(&mut link), Event::Frame { messages, .. } if messages.len() == 100_000));
    }
    drop(link);
    fake.finish();
}

#[test]
fn a_wanted_reply_comes_at_once_and_again_when_more_is_flushed() {
    let (asked, ask) = std::sync::mpsc::channel();
    let fake = Fake::start(node(2), move |mut provider| {
        let status = |provider: &Provider| provider.statuses.recv_timeout(PATIENCE).unwrap();
        let at = |n: u64| Positions { written: Lsn(n), flushed: Lsn(n), applied: Lsn(n) };
        assert_eq!(status(&provider), (at(0), true), "first of all, with the question for the time");
        provider.keepalive(500, true);
        assert_eq!(status(&provider), (at(0), false), "the answer tells no more than was reported");
        asked.send(()).unwrap();
        assert_eq!(status(&provider), (at(400), false), "a report that is waited for");
        assert_eq!(status(&provider), (at(500), false), "all that is waited for");
        assert_eq!(status(&provider), (at(700), false), "at once");
        asked.send(()).unwrap();
        provider.wait_for_end();
    });
    let mut options = options(fake.port);
    options.status_interval = Duration::from_secs(1000);
    let tuning = Tuning { question_pause: Duration::from_secs(1000), ..Tuning::default() };
    let mut link = Link::tuned(options, tuning).unwrap();
    assert!(matches!(next(&mut link), Event::Connected { .. }));
    assert!(matches!(next(&mut link), Event::Keepalive { end: Lsn(500) }));
    ask.recv_timeout(PATIENCE).unwrap();
    let report =
        |n: u64, at_once| link.report(Positions { written: Lsn(n), flushed: Lsn(n), applied: Lsn(n) }, at_once);
    let told = |n: u64| {
        let limit = Instant::now() + PATIENCE;
        while link.told() < Lsn(n) {
            assert!(Instant::now() < limit, "{n} was not sent");
            poll([], Some(Duration::from_millis(1)));
        }
    };
    report(400, false);
    told(400);
    report(500, false);
    told(500);
    report(600, false);
    report(300, false);
    report(700, true);
    ask.recv_timeout(PATIENCE).unwrap();
    drop(link);
    fake.finish();
}

#[test]
fn a_silent_provider_is_asked_and_then_given_up() {
    let fake = Fake::start(node(2), |provider| {
        let wanted: Vec<bool> = provider.statuses.iter().map(|(_, wanted)| wanted).collect();
        assert_eq!(wanted, [true, true], "asked for the time, and once for a sign of life");
    });
    let limit = Duration::from_millis(300);
    let mut link = Link::tuned(options(fake.port), Tuning { silence_limit: limit, ..Tuning::default() }).unwrap();
    assert_eq!(outcome(&mut link), (0, LinkError::Timeout { doing: "waiting for the provider", limit }));
    drop(link);
    fake.finish();
}

#[test]
fn the_wrong_node_is_refused_before_the_stream() {
    let mut wrong = node(2);
    wrong.database = "other".into();
    let mut clash = node(2);
    clash.id = node(1).id;
    for (identity, code) in [(wrong, "55000"), (clash, "55000"), (node(1), "55000")] {
        let fake = Fake::start(identity.clone(), |_| panic!("the stream was started"));
        let mut link = Link::start(options(fake.port)).unwrap();
        let (_, error) = outcome(&mut link);
        assert!(matches!(error, LinkError::WrongProvider { .. } | LinkError::Clash(_)), "{error:?}");
        assert_eq!(error.sqlstate(), code);
        assert!(error.detail().unwrap().contains(&identity.name), "{error:?}");
        drop(link);
        fake.finish();
    }
}

#[test]
fn what_does_not_speak_the_protocol_is_an_error() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let other = std::thread::spawn(move || {
        use std::io::Write;
        let (mut socket, _) = listener.accept().unwrap();
        let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let mut link = Link::start(options(port)).unwrap();
    let (_, error) = outcome(&mut link);
    assert!(matches!(error, LinkError::Connect { place: Some(_), .. }), "{error:?}");
    other.join().unwrap();
}

#[test]
fn a_panic_in_the_thread_is_the_last_event() {
    let mut link = Link::spawn(1024, |_, _| panic!("told {}", "so")).unwrap();
    assert_eq!(outcome(&mut link), (0, LinkError::Panic("told so".into())));
    assert!(link.try_next().is_none());
}

#[test]
fn the_thread_starts_with_every_signal_blocked_and_the_caller_keeps_its_own() {
    let blocked = |task: &str| {
        let status = std::fs::read_to_string(format!("/proc/{task}/status")).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap().to_owned();
        u64::from_str_radix(&mask, 16).unwrap()
    };
    let before = blocked("thread-self");
    let (sender, mask) = std::sync::mpsc::channel();
    let link = Link::spawn(1024, move |_, _| {
        sender.send(blocked("thread-self")).unwrap();
        LinkError::Stopped
    })
    .unwrap();
    let inside = mask.recv_timeout(PATIENCE).unwrap();
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGQUIT, libc::SIGALRM] {
        assert_ne!(inside & 1 << (signal - 1), 0, "signal {signal}");
    }
    assert_eq!(blocked("thread-self"), before);
    drop(link);
}

#[test]
fn dropping_a_link_ends_its_thread_at_once() {
    let (mut link, fake) = link_to(|provider| provider.wait_for_end());
    assert!(matches!(next(&mut link), Event::Connected { .. }));
    let start = Instant::now();
    drop(link);
    assert!(start.elapsed() < Duration::from_secs(3));
    fake.finish();
}
