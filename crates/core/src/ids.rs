//! Identifiers: who wrote a change, and which relation it is about.
//!
//! All are newtypes, so that a node can't be taken for a transaction or a relation of one node for another's.

use std::fmt;

use bincode::{Decode, Encode};

/// Number of a node: the origin in every stamp and the node part of every snowflake id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct NodeId(pub u16);

impl NodeId {
    pub const MIN: i32 = 1;
    pub const MAX: i32 = 1023;

    /// A number as users give it, if it is one that a node may have.
    pub fn checked(number: i32) -> Option<NodeId> {
        (Self::MIN..=Self::MAX).contains(&number).then_some(NodeId(number as u16))
    }

    /// The number taken for a node that was given none: a hash (FNV-1a) of its name, so that every server derives the
    /// same one. Two names can meet in one number; then the connect check refuses the second node.
    pub fn from_name(name: &str) -> NodeId {
        let hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
        NodeId((hash % Self::MAX as u64) as u16 + 1)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Oid of a relation on the provider: a key into the stream's relation descriptions, without meaning elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct RelId(pub u32);

/// Transaction id on the provider.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct Xid(pub u32);

/// What tells one node from every other, as both ends of a link show it to each other.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct NodeIdentity {
    pub id: NodeId,
    pub name: String,
    pub system_identifier: u64,
    pub database: String,
    /// The node number in its snowflake ids, which need not be its node id.
    pub snowflake_node: u16,
}
