//! What can be wrong with a stream. After any of these the subscriber drops the connection, applies nothing of the
//! frame, and asks again from its durable position.

use super::version::SUPPORTED;

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProtocolError {
    #[error("frame of {length_bytes} bytes is shorter than a frame header")]
    Short { length_bytes: usize },
    #[error("frame of {length_bytes} bytes is larger than a frame may be")]
    Long { length_bytes: usize },
    #[error("frame has protocol version {found}, which is not one that this node speaks ({SUPPORTED})")]
    UnknownVersion { found: u8 },
    #[error("frame has protocol version {found} in a stream of version {expected}")]
    VersionChanged { expected: u8, found: u8 },
    #[error("frame that calls itself number {sequence} has checksum {found:08x}, but its content has {computed:08x}")]
    Checksum { sequence: u64, found: u32, computed: u32 },
    #[error("frame number {found} was received where number {expected} was expected")]
    Sequence { expected: u64, found: u64 },
    #[error("frame number {sequence} holds no message")]
    Empty { sequence: u64 },
    #[error("message at byte {offset_bytes} of frame number {sequence} is malformed: {fault}")]
    Message { sequence: u64, offset_bytes: usize, fault: MessageFault },
}

/// Why bytes are not a message.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MessageFault {
    #[error("it ends too early")]
    Truncated,
    #[error("it claims more than its frame can hold")]
    TooLarge,
    #[error("{found} is no kind of {what}")]
    UnknownKind { what: &'static str, found: u32 },
    #[error("a name is not valid UTF-8")]
    NotUtf8,
    #[error("{0} is no truth value")]
    NotBoolean(u8),
    #[error("a number is too large for its field")]
    NumberTooLarge,
    #[error("it breaks the encoding")]
    Other,
}

/// A message that would make its frame larger than a server can send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("change does not fit into a frame, which holds at most {limit_bytes} bytes")]
pub struct FrameTooLarge {
    pub limit_bytes: usize,
}
