//! Packs what is decoded into frames.

use meld_core::ids::{NodeId, RelId};
use meld_core::wire::{Begin, Commit, FrameTooLarge, FrameWriter, Message, Truncate};
use pgrx::prelude::PgSqlErrorCode;

use super::notes::{Forged, Note, Notes, Seals};
use super::publication::{Publication, Table};
use super::rows::{Rows, append_row, lacks_counters, lacks_nothing, row_too_large};
use super::start::{Agreement, Forward, agree, startup_message};
use crate::log::{Failure, Result};
use crate::pg::decoded::{self, DecodedRelation, RowChange, RowEvent};
use crate::pg::decoding::{OriginNumber, OutputPlugin, Sink, Transaction, WalMessage};
use crate::pg::historic::{self, Key};
use crate::pg::ignored;
use crate::settings::SNOWFLAKE_NODE;

/// A frame that has reached this size is sent.
const FRAME_TARGET_BYTES: usize = 64 * 1024;

/// The plugin's state for one stream.
pub struct Sender {
    agreement: Agreement,
    /// `snowflake.node` as it was when the subscriber was told this node's number.
    number_setting: i32,
    publication: Publication,
    frames: FrameWriter,
    transaction: Option<Transaction>,
    progress: Progress,
    notes: Notes,
    seals: Seals,
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

impl OutputPlugin for Sender {
    fn start(options: &[(String, String)]) -> Result<Sender> {
        let agreement = agree(options)?;
        let mut frames = FrameWriter::new(agreement.protocol);
        frames.append(&Message::Startup(startup_message(&agreement))).map_err(too_large)?;
        let publication = Publication::new(agreement.replication_sets.clone(), agreement.text_only);
        Ok(Sender {
            agreement,
            number_setting: SNOWFLAKE_NODE.get(),
            publication,
            frames,
            transaction: None,
            progress: Progress::Silent,
            notes: Notes::default(),
            seals: Seals::read()?,
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
        self.notes.clear();
    }

    fn change(&mut self, sink: &mut Sink<'_>, change: &RowChange<'_>) -> Result<()> {
        self.check_number()?;
        let told = self.notes.told_of(change);
        if self.notes.is_removed(change) {
            return Ok(());
        }
        let table = self.publication.table(change.relation)?;
        let wanted = match change.event {
            RowEvent::Insert { .. } if told.returns => table.actions.update,
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
        lacks_counters(table, &change.event, &told);
        describe(table, &mut self.frames)?;
        if append_row(&mut self.frames, table, change, &told, &mut self.rows).is_err() {
            // it may fit into a frame of its own
            send(&mut self.frames, sink);
            append_row(&mut self.frames, table, change, &told, &mut self.rows)
                .map_err(|error| row_too_large(error, &table.description))?;
        }
        self.send_if_full(sink);
        Ok(())
    }

    fn truncate(&mut self, sink: &mut Sink<'_>, relations: &[DecodedRelation<'_>]) -> Result<()> {
        self.notes.interrupt();
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
        self.check_number()?;
        let Some(note) = Note::read(message, &mut self.seals)? else { return Ok(()) };
        match note {
            Ok(Note::Alone(own)) => {
                // between two transactions, and nothing may follow for long
                self.frames.append(&Message::Logical(own)).map_err(too_large)?;
                send(&mut self.frames, sink);
            }
            Ok(Note::Version(version)) => self.notes.version(version),
            Ok(Note::Removal(note)) => {
                self.notes.removal(&note);
                self.pass_on(sink, note.removal.relation, &Message::Removal(note.removal))?;
            }
            Ok(Note::OfTable(relation, message)) => self.pass_on(sink, relation, &message)?,
            Err(Forged) => self.ignore_message(),
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
    /// Ends the stream when this node's number is another by now: no id under it goes out before the subscriber has
    /// compared it with what it knows, which it does when it connects.
    fn check_number(&self) -> Result<()> {
        let number = SNOWFLAKE_NODE.get();
        if number == self.number_setting {
            return Ok(());
        }
        Err(Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("snowflake.node of node \"{}\" was changed", self.agreement.provider.name),
        )
        .detail(format!("It was {} when the stream began, and is {number} now.", self.number_setting))
        .hint("The subscriber connects again and looks whether another node has that number."))
    }

    fn send_if_full(&mut self, sink: &mut Sink<'_>) {
        if self.frames.len() >= FRAME_TARGET_BYTES {
            send(&mut self.frames, sink);
        }
    }

    /// Sends what was said of a table, if the subscriber replicates it.
    fn pass_on(&mut self, sink: &mut Sink<'_>, relation: RelId, message: &Message) -> Result<()> {
        let Some(open) = decoded::open(relation) else { return Ok(()) };
        let table = self.publication.table(open.relation())?;
        if !table.actions.of_rows() || !begun(&mut self.progress, self.transaction, &self.agreement, &mut self.frames)?
        {
            return Ok(());
        }
        describe(table, &mut self.frames)?;
        self.frames.append(message).map_err(too_large)?;
        self.send_if_full(sink);
        Ok(())
    }

    fn ignore_message(&mut self) {
        ignored::count();
        if !std::mem::replace(&mut self.has_complained_of_message, true) {
            Failure::new(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                "logical message with prefix \"meld\" is ignored, because this node has not written it",
            )
            .detail("Further ones in this stream are ignored without a word; meld.ignored_messages() counts them.")
            .hint("The function pg_logical_emit_message may be executed by everybody, unless that is revoked.")
            .log();
        }
    }
}

fn send(frames: &mut FrameWriter, sink: &mut Sink<'_>) {
    if let Some(frame) = frames.finish() {
        sink.write(frame);
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
                let Transaction { xid, commit_ts, commit_lsn, end_lsn, .. } = transaction;
                let begin = Begin { xid, commit_ts, origin, commit_lsn, end_lsn };
                frames.append(&Message::Begin(begin)).map_err(too_large)?;
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

pub fn too_large(error: FrameTooLarge) -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, error.to_string())
}
