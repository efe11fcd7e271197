//! Streaming: the copy stream's messages to events, and positions back.
//!
//! From the server: `w` (start, end, time, payload: a frame), `k` (end, time, whether a reply is wanted). To the server:
//! `r` (written, flushed, applied, time, whether a reply is wanted). Numbers are big-endian, times microseconds since
//! 2000. Every loop takes what has arrived as far as the queue has room, sends what is due, and waits for the socket,
//! the owner, or the next time that something is due. A full queue takes the socket out of the wait, for reading and
//! for the news that it broke; what goes on then is only the timer.

use std::convert::Infallible;
use std::time::{Duration, Instant, SystemTime};

use meld_core::lsn::Lsn;
use meld_core::time::Timestamp;
use meld_core::wire::{FrameReader, Message};

use super::exec::LOOK_AGAIN;
use super::libpq::{Connection, CopyData, Want, poll};
use super::link::Control;
use super::question::{Question, timestamp};
use super::queue::Sender;
use super::thread::Tuning;
use super::{Event, LinkError, Positions};

/// A provider that shuts down asks again as soon as it is answered, until all is flushed; unless there is something new
/// to say, it gets its answers no faster than this.
const REPEAT_PAUSE: Duration = Duration::from_millis(20);

/// One message of the server, taken apart.
#[derive(PartialEq, Eq, Debug)]
enum Incoming {
    Frame { messages: Vec<Message>, bytes: usize, end: Lsn },
    Keepalive { end: Lsn, sent_at: Timestamp, reply_wanted: bool },
}

/// Why the loop stopped taking.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrived {
    /// Nothing complete is left.
    All,
    /// The queue is full.
    Some,
}

pub(super) struct Stream<'a> {
    connection: Connection,
    control: &'a Control,
    events: &'a mut Sender,
    frames: FrameReader,
    status_interval: Duration,
    tuning: Tuning,
    /// When positions are due by the timer.
    next_status: Instant,
    /// When an answer that the provider wants is due.
    reply_at: Option<Instant>,
    sent: Option<(Positions, Instant)>,
    /// When something arrived last, or the thread last chose not to look.
    heard: Instant,
    /// The provider was asked to say something since then.
    asked: bool,
    /// An encrypted connection was read a moment ago, and may have kept something back.
    look_again: bool,
    /// The connection is gone; what came before may still be taken.
    lost: bool,
    question: Question,
}

impl<'a> Stream<'a> {
    pub fn new(
        connection: Connection,
        control: &'a Control,
        events: &'a mut Sender,
        status_interval: Duration,
        tuning: Tuning,
    ) -> Stream<'a> {
        let now = Instant::now();
        Stream {
            connection,
            control,
            events,
            frames: FrameReader::new(),
            status_interval,
            tuning,
            next_status: now,
            reply_at: None,
            sent: None,
            heard: now,
            asked: false,
            look_again: false,
            lost: false,
            question: Question::new(tuning.question_pause),
        }
    }

    pub fn run(mut self) -> Result<Infallible, LinkError> {
        loop {
            if self.control.should_stop() {
                // whether the last word arrives does not matter: the next link begins where this node is
                self.send_status(false);
                let _ = self.connection.flush();
                return Err(LinkError::Stopped);
            }
            let arrived = self.take()?;
            if arrived == Arrived::All && self.lost {
                return Err(LinkError::Closed);
            }
            let unsent = self.send_due(arrived)?;
            self.pause(arrived, unsent)?;
        }
    }

    /// Queues what has arrived, as far as there is room.
    fn take(&mut self) -> Result<Arrived, LinkError> {
        while self.events.has_room() {
            let incoming = match self.connection.copy_data() {
                CopyData::Payload(payload) => parse(payload, &mut self.frames)?,
                CopyData::Wait => return Ok(Arrived::All),
                CopyData::Ended => return Err(self.end()),
            };
            match incoming {
                Incoming::Frame { messages, bytes, end } => {
                    let held_bytes = messages.iter().map(Message::size_bytes).sum();
                    self.events.frame(Event::Frame { messages, bytes, received_at: SystemTime::now() }, held_bytes);
                    self.control.set_received(end);
                }
                Incoming::Keepalive { end, sent_at, reply_wanted } => {
                    if let Some(offset) = self.question.answered(sent_at) {
                        self.control.set_offset(offset);
                    }
                    self.events.keepalive(end);
                    self.control.set_received(end);
                    if reply_wanted {
                        self.owe_reply(end);
                    }
                }
            }
        }
        Ok(Arrived::Some)
    }

    fn owe_reply(&mut self, end: Lsn) {
        self.control.await_flush(end);
        let positions = self.control.positions();
        let again = self.sent.filter(|(told, _)| *told == positions).map(|(_, at)| at + REPEAT_PAUSE);
        self.reply_at = Some(again.unwrap_or_else(Instant::now));
    }

    /// Sends positions if they are due, and what is left from before. Whether something is still to be sent.
    fn send_due(&mut self, arrived: Arrived) -> Result<bool, LinkError> {
        let now = Instant::now();
        if arrived == Arrived::Some {
            self.heard = now;
            self.asked = false;
        }
        let silence = now.duration_since(self.heard);
        if silence >= self.tuning.silence_limit {
            return Err(LinkError::Timeout { doing: "waiting for the provider", limit: self.tuning.silence_limit });
        }
        if self.lost {
            return Ok(false);
        }
        // nothing is put behind what the socket does not take: positions are worth only what they are when they go out
        if !self.connection.flush().ok_or_else(|| self.end())? {
            return Ok(true);
        }
        let ask = !self.asked && silence >= self.tuning.silence_limit / 2;
        let due = now >= self.next_status || self.reply_at.is_some_and(|at| now >= at);
        if self.control.take_at_once() || due || ask {
            // with each report on the timer the provider is asked for the time
            let ask_time = self.question.is_due() && now >= self.next_status;
            if !self.send_status(ask || ask_time) {
                return Err(self.end());
            }
            self.asked |= ask;
        }
        self.connection.flush().map(|all| !all).ok_or_else(|| self.end())
    }

    fn send_status(&mut self, reply_wanted: bool) -> bool {
        let positions = self.control.positions();
        let now = Instant::now();
        let clock = SystemTime::now();
        if reply_wanted {
            self.question.asked(clock);
        }
        let sent = self.connection.put_copy_data(&status(positions, clock, reply_wanted));
        self.control.told(positions.flushed);
        self.sent = Some((positions, now));
        self.reply_at = None;
        // what is told in between does not put the timer off: the provider is asked for the time with it
        if now >= self.next_status {
            self.next_status =
                now + self.question.pause().map_or(self.status_interval, |pause| pause.min(self.status_interval));
        }
        sent
    }

    /// Waits until there is something to do.
    fn pause(&mut self, arrived: Arrived, unsent: bool) -> Result<(), LinkError> {
        let socket = match arrived {
            Arrived::All => Some(if unsent { Want::Either } else { Want::Read }),
            Arrived::Some => unsent.then_some(Want::Write),
        };
        let fd = if socket.is_some() && !self.lost { self.connection.socket() } else { -1 };
        let look_again = (self.look_again && arrived == Arrived::All).then(|| Instant::now() + LOOK_AGAIN);
        let due = self.next_due(arrived, unsent).into_iter().chain(look_again).min();
        let limit = due.map(|due| due.saturating_duration_since(Instant::now()));
        let wake = (self.control.wake.fd(), Want::Read);
        let [ready, woken] = poll([(fd, socket.unwrap_or(Want::Read)), wake], limit);
        if woken {
            self.control.wake.clear();
        }
        if ready && arrived == Arrived::All {
            self.heard = Instant::now();
            self.asked = false;
        }
        if arrived == Arrived::All && !self.lost && (ready || self.look_again) {
            self.look_again = ready && self.connection.is_encrypted();
            self.lost = !self.connection.consume_input();
        }
        Ok(())
    }

    /// When the timer has something to do next; while the socket takes nothing, that is not to send.
    fn next_due(&self, arrived: Arrived, unsent: bool) -> Option<Instant> {
        let limit = self.tuning.silence_limit;
        let silence =
            (arrived == Arrived::All).then(|| self.heard + if self.asked || unsent { limit } else { limit / 2 });
        let status = (!unsent && !self.lost).then_some(self.next_status);
        silence.into_iter().chain(status).chain(self.reply_at.filter(|_| status.is_some())).min()
    }

    /// Why the stream is over: the server's last words, if it had any.
    fn end(&mut self) -> LinkError {
        while let Some(answer) = self.connection.answer() {
            if let Some(report) = answer.remote_error() {
                return LinkError::Remote(Box::new(report));
            }
            if self.connection.is_bad() {
                break;
            }
        }
        LinkError::Closed
    }
}

fn parse(payload: &[u8], frames: &mut FrameReader) -> Result<Incoming, LinkError> {
    let short = || LinkError::protocol("a message of the stream ends too early");
    let (kind, rest) = payload.split_first().ok_or_else(short)?;
    match kind {
        b'w' => {
            let (start, rest) = position(rest).ok_or_else(short)?;
            let (end, rest) = position(rest).ok_or_else(short)?;
            let (_, frame) = rest.split_first_chunk::<8>().ok_or_else(short)?;
            Ok(Incoming::Frame { messages: frames.read(frame)?, bytes: frame.len(), end: end.max(start) })
        }
        b'k' => {
            let (end, rest) = position(rest).ok_or_else(short)?;
            let (time, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
            let reply_wanted = *rest.first().ok_or_else(short)? != 0;
            Ok(Incoming::Keepalive { end, sent_at: Timestamp(i64::from_be_bytes(*time)), reply_wanted })
        }
        _ => Err(LinkError::protocol("a message of unknown kind in the stream")),
    }
}

fn position(bytes: &[u8]) -> Option<(Lsn, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((Lsn(u64::from_be_bytes(*number)), rest))
}

fn status(positions: Positions, now: SystemTime, reply_wanted: bool) -> [u8; 34] {
    let time_us = timestamp(now).0;
    let mut message = [0; 34];
    message[0] = b'r';
    let numbers = [positions.written.0, positions.flushed.0, positions.applied.0, time_us.cast_unsigned()];
    for (field, number) in message[1..33].chunks_exact_mut(8).zip(numbers) {
        field.copy_from_slice(&number.to_be_bytes());
    }
    message[33] = reply_wanted.into();
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_the_bytes_that_a_server_expects() {
        let positions = Positions { written: Lsn(0x0102), flushed: Lsn(0x0304), applied: Lsn(0x05) };
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(946_684_800_000_000 + 0x0708);
        let mut expected = vec![b'r'];
        for number in [[1, 2], [3, 4], [0, 5], [7, 8]] {
            expected.extend([0, 0, 0, 0, 0, 0]);
            expected.extend(number);
        }
        expected.push(1);
        assert_eq!(status(positions, at, true).as_slice(), expected);
    }

    #[test]
    fn a_keepalive_is_read() {
        let mut message = vec![b'k', 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9, 1];
        let read = |message: &[u8]| parse(message, &mut FrameReader::new());
        let expected =
            |reply_wanted| Incoming::Keepalive { end: Lsn(0x1_0000_0002), sent_at: Timestamp(9), reply_wanted };
        assert_eq!(read(&message), Ok(expected(true)));
        message[17] = 0;
        assert_eq!(read(&message), Ok(expected(false)));
    }

    #[test]
    fn nothing_malformed_passes() {
        let whole = [b'k', 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9, 1];
        for length in 0..whole.len() {
            assert!(parse(&whole[..length], &mut FrameReader::new()).is_err(), "{length} bytes");
        }
        for length in 0..60 {
            let mut payload = vec![0; length];
            payload.insert(0, b'w');
            assert!(parse(&payload, &mut FrameReader::new()).is_err(), "{length} bytes");
        }
        assert!(matches!(parse(b"x", &mut FrameReader::new()), Err(LinkError::Protocol(_))));
    }
}
