//! Commit timestamps and stamps.

use bincode::{Decode, Encode};

use crate::ids::NodeId;

/// Microseconds since 2000-01-01 00:00 UTC: PostgreSQL's `TimestampTz`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Smaller than every commit timestamp.
    pub const MIN: Timestamp = Timestamp(i64::MIN);
}

/// What conflicts are decided by: when and where a row was last written. Later timestamps are larger; of two equal
/// ones the higher node id is larger (the derived order compares the fields in this order).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct Stamp {
    pub commit_ts: Timestamp,
    pub node: NodeId,
}
