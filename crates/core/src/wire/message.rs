//! What a provider tells a subscriber.
//!
//! A stream is `Startup`, then transactions: `Begin`, any number of changes, `Commit`. A `Relation` comes before the
//! first change of its relation, and again after the relation changed. A non-transactional `Logical` may stand
//! anywhere, also between the transactions.
//!
//! The encoding follows the order of the variants and of the fields (`docs/protocol.md` describes it), so both are
//! fixed for protocol version 1, which golden bytes guard: a new kind of message goes to the end of its enum and is
//! sent only to a peer that negotiated a version which has it; every other change takes a new protocol version.
//! Strings are UTF-8 whatever the database encoding; only [`crate::value::Value::Text`] is in the latter.

use bincode::{Decode, Encode};

use crate::conflict::ConflictType;
use crate::ids::{NodeId, NodeIdentity, RelId, Xid};
use crate::lsn::Lsn;
use crate::time::{Stamp, Timestamp};
use crate::value::Tuple;
use crate::version::Replaced;
use crate::wire::logical::LogicalMessage;

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Message {
    // kinds 0 to 11 on the wire; `wire::row` names those of the row changes
    Startup(Startup),
    Begin(Begin),
    Commit(Commit),
    Relation(RelationDescription),
    Insert(Insert),
    Update(Update),
    Delete(Delete),
    Truncate(Truncate),
    Logical(LogicalMessage),
    Removal(Removal),
    Void(Void),
    Contribution(Contribution),
}

/// Who the provider is and how its values look. First in every stream.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Startup {
    /// What the two nodes agreed on; every frame of the stream carries the same number.
    pub protocol: u8,
    pub node: NodeIdentity,
    /// `server_version_num`.
    pub server_version: u32,
    /// Name of the database encoding, in which all text values are.
    pub encoding: String,
    pub big_endian: bool,
    /// The provider's horizon as it announced it last, `Timestamp::MIN` if it has none yet.
    pub horizon: Timestamp,
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Begin {
    pub xid: Xid,
    pub commit_ts: Timestamp,
    /// Node where the transaction was first committed: the provider, or another for a forwarded one.
    pub origin: NodeId,
    /// Position of the commit record.
    pub commit_lsn: Lsn,
    /// End of the commit record, by which people name the transaction.
    pub end_lsn: Lsn,
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Commit {
    pub commit_lsn: Lsn,
    /// End of the commit record: where a stream that has applied this transaction goes on.
    pub end_lsn: Lsn,
    pub commit_ts: Timestamp,
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct RelationDescription {
    pub id: RelId,
    pub schema: String,
    pub name: String,
    /// The columns whose values travel, in the order of the tuples. Dropped and generated ones are not among them.
    pub columns: Vec<Column>,
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Column {
    pub name: String,
    pub type_oid: u32,
    pub type_modifier: i32,
    /// Part of the key by which rows are found: the replica identity, which is the primary key unless one was set.
    pub is_key: bool,
    /// A counter: what changes add to it counts, whatever becomes of the rest of the row.
    pub is_delta: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Insert {
    pub relation: RelId,
    pub new: Tuple,
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Update {
    pub relation: RelId,
    pub replaced: Replaced,
    /// What the delta columns were before, as text, null in all others: the update adds the difference to the counters.
    /// None if it adds nothing.
    pub old_counters: Option<Tuple>,
    /// The old key, when the update changed it: as wide as the relation, columns outside the key null.
    pub old_key: Option<Tuple>,
    pub new: Tuple,
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Delete {
    pub relation: RelId,
    pub replaced: Replaced,
    /// As wide as the relation, columns outside the key null.
    pub key: Tuple,
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Truncate {
    pub relations: Vec<RelId>,
}

/// One version of a row, and older ones, are gone on every node; a later one is not.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Removal {
    pub relation: RelId,
    /// As text, as wide as the relation, columns outside the key null.
    pub key: Tuple,
    pub version: Stamp,
    pub cause: ConflictType,
}

/// The residue of a deleted row does not count any more. Behind the INSERT that starts anew, or alone.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Void {
    pub relation: RelId,
    /// As text, as wide as the relation, columns outside the key null.
    pub key: Tuple,
    /// Stamp of the tombstone that has the residue.
    pub tombstone: Stamp,
    /// As text, as wide as the relation, null in all but the delta columns.
    pub residue: Tuple,
}

/// Something that counts for a key's counters beside what the row changes themselves say.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Contribution {
    pub relation: RelId,
    /// As text, as wide as the relation, columns outside the key null.
    pub key: Tuple,
    /// As text, as wide as the relation, null in all but the delta columns.
    pub amounts: Tuple,
}

impl Message {
    /// Bytes of memory that the message holds, for queues that are bounded in bytes.
    pub fn size_bytes(&self) -> usize {
        let outside = match self {
            Message::Startup(m) => m.node.name.len() + m.node.database.len() + m.encoding.len(),
            Message::Relation(m) => {
                let columns = m.columns.iter().map(|column| size_of::<Column>() + column.name.len());
                m.schema.len() + m.name.len() + columns.sum::<usize>()
            }
            Message::Insert(m) => m.new.size_bytes(),
            Message::Update(m) => m.new.size_bytes() + optional(&m.old_key) + optional(&m.old_counters),
            Message::Delete(m) => m.key.size_bytes(),
            Message::Removal(m) => m.key.size_bytes(),
            Message::Void(m) => m.key.size_bytes() + m.residue.size_bytes(),
            Message::Contribution(m) => m.key.size_bytes() + m.amounts.size_bytes(),
            Message::Truncate(m) => m.relations.len() * size_of::<RelId>(),
            Message::Begin(_) | Message::Commit(_) => 0,
            Message::Logical(m) => m.size_bytes(),
        };
        size_of::<Message>() + outside
    }
}

/// Bytes of memory that a row holds outside its own struct, if it is there.
pub(super) fn optional(tuple: &Option<Tuple>) -> usize {
    tuple.as_ref().map_or(0, Tuple::size_bytes)
}
