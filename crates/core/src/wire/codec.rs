//! Messages to bytes and back: the only module that calls bincode, so that it can be replaced.
//!
//! Decoding is total: any input gives a message or a [`MessageFault`], without a panic. It is bounded: bincode counts
//! all memory that lengths in the input claim, before it is allocated, against a limit that grows with the input.

use bincode::config;
use bincode::enc::write::Writer;
use bincode::error::{DecodeError, EncodeError};

use super::error::{FrameTooLarge, MessageFault};
use super::message::Message;
use super::row::RowChange;

/// Most bytes in a frame: PostgreSQL's buffers end at 1 GB, and the frame shares one with the server's own header.
pub const FRAME_LIMIT_BYTES: usize = (1 << 30) - 1024;

/// Little-endian, integers of variable length.
const CONFIG: config::Configuration = config::standard();

/// Appends a message to the buffer; when it does not fit, the buffer stays as it was.
pub fn encode(message: &Message, buffer: &mut Vec<u8>) -> Result<(), FrameTooLarge> {
    append(message, buffer)
}

/// Like [`encode`], for a change whose values nobody has copied yet.
pub(super) fn encode_row(change: &RowChange<'_>, buffer: &mut Vec<u8>) -> Result<(), FrameTooLarge> {
    append(change, buffer)
}

fn append<T: bincode::Encode>(item: T, buffer: &mut Vec<u8>) -> Result<(), FrameTooLarge> {
    let start = buffer.len();
    bincode::encode_into_writer(item, Sink(buffer), CONFIG).map_err(|_| {
        buffer.truncate(start);
        // nothing else fails: the sink takes everything that fits, and these types have no value that bincode refuses
        FrameTooLarge { limit_bytes: FRAME_LIMIT_BYTES }
    })
}

struct Sink<'a>(&'a mut Vec<u8>);

impl Writer for Sink<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        if bytes.len() > FRAME_LIMIT_BYTES.saturating_sub(self.0.len()) {
            return Err(EncodeError::UnexpectedEnd);
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// The message at the beginning of the input and the number of bytes that it takes there.
pub fn decode(input: &[u8]) -> Result<(Message, usize), MessageFault> {
    // bincode wants its limit as a constant: each is at least 16 times the input, which is more than an honest message
    // claims (an empty column takes 4 bytes on the wire and 40 in memory), and at most 256 times or 64 kB
    let result = match input.len() {
        0..=0xfff => decode_within::<0x1_0000>(input),
        0x1000..=0xffff => decode_within::<0x10_0000>(input),
        0x1_0000..=0xf_ffff => decode_within::<0x100_0000>(input),
        0x10_0000..=0xff_ffff => decode_within::<0x1000_0000>(input),
        _ => decode_within::<{ 16 * FRAME_LIMIT_BYTES }>(input),
    };
    result.map_err(fault)
}

fn decode_within<const LIMIT_BYTES: usize>(input: &[u8]) -> Result<(Message, usize), DecodeError> {
    bincode::decode_from_slice(input, CONFIG.with_limit::<LIMIT_BYTES>())
}

fn fault(error: DecodeError) -> MessageFault {
    match error {
        DecodeError::UnexpectedEnd { .. } => MessageFault::Truncated,
        DecodeError::LimitExceeded => MessageFault::TooLarge,
        DecodeError::UnexpectedVariant { type_name, found, .. } => unknown_kind(type_name, found),
        DecodeError::Utf8 { .. } => MessageFault::NotUtf8,
        DecodeError::InvalidBooleanValue(found) => MessageFault::NotBoolean(found),
        DecodeError::InvalidIntegerType { .. } | DecodeError::OutsideUsizeRange(_) => MessageFault::NumberTooLarge,
        _ => MessageFault::Other,
    }
}

fn unknown_kind(type_name: &'static str, found: u32) -> MessageFault {
    let what = match type_name {
        "Message" => "message",
        "LogicalMessage" => "logical message",
        "Replaced" => "replaced version",
        "Replacing" => "replacing change",
        "ConflictType" => "conflict type",
        _ => "optional value",
    };
    MessageFault::UnknownKind { what, found }
}
