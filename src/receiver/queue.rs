//! The queue between the receiver thread and its owner: a crossbeam channel, bounded in bytes.
//!
//! The thread looks at [`Sender::has_room`] before it reads on, so the queue holds at most its bound and one frame more;
//! a frame larger than the bound passes alone. Taking an event frees its bytes; when that makes room for a thread that
//! waits for it, the thread is woken. The owner waits on a descriptor that is readable as long as events wait.
//!
//! Keepalives stand in order with the frames. One that follows another directly only moves the other's position, as
//! long as nobody has taken it, so a link without traffic does not fill the queue of an owner that is busy.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::Event;
use meld_core::lsn::Lsn;

/// Wakes whoever polls the other end; any number of calls before it looks are one.
pub(super) struct Signal {
    pending: AtomicBool,
    ours: UnixStream,
    theirs: UnixStream,
}

impl Signal {
    pub fn new() -> std::io::Result<Signal> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        Ok(Signal { pending: AtomicBool::new(false), ours, theirs })
    }

    /// Readable from [`Signal::raise`] to [`Signal::clear`].
    pub fn fd(&self) -> RawFd {
        self.theirs.as_raw_fd()
    }

    pub fn raise(&self) {
        if !self.pending.swap(true, Ordering::SeqCst) {
            // only a full buffer can refuse the byte, and then the other end is readable anyway
            let _ = (&self.ours).write(&[1]);
        }
    }

    /// To be called before looking at what the signal is about: what comes later raises it again.
    pub fn clear(&self) {
        let mut bytes = [0; 16];
        // the bytes first: a raise between the two writes none, but what it is about was there before the flag fell,
        // and the caller looks afterwards
        loop {
            match (&self.theirs).read(&mut bytes) {
                Ok(16) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => break,
            }
        }
        self.pending.swap(false, Ordering::SeqCst);
    }
}

/// A position that grows until it is taken.
struct Growing(AtomicU64);

impl Growing {
    /// No WAL position: the last byte of a 64-bit log.
    const TAKEN: u64 = u64::MAX;

    /// Whether the position could still be moved.
    fn grow(&self, from: Lsn, to: Lsn) -> bool {
        self.0.compare_exchange(from.0, to.0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn take(&self) -> Lsn {
        Lsn(self.0.swap(Self::TAKEN, Ordering::SeqCst))
    }
}

/// An event on its way.
enum Item {
    Keepalive(Arc<Growing>),
    /// Any other, and the bytes that it counts.
    Event(Event, usize),
}

struct Shared {
    held_bytes: AtomicUsize,
    bound_bytes: usize,
    /// The sender waits for room.
    starved: AtomicBool,
    /// Events wait.
    filled: Signal,
}

/// The thread's end.
pub(super) struct Sender {
    items: crossbeam_channel::Sender<Item>,
    shared: Arc<Shared>,
    /// The keepalive that was queued last and its position, if nothing was queued after it.
    keepalive: Option<(Arc<Growing>, Lsn)>,
}

/// The owner's end.
pub(super) struct Receiver {
    items: crossbeam_channel::Receiver<Item>,
    shared: Arc<Shared>,
    /// Wakes the thread.
    room: Arc<Signal>,
}

/// A queue that lets its sender go on while it holds less than the bound; `room` is raised when there is room again.
pub(super) fn queue(bound_bytes: usize, room: Arc<Signal>) -> std::io::Result<(Sender, Receiver)> {
    let (sender, receiver) = crossbeam_channel::unbounded();
    let shared = Arc::new(Shared {
        held_bytes: AtomicUsize::new(0),
        bound_bytes: bound_bytes.max(1),
        starved: AtomicBool::new(false),
        filled: Signal::new()?,
    });
    let sender = Sender { items: sender, shared: Arc::clone(&shared), keepalive: None };
    Ok((sender, Receiver { items: receiver, shared, room }))
}

impl Sender {
    /// Whether another frame may come. If not, the signal for room will be raised.
    pub fn has_room(&self) -> bool {
        let fits = || self.shared.held_bytes.load(Ordering::SeqCst) < self.shared.bound_bytes;
        if fits() {
            return true;
        }
        self.shared.starved.store(true, Ordering::SeqCst);
        // the owner may have freed the last bytes before it could see that somebody waits for them
        fits()
    }

    pub fn frame(&mut self, frame: Event, held_bytes: usize) {
        self.push(frame, held_bytes);
    }

    /// Queues an event that counts no bytes.
    pub fn event(&mut self, event: Event) {
        self.push(event, 0);
    }

    fn push(&mut self, event: Event, held_bytes: usize) {
        self.keepalive = None;
        self.shared.held_bytes.fetch_add(held_bytes, Ordering::SeqCst);
        self.send(Item::Event(event, held_bytes));
    }

    pub fn keepalive(&mut self, end: Lsn) {
        if let Some((cell, position)) = &mut self.keepalive
            && (end <= *position || cell.grow(*position, end))
        {
            *position = end.max(*position);
            return;
        }
        let cell = Arc::new(Growing(AtomicU64::new(end.0)));
        self.keepalive = Some((Arc::clone(&cell), end));
        self.send(Item::Keepalive(cell));
    }

    fn send(&self, item: Item) {
        // fails only when the owner is gone, who then has asked the thread to stop
        let _ = self.items.send(item);
        self.shared.filled.raise();
    }
}

impl Receiver {
    /// Readable while events wait.
    pub fn fd(&self) -> RawFd {
        self.shared.filled.fd()
    }

    /// The next event, if one waits.
    pub fn try_next(&mut self) -> Option<Event> {
        if let Ok(item) = self.items.try_recv() {
            return Some(self.open(item));
        }
        self.shared.filled.clear();
        let item = self.items.try_recv().ok()?;
        self.shared.filled.raise();
        Some(self.open(item))
    }

    fn open(&self, item: Item) -> Event {
        match item {
            Item::Keepalive(cell) => Event::Keepalive { end: cell.take() },
            Item::Event(event, held_bytes) => {
                self.free(held_bytes);
                event
            }
        }
    }

    /// Wakes a sender that waits, once half of the bound is free: not for every event of a full queue.
    fn free(&self, bytes: usize) {
        let held = self.shared.held_bytes.fetch_sub(bytes, Ordering::SeqCst) - bytes;
        if held <= self.shared.bound_bytes / 2 && self.shared.starved.swap(false, Ordering::SeqCst) {
            self.room.raise();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receiver::libpq::{Want, poll};
    use std::time::{Duration, SystemTime};

    fn frame() -> Event {
        Event::Frame { messages: Vec::new(), bytes: 0, received_at: SystemTime::UNIX_EPOCH }
    }

    fn readable(fd: RawFd) -> bool {
        poll([(fd, Want::Read)], Some(Duration::ZERO))[0]
    }

    fn pair(bound_bytes: usize) -> (Sender, Receiver, Arc<Signal>) {
        let room = Arc::new(Signal::new().unwrap());
        let (sender, receiver) = queue(bound_bytes, Arc::clone(&room)).unwrap();
        (sender, receiver, room)
    }

    #[test]
    fn the_descriptor_is_readable_exactly_while_events_wait() {
        let (mut sender, mut receiver, _room) = pair(100);
        assert!(!readable(receiver.fd()));
        sender.frame(frame(), 10);
        sender.frame(frame(), 10);
        assert!(readable(receiver.fd()));
        assert!(receiver.try_next().is_some());
        assert!(readable(receiver.fd()), "one event is left");
        assert!(receiver.try_next().is_some());
        assert!(receiver.try_next().is_none());
        assert!(!readable(receiver.fd()));
        sender.frame(frame(), 10);
        assert!(readable(receiver.fd()));
    }

    #[test]
    fn the_bound_stops_the_sender_until_half_is_free() {
        let (mut sender, mut receiver, room) = pair(100);
        for _ in 0..4 {
            assert!(sender.has_room());
            sender.frame(frame(), 30);
        }
        assert!(!sender.has_room(), "120 of 100");
        receiver.try_next();
        receiver.try_next();
        assert!(!readable(room.fd()), "60 of 100 is too little to wake for");
        receiver.try_next();
        assert!(readable(room.fd()));
        room.clear();
        assert!(sender.has_room());
        receiver.try_next();
        assert!(!readable(room.fd()), "nobody waits");
    }

    #[test]
    fn a_frame_above_the_bound_passes_alone() {
        let (mut sender, mut receiver, room) = pair(100);
        assert!(sender.has_room());
        sender.frame(frame(), 1_000_000);
        assert!(!sender.has_room());
        receiver.try_next();
        assert!(readable(room.fd()) && sender.has_room());
    }

    #[test]
    fn keepalives_are_one_unless_a_frame_or_a_look_is_between() {
        let (mut sender, mut receiver, _room) = pair(100);
        let taken = |receiver: &mut Receiver| match receiver.try_next() {
            Some(Event::Keepalive { end }) => Some(end),
            _ => None,
        };
        for end in [1, 2, 2, 1, 5] {
            sender.keepalive(Lsn(end));
        }
        sender.frame(frame(), 1);
        sender.keepalive(Lsn(6));
        assert_eq!(taken(&mut receiver), Some(Lsn(5)));
        assert!(matches!(receiver.try_next(), Some(Event::Frame { .. })));
        assert_eq!(taken(&mut receiver), Some(Lsn(6)));
        sender.keepalive(Lsn(7));
        assert_eq!(taken(&mut receiver), Some(Lsn(7)), "the last one was taken, so this is a new one");
        assert!(receiver.try_next().is_none());
    }

    #[test]
    fn two_threads_lose_no_event_and_no_wake_up() {
        let (mut sender, mut receiver, room) = pair(64);
        let frames = 20_000;
        let thread = std::thread::spawn(move || {
            for number in 0..frames {
                while !sender.has_room() {
                    poll([(room.fd(), Want::Read)], None);
                    room.clear();
                }
                sender.frame(frame(), 1 + number % 7);
                sender.keepalive(Lsn(number as u64));
            }
        });
        let (mut seen, mut last) = (0, Lsn::ZERO);
        while seen < frames || last < Lsn(frames as u64 - 1) {
            poll([(receiver.fd(), Want::Read)], None);
            match receiver.try_next() {
                Some(Event::Frame { .. }) => seen += 1,
                Some(Event::Keepalive { end }) => last = end,
                _ => {}
            }
        }
        thread.join().unwrap();
        assert_eq!(seen, frames);
    }
}
