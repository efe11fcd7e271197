//! A remote transaction on its way into `meld.parked_transaction`, and its operations into `meld.exception_log`.
//!
//! The body is the messages as they came, from the Begin to the Commit, in frames of the wire format: it can be read by any
//! later version that speaks that protocol, and what a replay needs of the stream is in it. A description stands before
//! the first change of its relation. Frames become chunks, rows of their own, so that a transaction of any size passes
//! through bounded memory. Runs in the apply worker, inside a transaction of its caller's.

use std::collections::HashSet;

use meld_core::ids::RelId;
use meld_core::value::{Tuple, Value};
use meld_core::wire::{Commit, FrameWriter, Message, RelationDescription};
use pgrx::prelude::PgSqlErrorCode;
use serde_json::{Map, json};

use super::transaction::Relations;
use crate::catalog::parked::{self, ParkedState, RemoteName};
use crate::log::{Failure, Result};
use crate::pg::wire_text::text_of;
use crate::settings::{self, ExceptionBehaviour, ExceptionLogging};

/// Version of the protocol that bodies are written in.
const PROTOCOL: u8 = 1;
/// A chunk is written when it has come to this size. One large row may make it larger.
const CHUNK_BYTES: usize = 1 << 20;
/// Rows of the log are written as many at a time, or when they have come to the size of a chunk.
const LOG_ROWS: usize = 1000;

/// What is left of a failed transaction's way: its changes go into the body, or only into the log.
pub struct ParkedWriter {
    remote: RemoteName,
    behaviour: ExceptionBehaviour,
    body: Option<Body>,
    /// Why the transaction as a whole is set aside.
    cause: Failure,
    log: Vec<serde_json::Value>,
    log_bytes: usize,
    changes: u64,
}

struct Body {
    id: i64,
    writer: FrameWriter,
    chunk: i32,
    size_bytes: u64,
    /// Of all other bodies.
    others_bytes: u64,
    described: HashSet<RelId>,
}

impl ParkedWriter {
    /// Begins the row of a transaction. `state`: none if only the log is wanted.
    pub fn begin(
        remote: RemoteName,
        behaviour: ExceptionBehaviour,
        state: Option<ParkedState>,
        cause: Failure,
    ) -> Result<ParkedWriter> {
        let body = match state {
            None => None,
            Some(state) => {
                let others_bytes = parked::total_size_bytes()?;
                let sqlstate = cause.sqlstate();
                let id = parked::insert(&remote, state, Some((&sqlstate, &cause.message)))?;
                let mut writer = FrameWriter::new(PROTOCOL);
                append(&mut writer, &Message::Begin(remote.begin.clone()))?;
                let described = HashSet::new();
                Some(Body { id, writer, chunk: 0, size_bytes: 0, others_bytes, described })
            }
        };
        Ok(ParkedWriter { remote, behaviour, body, cause, log: Vec::new(), log_bytes: 0, changes: 0 })
    }

    /// Takes a change. `place` is its number in the transaction, `failed` why it could not be applied, if it was this one.
    pub fn take(
        &mut self,
        message: &Message,
        place: u64,
        failed: Option<&Failure>,
        relations: &Relations,
    ) -> Result<()> {
        self.changes += 1;
        if let Some(body) = &mut self.body {
            body.take(message, relations)?;
        }
        let is_logged = match settings::EXCEPTION_LOGGING.get() {
            ExceptionLogging::All => true,
            ExceptionLogging::Discard => failed.is_some(),
            ExceptionLogging::None => false,
        };
        if is_logged {
            self.log_bytes += message.size_bytes();
            self.log.extend(operations(message, place, failed, relations));
            if self.log.len() >= LOG_ROWS || self.log_bytes >= CHUNK_BYTES {
                self.write_log()?;
            }
        }
        Ok(())
    }

    /// A description came: the relation is described anew before its next change.
    pub fn redescribed(&mut self, relation: RelId) {
        if let Some(body) = &mut self.body {
            body.described.remove(&relation);
        }
    }

    /// All changes were taken. Gives the id of the parked transaction.
    pub fn finish(mut self, commit: &Commit, failed: bool) -> Result<Option<i64>> {
        if failed && settings::EXCEPTION_LOGGING.get() != ExceptionLogging::None {
            self.log.push(json!({
                "command_counter": self.changes + 1, "operation": "COMMIT",
                "sqlstate": self.cause.sqlstate(), "error_message": self.cause.message,
            }));
        }
        self.write_log()?;
        let Some(mut body) = self.body else { return Ok(None) };
        append(&mut body.writer, &Message::Commit(commit.clone()))?;
        body.write_chunk()?;
        parked::complete(body.id, self.changes, body.size_bytes)?;
        Ok(Some(body.id))
    }

    fn write_log(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.log);
        self.log_bytes = 0;
        if rows.is_empty() {
            return Ok(());
        }
        let id = self.body.as_ref().map(|body| body.id);
        parked::log_operations(&self.remote, self.behaviour.name(), id, &serde_json::Value::Array(rows).to_string())
    }
}

impl Body {
    fn take(&mut self, message: &Message, relations: &Relations) -> Result<()> {
        for relation in relations_of(message) {
            if self.described.insert(relation)
                && let Some(description) = relations.get(&relation)
            {
                append(&mut self.writer, &Message::Relation((**description).clone()))?;
            }
        }
        append(&mut self.writer, message)?;
        if self.writer.len() >= CHUNK_BYTES { self.write_chunk() } else { Ok(()) }
    }

    fn write_chunk(&mut self) -> Result<()> {
        let Some(frame) = self.writer.finish() else { return Ok(()) };
        self.size_bytes += frame.len() as u64;
        let limit_bytes = u64::from(settings::MAX_PARKED_SIZE_MB.get().unsigned_abs()) << 20;
        if self.others_bytes.saturating_add(self.size_bytes) > limit_bytes {
            return Err(full());
        }
        parked::add_chunk(self.id, self.chunk, frame)?;
        self.chunk += 1;
        Ok(())
    }
}

fn append(writer: &mut FrameWriter, message: &Message) -> Result<()> {
    writer
        .append(message)
        .map_err(|error| Failure::new(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, error.to_string()))
}

fn full() -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        "cannot park another transaction because meld.max_parked_size is reached",
    )
    .detail("The subscription stands at a transaction that cannot be applied, and nothing of it is lost.")
    .hint("Remove the cause and call meld.parked_replay(), or raise meld.max_parked_size and reload the configuration.")
}

/// Whether the message is a change of a transaction.
pub fn is_change(message: &Message) -> bool {
    !matches!(
        message,
        Message::Startup(_) | Message::Begin(_) | Message::Commit(_) | Message::Relation(_) | Message::Logical(_)
    )
}

/// The relations that a message is about.
pub fn relations_of(message: &Message) -> Vec<RelId> {
    match message {
        Message::Insert(m) => vec![m.relation],
        Message::Update(m) => vec![m.relation],
        Message::Delete(m) => vec![m.relation],
        Message::Removal(m) => vec![m.relation],
        Message::Void(m) => vec![m.relation],
        Message::Contribution(m) => vec![m.relation],
        Message::Truncate(m) => m.relations.clone(),
        Message::Startup(_) | Message::Begin(_) | Message::Commit(_) | Message::Relation(_) | Message::Logical(_) => {
            Vec::new()
        }
    }
}

/// The rows of the log for a change: one, but for a TRUNCATE of several tables.
fn operations(
    message: &Message,
    place: u64,
    failed: Option<&Failure>,
    relations: &Relations,
) -> Vec<serde_json::Value> {
    let (operation, old, new) = match message {
        Message::Insert(m) => ("INSERT", None, Some(&m.new)),
        Message::Update(m) => ("UPDATE", m.old_key.as_ref(), Some(&m.new)),
        Message::Delete(m) => ("DELETE", Some(&m.key), None),
        Message::Removal(m) => ("REMOVAL", Some(&m.key), None),
        Message::Void(m) => ("VOID", Some(&m.key), Some(&m.residue)),
        Message::Contribution(m) => ("CONTRIBUTION", Some(&m.key), Some(&m.amounts)),
        Message::Truncate(_) => ("TRUNCATE", None, None),
        Message::Startup(_) | Message::Begin(_) | Message::Commit(_) | Message::Relation(_) | Message::Logical(_) => {
            return Vec::new();
        }
    };
    let row = |relation: RelId| {
        let table = relations.get(&relation);
        let values = |tuple: Option<&Tuple>| Some(row_json(table?, tuple?, old.is_some_and(|old| Some(old) == tuple)));
        json!({
            "command_counter": place,
            "nspname": table.map(|table| &table.schema), "relname": table.map(|table| &table.name),
            "operation": operation, "old_row": values(old), "new_row": values(new),
            "sqlstate": failed.map(Failure::sqlstate), "error_message": failed.map(|failure| &failure.message),
        })
    };
    relations_of(message).into_iter().map(row).collect()
}

/// The values that came, as texts. Of an old row only the key travels.
fn row_json(table: &RelationDescription, tuple: &Tuple, key_only: bool) -> serde_json::Value {
    let columns = table.columns.iter().zip(tuple.values());
    let shown = columns.filter(|(column, _)| !key_only || column.is_key).filter_map(|(column, value)| {
        let text = match value {
            Value::Unchanged => return None,
            Value::Null => serde_json::Value::Null,
            Value::Text(text) => String::from_utf8_lossy(text).into_owned().into(),
            Value::Binary(bytes) => match text_of(column.type_oid, column.type_modifier, bytes) {
                Some(text) => text.into(),
                None => format!("{} bytes", bytes.len()).into(),
            },
        };
        Some((column.name.clone(), text))
    });
    serde_json::Value::Object(shown.collect::<Map<_, _>>())
}
