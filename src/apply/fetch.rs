//! Rows that are read from the provider, because the stream left a value of them out or has not brought them yet.
//!
//! Runs in the apply worker, in the middle of a remote transaction, on a connection of its own that is opened at the first
//! fetch. The provider answers with `meld.fetch_row`: the present row by key and the stamp of just that version. Nothing is
//! ever guessed: whatever keeps the provider from answering is a transient error of class 08, and the transaction is
//! tried again. But if the provider says that the table or its key is no more, no retry helps by itself, and its own
//! SQLSTATE stays (42P01, 55000, 42809).

use std::time::Duration;

use meld_core::ids::{NodeId, Xid};
use meld_core::time::{Stamp, Timestamp};
use meld_core::value::{Tuple, Value};
use meld_core::wire::RelationDescription;
use pgrx::prelude::PgSqlErrorCode;

use crate::catalog::Subscription;
use crate::log::{Failure, Result};
use crate::pg::worker::check_for_interrupts;
use crate::receiver::{Inquiry, LinkError};

/// For connecting and the answer together.
const LIMIT: Duration = Duration::from_secs(60);

/// The largest row; its values are text.
const LIMIT_BYTES: usize = 2 << 30;

const FETCH: &str =
    "SELECT column_name, column_value, commit_us, node_id, is_known FROM meld.fetch_row($1, $2, $3, $4, $5)";

/// The present row at the provider.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchedRow {
    /// Text, as wide as the stream's description of the table.
    pub row: Tuple,
    pub stamp: FetchedStamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FetchedStamp {
    Known(Stamp),
    /// The provider has forgotten it; it was before this one.
    Forgotten(Stamp),
}

/// Asks the provider of one subscription for rows.
pub struct Fetcher {
    inquiry: Inquiry,
    provider: String,
}

impl Fetcher {
    /// Connects at the first fetch.
    pub fn new(subscription: &Subscription) -> Fetcher {
        let Subscription { dsn, slot_name, provider, .. } = subscription;
        Fetcher { inquiry: Inquiry::new(dsn, &format!("{slot_name} fetch"), provider), provider: provider.name.clone() }
    }

    /// The present row with the key, whose columns are those that the description says; `key` is as wide as that, with
    /// its values as text. `None`: there is no such row. Interruptible: a request to end raises, as in a lock wait.
    ///
    /// `behind` is the provider's transaction that led here. Its commit may have been sent before it became visible there;
    /// the row is read when it is.
    pub fn fetch(&mut self, relation: &RelationDescription, key: &Tuple, behind: Xid) -> Result<Option<FetchedRow>> {
        let (names, values) = key_literals(relation, key)?;
        let behind = behind.0.to_string();
        let (schema, name) = (relation.schema.as_str(), relation.name.as_str());
        let params = [Some(schema), Some(name), Some(&names), Some(&values), Some(&behind)];
        let rows = self
            .inquiry
            .ask(FETCH, &params, LIMIT_BYTES, LIMIT, &mut check_for_interrupts)
            .map_err(|error| self.failure(relation, &error))?;
        let Some(first) = rows.first() else { return Ok(None) };
        let stamp = read_stamp(first).ok_or_else(|| self.nonsense(relation))?;
        let mut row = Tuple::with_capacity(relation.columns.len(), rows.iter().flatten().flatten().map(Vec::len).sum());
        for column in &relation.columns {
            let named = |row: &&Vec<Option<Vec<u8>>>| row.first() == Some(&Some(column.name.as_bytes().to_vec()));
            let value = rows.iter().find(named).ok_or_else(|| self.no_column(relation, &column.name))?.get(1);
            let text = value.ok_or_else(|| self.nonsense(relation))?.as_deref();
            row.push(text.map_or(Value::Null, Value::Text));
        }
        Ok(Some(FetchedRow { row, stamp }))
    }

    fn failure(&self, relation: &RelationDescription, error: &LinkError) -> Failure {
        let message = format!("{}: {error}", self.could_not(relation));
        let code = match (error, error.sqlstate()) {
            // the table, or its key, is not as the stream says
            (LinkError::Remote(_), state @ ("42P01" | "55000" | "42809")) => state,
            (_, state) if state.starts_with("08") => state,
            _ => "08006",
        };
        Failure { detail: error.detail(), hint: error.hint(), ..Failure::with_sqlstate(code, message) }
    }

    fn could_not(&self, relation: &RelationDescription) -> String {
        format!(
            "could not fetch a row of \"{}.{}\" from provider \"{}\"",
            relation.schema, relation.name, self.provider
        )
    }

    fn nonsense(&self, relation: &RelationDescription) -> Failure {
        let message = format!("{}: its answer makes no sense", self.could_not(relation));
        Failure::new(PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION, message)
            .hint("Check that both nodes have the same version of meld.")
    }

    fn no_column(&self, relation: &RelationDescription, column: &str) -> Failure {
        let message = format!("{}: it has no column \"{column}\" any more", self.could_not(relation));
        Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
    }
}

/// Names and values of the key columns as array literals.
fn key_literals(relation: &RelationDescription, key: &Tuple) -> Result<(String, String)> {
    let bad = || {
        Failure::new(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("key of \"{}.{}\" is not as wide as its table, or not text", relation.schema, relation.name),
        )
    };
    if key.len() != relation.columns.len() {
        return Err(bad());
    }
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for (column, value) in relation.columns.iter().zip(key.values()) {
        match value {
            // REPLICA IDENTITY FULL calls every column a key
            Value::Null => continue,
            Value::Text(bytes) => {
                let escaped = column.name.replace('\\', "\\\\").replace('"', "\\\"");
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                names.push(format!("\"{escaped}\""));
                values.push(format!("\"\\\\x{hex}\""));
            }
            Value::Unchanged | Value::Binary(_) => return Err(bad()),
        }
    }
    Ok((format!("{{{}}}", names.join(",")), format!("{{{}}}", values.join(","))))
}

fn read_stamp(row: &[Option<Vec<u8>>]) -> Option<FetchedStamp> {
    let [_, _, commit_us, node, is_known] = row else { return None };
    let commit_ts = Timestamp(i64::from_be_bytes(commit_us.as_deref()?.try_into().ok()?));
    let node = NodeId::checked(i32::from_be_bytes(node.as_deref()?.try_into().ok()?))?;
    let stamp = Stamp { commit_ts, node };
    Some(if is_known.as_deref()? == [1] { FetchedStamp::Known(stamp) } else { FetchedStamp::Forgotten(stamp) })
}
