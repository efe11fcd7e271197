//! Frames: one CopyData payload, which is one write of the output plugin, with one or more messages in it.
//!
//! | bytes | |
//! |---|---|
//! | 0 | protocol version |
//! | 1 to 8 | number of the frame in its stream, from 1, little-endian |
//! | 9 to 12 | CRC32C of all other bytes of the frame, little-endian |
//! | from 13 | the messages, one after the other, to the end |
//!
//! A frame is taken whole or not at all, and only if it is the next one: what a subscriber has read is always a
//! prefix of what the provider wrote.

use super::codec::{self, FRAME_LIMIT_BYTES};
use super::error::{FrameTooLarge, ProtocolError};
use super::message::Message;
use super::row::RowChange;
use super::version::SUPPORTED;
use crate::ids::RelId;
use crate::value::{Tuple, Value};
use crate::version::Replaced;

const SEQUENCE_AT: usize = 1;
const CHECKSUM_AT: usize = 9;
const HEADER_BYTES: usize = 13;

/// What a writer keeps of a buffer that one large row has blown up.
const KEPT_CAPACITY_BYTES: usize = 1 << 20;

/// Collects messages of one stream into frames.
pub struct FrameWriter {
    protocol: u8,
    /// Of the frame that is being filled.
    sequence: u64,
    /// That frame, its header still blank; or the one that was handed out last, if `finished`.
    buffer: Vec<u8>,
    finished: bool,
}

impl FrameWriter {
    /// A writer at the beginning of a stream, for the version that [`super::negotiate`] gave.
    pub fn new(protocol: u8) -> FrameWriter {
        FrameWriter { protocol, sequence: 1, buffer: vec![0; HEADER_BYTES], finished: false }
    }

    /// Whether no message waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.finished || self.buffer.len() == HEADER_BYTES
    }

    /// Bytes that wait to be sent, header included; 0 if no message does.
    pub fn len(&self) -> usize {
        if self.is_empty() { 0 } else { self.buffer.len() }
    }

    pub fn append(&mut self, message: &Message) -> Result<(), FrameTooLarge> {
        codec::encode(message, self.open())
    }

    /// Appends a [`super::Insert`] straight from borrowed values.
    pub fn append_insert(&mut self, relation: RelId, new: &[Value<'_>]) -> Result<(), FrameTooLarge> {
        codec::encode_row(&RowChange::Insert { relation, new }, self.open())
    }

    /// Appends a [`super::Update`] straight from borrowed values.
    pub fn append_update(
        &mut self,
        relation: RelId,
        replaced: Replaced,
        old_counters: Option<&Tuple>,
        old_key: Option<&[Value<'_>]>,
        new: &[Value<'_>],
    ) -> Result<(), FrameTooLarge> {
        codec::encode_row(&RowChange::Update { relation, replaced, old_counters, old_key, new }, self.open())
    }

    /// Appends a [`super::Delete`] straight from borrowed values.
    pub fn append_delete(
        &mut self,
        relation: RelId,
        replaced: Replaced,
        key: &[Value<'_>],
    ) -> Result<(), FrameTooLarge> {
        codec::encode_row(&RowChange::Delete { relation, replaced, key }, self.open())
    }

    /// Ends the frame and gives its bytes, which stand until the next message is appended. Nothing if no message waits.
    pub fn finish(&mut self) -> Option<&[u8]> {
        if self.is_empty() {
            return None;
        }
        self.buffer[0] = self.protocol;
        self.buffer[SEQUENCE_AT..CHECKSUM_AT].copy_from_slice(&self.sequence.to_le_bytes());
        let checksum = checksum(&self.buffer[..CHECKSUM_AT], &self.buffer[HEADER_BYTES..]);
        self.buffer[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        self.sequence += 1;
        self.finished = true;
        Some(&self.buffer)
    }

    /// The buffer of the frame that is being filled; a new one if the last was handed out.
    fn open(&mut self) -> &mut Vec<u8> {
        if self.finished {
            self.finished = false;
            self.buffer.truncate(HEADER_BYTES);
            self.buffer.shrink_to(KEPT_CAPACITY_BYTES);
        }
        &mut self.buffer
    }
}

/// Checks the frames of one stream and gives what is in them.
#[derive(Default)]
pub struct FrameReader {
    /// Of the last frame; 0 before the first.
    sequence: u64,
    /// Of the first frame; all others must have the same.
    protocol: Option<u8>,
}

impl FrameReader {
    /// A reader at the beginning of a stream.
    pub fn new() -> FrameReader {
        FrameReader::default()
    }

    /// The stream's protocol version, once a frame was read.
    pub fn protocol(&self) -> Option<u8> {
        self.protocol
    }

    /// The messages of the next frame. After an error the stream is lost: the reader stays at the last good frame.
    pub fn read(&mut self, frame: &[u8]) -> Result<Vec<Message>, ProtocolError> {
        let length_bytes = frame.len();
        if length_bytes > FRAME_LIMIT_BYTES {
            return Err(ProtocolError::Long { length_bytes });
        }
        let header = Header::read(frame).ok_or(ProtocolError::Short { length_bytes })?;
        let protocol = self.check(&header)?;
        let messages = decode_all(header.sequence, header.body)?;
        self.sequence = header.sequence;
        self.protocol = Some(protocol);
        Ok(messages)
    }

    /// The version goes first, because nothing else is known of a frame of another one; the sum goes before the
    /// number, because a number with a wrong sum tells nothing.
    fn check(&self, header: &Header<'_>) -> Result<u8, ProtocolError> {
        let found = header.protocol;
        match self.protocol {
            None if !SUPPORTED.contains(found) => return Err(ProtocolError::UnknownVersion { found }),
            Some(expected) if expected != found => return Err(ProtocolError::VersionChanged { expected, found }),
            None | Some(_) => {}
        }
        let (sequence, computed) = (header.sequence, header.computed);
        if header.checksum != computed {
            return Err(ProtocolError::Checksum { sequence, found: header.checksum, computed });
        }
        let expected = self.sequence.saturating_add(1);
        if sequence != expected {
            return Err(ProtocolError::Sequence { expected, found: sequence });
        }
        Ok(found)
    }
}

/// A frame taken apart, nothing of it checked.
struct Header<'a> {
    protocol: u8,
    sequence: u64,
    checksum: u32,
    /// What the checksum should be.
    computed: u32,
    body: &'a [u8],
}

impl Header<'_> {
    fn read(frame: &[u8]) -> Option<Header<'_>> {
        let (head, rest) = frame.split_at_checked(CHECKSUM_AT)?;
        let (&protocol, sequence) = head.split_first()?;
        let (found, body) = rest.split_first_chunk()?;
        Some(Header {
            protocol,
            sequence: u64::from_le_bytes(sequence.try_into().ok()?),
            checksum: u32::from_le_bytes(*found),
            computed: checksum(head, body),
            body,
        })
    }
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(head), body)
}

fn decode_all(sequence: u64, body: &[u8]) -> Result<Vec<Message>, ProtocolError> {
    let mut messages = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let offset_bytes = HEADER_BYTES + body.len() - rest.len();
        let (message, length) =
            codec::decode(rest).map_err(|fault| ProtocolError::Message { sequence, offset_bytes, fault })?;
        messages.push(message);
        rest = rest.get(length..).unwrap_or_default();
    }
    if messages.is_empty() { Err(ProtocolError::Empty { sequence }) } else { Ok(messages) }
}
