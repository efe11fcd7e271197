//! Packs what is decoded into frames.

use meld_core::apply::Replaced;
use meld_core::ids::{NodeId, RelId};
use meld_core::value::Value;
use meld_core::wire::{
    Begin, Commit, FrameTooLarge, FrameWriter, LogicalMessage, Message, RelationDescription, Replacing, Truncate,
    Version, codec,
};
use pgrx::prelude::PgSqlErrorCode;

use super::publication::{Publication, Table};
use super::start::{Agreement, Forward, agree, startup_message};
use crate::log::{Failure, Result};
use crate::pg::decoded::{DecodedRelation, RowChange, RowEvent};
use crate::pg::decoding::{OriginNumber, OutputPlugin, Sink, Transaction, WalMessage};
use crate::pg::historic::{self, Key};
use crate::pg::output::RowBuffer;

/// A frame that has reached this size is sent.
const FRAME_TARGET_BYTES: usize = 64 * 1024;

/// Prefix of meld's own messages in WAL.
const MESSAGE_PREFIX: &[u8] = b"meld";

/// The plugin's state for one stream.
pub struct Sender {
    agreement: Agreement,
    publication: Publication,
    frames: FrameWriter,
    transaction: Option<Transaction>,
    progress: Progress,
    /// What the trigger said last, if the next row event may be its change.
    version: Option<Version>,
    rows: Rows,
    has_complained_of_message: bool,
}

/// How far the transaction has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Nothing of it was of interest yet.
    Silent,
    /// It came here from where the subscriber doesn't want it from.
    Unwanted,
    /// The subscriber knows of it.
    Begun,
}

/// Room for the rows of one change.
#[derive(Default)]
struct Rows {
    old: RowBuffer,
    new: RowBuffer,
}

impl OutputPlugin for Sender {
    fn start(options: &[(String, String)]) -> Result<Sender> {
        let agreement = agree(options)?;
        let mut frames = FrameWriter::new(agreement.protocol);
        frames.append(&Message::Startup(startup_message(&agreement))).map_err(too_large)?;
        let publication = Publication::new(agreement.replication_sets.clone(), agreement.text_only);
        Ok(Sender {
            agreement,
            publication,
            frames,
            transaction: None,
            progress: Progress::Silent,
            version: None,
            rows: Rows::default(),
            has_complained_of_message: false,
        })
    }

    fn wants_origin(&self, origin: OriginNumber) -> bool {
        origin == OriginNumber::LOCAL || self.agreement.forward != Forward::Nobody
    }

    fn begin(&mut self, transaction: Transaction) {
        self.transaction = Some(transaction);
        self.progress = Progress::Silent;
        self.version = None;
    }

    fn change(&mut self, sink: &mut Sink<'_>, change: &RowChange<'_>) -> Result<()> {
        let replaced = self.version.take().map_or(Replaced::Own, |version| replaced_by(change, &version));
        let table = self.publication.table(change.relation)?;
        let wanted = match change.event {
            RowEvent::Insert { .. } => table.actions.insert,
            RowEvent::Update { .. } => table.actions.update,
            RowEvent::Delete { .. } => table.actions.delete,
        };
        if !wanted || !lacks_nothing(table, &change.event) {
            return Ok(());
        }
        if !begun(&mut self.progress, self.transaction, &self.agreement, &mut self.frames)? {
            return Ok(());
        }
        describe(table, &mut self.frames)?;
        if append_row(&mut self.frames, table, change, replaced, &mut self.rows).is_err() {
            // it may fit into a frame of its own
            send(&mut self.frames, sink);
            append_row(&mut self.frames, table, change, replaced, &mut self.rows)
                .map_err(|error| row_too_large(error, &table.description))?;
        }
        self.send_if_full(sink);
        Ok(())
    }

    fn truncate(&mut self, sink: &mut Sink<'_>, relations: &[DecodedRelation<'_>]) -> Result<()> {
        self.version = None;
        let mut wanted = Vec::new();
        for relation in relations {
            let table = self.publication.table(*relation)?;
            if !table.actions.truncate {
                continue;
            }
            if !begun(&mut self.progress, self.transaction, &self.agreement, &mut self.frames)? {
                return Ok(());
            }
            describe(table, &mut self.frames)?;
            wanted.push(relation.id());
        }
        if !wanted.is_empty() {
            self.frames.append(&Message::Truncate(Truncate { relations: wanted })).map_err(too_large)?;
        }
        self.send_if_full(sink);
        Ok(())
    }

    fn message(&mut self, sink: &mut Sink<'_>, message: &WalMessage<'_>) -> Result<()> {
        if message.prefix != MESSAGE_PREFIX {
            return Ok(());
        }
        let Some(own) = own_message(message.content) else {
            self.complain_of_message();
            return Ok(());
        };
        let is_alone = message.transaction.is_none();
        if let LogicalMessage::Version(version) = own {
            if is_alone {
                self.complain_of_message();
            } else {
                self.version = Some(version);
            }
            return Ok(());
        }
        if !is_alone && !begun(&mut self.progress, self.transaction, &self.agreement, &mut self.frames)? {
            return Ok(());
        }
        self.frames.append(&Message::Logical(own)).map_err(too_large)?;
        if is_alone {
            // it stands between two transactions, and nothing may follow for long
            send(&mut self.frames, sink);
        } else {
            self.send_if_full(sink);
        }
        Ok(())
    }

    fn commit(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        let Some(transaction) = self.transaction.take() else { return Ok(()) };
        let is_begun = self.progress == Progress::Begun;
        sink.progress(!is_begun);
        if is_begun {
            let Transaction { commit_lsn, end_lsn, commit_ts, .. } = transaction;
            self.frames.append(&Message::Commit(Commit { commit_lsn, end_lsn, commit_ts })).map_err(too_large)?;
            send(&mut self.frames, sink);
        }
        Ok(())
    }
}

impl Sender {
    fn send_if_full(&mut self, sink: &mut Sink<'_>) {
        if self.frames.len() >= FRAME_TARGET_BYTES {
            send(&mut self.frames, sink);
        }
    }

    /// Anybody may write messages into WAL, under our prefix as well.
    fn complain_of_message(&mut self) {
        if !std::mem::replace(&mut self.has_complained_of_message, true) {
            Failure::new(
                PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                "malformed logical message with prefix \"meld\" is ignored",
            )
            .detail("Further ones in this stream are ignored without a word.")
            .log();
        }
    }
}

fn send(frames: &mut FrameWriter, sink: &mut Sink<'_>) {
    if let Some(frame) = frames.finish() {
        sink.write(frame);
    }
}

/// A message of ours, if the bytes are one and nothing else.
fn own_message(content: &[u8]) -> Option<LogicalMessage> {
    match codec::decode(content) {
        Ok((Message::Logical(message), length)) if length == content.len() => Some(message),
        _ => None,
    }
}

/// Says `Begin` if that wasn't done; false if the subscriber wants nothing of this transaction.
fn begun(
    progress: &mut Progress,
    transaction: Option<Transaction>,
    agreement: &Agreement,
    frames: &mut FrameWriter,
) -> Result<bool> {
    let Some(transaction) = transaction else { return Ok(false) };
    if *progress == Progress::Silent {
        *progress = match first_origin(transaction.origin, agreement)? {
            Some(origin) => {
                let Transaction { xid, commit_ts, commit_lsn, .. } = transaction;
                frames.append(&Message::Begin(Begin { xid, commit_ts, origin, commit_lsn })).map_err(too_large)?;
                Progress::Begun
            }
            None => Progress::Unwanted,
        };
    }
    Ok(*progress == Progress::Begun)
}

/// The node where a transaction was committed first, if the subscriber wants its changes. What came through an origin
/// that is none of meld's entered the mesh here.
fn first_origin(origin: OriginNumber, agreement: &Agreement) -> Result<Option<NodeId>> {
    let provider = agreement.provider.id;
    if origin == OriginNumber::LOCAL {
        return Ok(Some(provider));
    }
    let key = Some((c"roident", Key::Oid(u32::from(origin.0))));
    let nodes = historic::read(c"origin", key, &[c"node_id"], |row| row.int4(0))?.unwrap_or_default();
    let node = nodes.first().and_then(|&number| NodeId::checked(number)).unwrap_or(provider);
    let wanted = node != agreement.subscriber
        && match &agreement.forward {
            Forward::Nobody => false,
            Forward::Everybody => true,
            Forward::Only(nodes) => nodes.contains(&node),
        };
    Ok(wanted.then_some(node))
}

fn describe(table: &mut Table, frames: &mut FrameWriter) -> Result<()> {
    if !table.is_described {
        frames.append(&Message::Relation(table.description.clone())).map_err(too_large)?;
        table.is_described = true;
    }
    Ok(())
}

/// Whether the change says which row it is about. If not, that is reported once for its table.
fn lacks_nothing(table: &mut Table, event: &RowEvent<'_>) -> bool {
    let action = match event {
        RowEvent::Insert { .. } => return true,
        RowEvent::Update { .. } if table.format.has_key() => return true,
        RowEvent::Delete { old: Some(_) } if table.format.has_key() => return true,
        RowEvent::Update { .. } => "update",
        RowEvent::Delete { .. } => "delete",
    };
    if !std::mem::replace(&mut table.has_complained, true) {
        let RelationDescription { schema, name, .. } = &table.description;
        Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("{action} of table \"{schema}.{name}\" is not replicated, because the table has no usable key"),
        )
        .detail("Further updates and deletes of it are left out without a word until it has one.")
        .hint("Give the table a primary key with REPLICA IDENTITY DEFAULT, or a unique index with REPLICA IDENTITY USING INDEX.")
        .warn();
    }
    false
}

/// What the last version message says of the row event after it. Some messages have no change, because a later trigger
/// suppressed it or ON CONFLICT took another way: they say nothing about the next one.
fn replaced_by(change: &RowChange<'_>, version: &Version) -> Replaced {
    let is_kind = match change.event {
        RowEvent::Insert { .. } => false,
        RowEvent::Update { .. } => version.change == Replacing::Update,
        RowEvent::Delete { .. } => version.change == Replacing::Delete,
    };
    if is_kind && version.relation == change.relation.id() && change.old_key() == Some(version.key) {
        version.replaced
    } else {
        Replaced::Own
    }
}

fn append_row(
    frames: &mut FrameWriter,
    table: &Table,
    change: &RowChange<'_>,
    replaced: Replaced,
    rows: &mut Rows,
) -> std::result::Result<(), FrameTooLarge> {
    let relation: RelId = table.description.id;
    let format = &table.format;
    match change.event {
        RowEvent::Insert { new } => frames.append_insert(relation, &format.values(new, &mut rows.new)),
        RowEvent::Update { old: None, new } => {
            frames.append_update(relation, replaced, None, None, &format.values(new, &mut rows.new))
        }
        RowEvent::Update { old: Some(old), new } => {
            let old_key = format.key_values(old, &mut rows.old);
            let mut new = format.values(new, &mut rows.new);
            let has_moved = fill_key(&mut new, &old_key, format.key_places());
            frames.append_update(relation, replaced, None, has_moved.then_some(old_key.as_slice()), &new)
        }
        RowEvent::Delete { old: Some(old) } => {
            frames.append_delete(relation, replaced, &format.key_values(old, &mut rows.old))
        }
        RowEvent::Delete { old: None } => Ok(()),
    }
}

/// Puts key values that the UPDATE left in a TOAST table into the new row: the old one has them. Says whether the key
/// was changed: with REPLICA IDENTITY FULL the old row is always there.
fn fill_key<'a>(new: &mut [Value<'a>], old_key: &[Value<'a>], places: impl Iterator<Item = usize>) -> bool {
    let mut has_moved = false;
    for place in places {
        if new[place] == Value::Unchanged {
            new[place] = old_key[place];
        } else {
            has_moved |= new[place] != old_key[place];
        }
    }
    has_moved
}

fn too_large(error: FrameTooLarge) -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, error.to_string())
}

fn row_too_large(error: FrameTooLarge, table: &RelationDescription) -> Failure {
    too_large(error).detail(format!("It is a row of table \"{}.{}\".", table.schema, table.name))
}
