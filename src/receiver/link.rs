//! The worker's handle on a link: starts the thread, takes its events, tells it positions, and stops it.

use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use meld_core::clock::Offset;
use meld_core::lsn::Lsn;

use super::libpq::with_signals_blocked;
use super::queue::{Receiver, Sender, Signal, queue};
use super::thread::{self, Tuning};
use super::{Event, LinkError, LinkOptions, Positions, connect};

/// How long `Drop` waits for the thread. Only the resolution of a host name can hold it longer; then the thread is
/// left to end by itself, which it does at its next step.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// What the worker tells the thread, and the thread the worker, without a lock.
pub(super) struct Control {
    stop: AtomicBool,
    /// Wakes the thread for anything: a stop, positions to send, room in the queue.
    pub wake: Arc<Signal>,
    written: AtomicU64,
    flushed: AtomicU64,
    applied: AtomicU64,
    at_once: AtomicBool,
    /// The provider has asked for a reply and waits for this flush position: 0 for none.
    awaited: AtomicU64,
    /// The flush position that the provider was told last.
    told: AtomicU64,
    received: AtomicU64,
    offset_us: AtomicI64,
    /// -1 while nothing was measured.
    round_trip_us: AtomicI64,
}

impl Control {
    fn new(wake: Arc<Signal>) -> Control {
        Control {
            stop: AtomicBool::new(false),
            wake,
            written: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            at_once: AtomicBool::new(false),
            awaited: AtomicU64::new(0),
            told: AtomicU64::new(0),
            received: AtomicU64::new(0),
            offset_us: AtomicI64::new(0),
            round_trip_us: AtomicI64::new(-1),
        }
    }

    pub fn should_stop(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    pub fn positions(&self) -> Positions {
        let get = |position: &AtomicU64| Lsn(position.load(Ordering::SeqCst));
        Positions { written: get(&self.written), flushed: get(&self.flushed), applied: get(&self.applied) }
    }

    /// Whether positions are to be sent at once; asking takes the wish.
    pub fn take_at_once(&self) -> bool {
        self.at_once.swap(false, Ordering::SeqCst)
    }

    pub fn set_received(&self, position: Lsn) {
        self.received.fetch_max(position.0, Ordering::SeqCst);
    }

    /// How far the provider's clock is ahead. The two may be of two measurements for a moment, and the later is told soon.
    pub fn set_offset(&self, offset: Offset) {
        self.offset_us.store(offset.offset_us, Ordering::SeqCst);
        self.round_trip_us.store(offset.round_trip_us, Ordering::SeqCst);
    }

    /// Until this position is reported as flushed, every report is sent at once.
    pub fn await_flush(&self, position: Lsn) {
        self.awaited.fetch_max(position.0, Ordering::SeqCst);
    }

    /// The provider has been told of everything up to `flushed`.
    pub fn told(&self, flushed: Lsn) {
        if flushed.0 >= self.awaited.load(Ordering::SeqCst) {
            self.awaited.store(0, Ordering::SeqCst);
        }
        self.told.store(flushed.0, Ordering::SeqCst);
    }
}

/// A running link. Dropping it stops it.
pub struct Link {
    control: Arc<Control>,
    events: Receiver,
    thread: Option<JoinHandle<()>>,
    /// Disconnected when the thread is at its end.
    running: crossbeam_channel::Receiver<()>,
}

impl Link {
    /// Starts the thread. All that can go wrong later comes as [`Event::Closed`].
    pub fn start(options: LinkOptions) -> Result<Link, LinkError> {
        connect::check_dsn(&options.dsn)?;
        Link::tuned(options, Tuning::default())
    }

    pub(super) fn tuned(options: LinkOptions, tuning: Tuning) -> Result<Link, LinkError> {
        if !is_slot_name(&options.slot_name) {
            return Err(LinkError::System { doing: "start a link", reason: "invalid slot name".into() });
        }
        Link::spawn(options.queue_bytes, move |control, events| thread::run(&options, tuning, control, events))
    }

    /// Runs `body` in the thread, with every signal blocked; what it ends with, be it by a panic, is the last event.
    pub(super) fn spawn<F>(queue_bytes: usize, body: F) -> Result<Link, LinkError>
    where
        F: FnOnce(&Control, &mut Sender) -> LinkError + Send + 'static,
    {
        let failed = |error: std::io::Error| LinkError::System { doing: "start a link", reason: error.to_string() };
        let wake = Arc::new(Signal::new().map_err(failed)?);
        let (mut sender, events) = queue(queue_bytes, Arc::clone(&wake)).map_err(failed)?;
        let control = Arc::new(Control::new(wake));
        let (ended, running) = crossbeam_channel::bounded::<()>(0);
        let of_thread = Arc::clone(&control);
        let main = move || {
            // nothing that a panic may have left half-done is looked at afterwards, except for the queue, whose state
            // is a channel and atomics
            let outcome = catch_unwind(AssertUnwindSafe(|| body(&of_thread, &mut sender)));
            sender.event(Event::Closed(outcome.unwrap_or_else(|panic| LinkError::Panic(panic_text(&*panic)))));
            drop(ended);
        };
        let builder = std::thread::Builder::new().name("meld receiver".into());
        let thread = with_signals_blocked(|| builder.spawn(main)).map_err(failed)?;
        Ok(Link { control, events, thread: Some(thread), running })
    }

    /// Readable while events wait.
    pub fn wake_fd(&self) -> RawFd {
        self.events.fd()
    }

    /// The next event, if one waits; its bytes in the queue are free from now on.
    pub fn try_next(&mut self) -> Option<Event> {
        self.events.try_next()
    }

    /// Tells the thread positions, which only grow. It sends them on its timer, or soon: if `at_once`, or if the
    /// provider has asked and waits, as it does before it shuts down.
    pub fn report(&self, positions: Positions, at_once: bool) {
        let control = &self.control;
        control.written.fetch_max(positions.written.0, Ordering::SeqCst);
        control.applied.fetch_max(positions.applied.0, Ordering::SeqCst);
        let before = control.flushed.fetch_max(positions.flushed.0, Ordering::SeqCst);
        let awaited = control.awaited.load(Ordering::SeqCst) > 0 && positions.flushed.0 > before;
        if at_once || awaited {
            control.at_once.store(true, Ordering::SeqCst);
            control.wake.raise();
        }
    }

    /// The flush position that was sent to the provider last.
    pub fn told(&self) -> Lsn {
        Lsn(self.control.told.load(Ordering::SeqCst))
    }

    /// How far the provider's clock is ahead of this server's, as far as it was measured.
    pub fn clock_offset(&self) -> Option<Offset> {
        let round_trip_us = self.control.round_trip_us.load(Ordering::SeqCst);
        let offset_us = self.control.offset_us.load(Ordering::SeqCst);
        (round_trip_us >= 0).then_some(Offset { offset_us, round_trip_us })
    }

    /// The end of what has arrived: a lower bound, at any moment, of what the provider has sent.
    pub fn received(&self) -> Lsn {
        Lsn(self.control.received.load(Ordering::SeqCst))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.control.stop.store(true, Ordering::SeqCst);
        self.control.wake.raise();
        let ended = self.running.recv_timeout(STOP_PATIENCE);
        if let (Err(crossbeam_channel::RecvTimeoutError::Disconnected), Some(thread)) = (ended, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// What a slot may be called.
fn is_slot_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=63).contains(&name.len()) && name.bytes().all(allowed)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic without a message".into())
}
