//! Rows that are read from the provider, because the stream left a value of them out or has not brought them yet.
//!
//! Runs in the apply worker, in the middle of a remote transaction, on a connection of its own that is opened at the first
//! fetch. The provider answers with `meld.fetch_row`: the present row by key and the stamp of just that version. Nothing is
//! ever guessed: whatever keeps the provider from answering is a transient error of class 08, and the transaction is
//! tried again. But if the provider says that the table or its key is no more, no retry helps by itself, and its own
//! SQLSTATE stays (42P01, 55000, 42809).

use std::rc::Rc;
use std::time::Duration;

use meld_core::ids::{NodeId, RelId, Xid};
use meld_core::time::{Stamp, Timestamp};
use meld_core::value::{Tuple, Value};
use meld_core::wire::{Column, RelationDescription};
use pgrx::prelude::PgSqlErrorCode;

use super::row::KeyValue;
use crate::catalog::Subscription;
use crate::log::{Failure, Result};
use crate::pg::worker::check_for_interrupts;
use crate::receiver::{Inquiry, LinkError};

/// For connecting and the answer together.
const LIMIT: Duration = Duration::from_secs(60);

/// The largest row; its values are text.
const LIMIT_BYTES: usize = 2 << 30;

/// Type of all values of a parent; they come as text.
const TEXT: u32 = 25;

const FETCH: &str =
    "SELECT column_name, column_value, commit_us, node_id, is_known FROM meld.fetch_row($1, $2, $3, $4, $5)";

const FETCH_PARENT: &str = "SELECT part_nspname, part_relname, column_name, is_key, is_delta, column_value, commit_us, \
    node_id, is_known FROM meld.fetch_parent($1, $2, $3, $4, $5)";

/// The present row at the provider.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchedRow {
    /// The table as the row has it.
    pub relation: Rc<RelationDescription>,
    /// Text, as wide as that.
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
    pub fn fetch(
        &mut self,
        relation: &Rc<RelationDescription>,
        key: &Tuple,
        behind: Xid,
    ) -> Result<Option<FetchedRow>> {
        let (names, values) = key_literals(relation, key)?;
        let behind = behind.0.to_string();
        let (schema, name) = (relation.schema.as_str(), relation.name.as_str());
        let params = [Some(schema), Some(name), Some(&names), Some(&values), Some(&behind)];
        let rows = self
            .inquiry
            .ask(FETCH, &params, LIMIT_BYTES, LIMIT, &mut check_for_interrupts)
            .map_err(|error| self.failure(&relation.schema, &relation.name, &error))?;
        let Some(first) = rows.first() else { return Ok(None) };
        let stamp =
            first.get(2..).and_then(read_stamp).ok_or_else(|| self.nonsense(&relation.schema, &relation.name))?;
        let mut row = Tuple::with_capacity(relation.columns.len(), rows.iter().flatten().flatten().map(Vec::len).sum());
        for column in &relation.columns {
            let named = |row: &&Vec<Option<Vec<u8>>>| row.first() == Some(&Some(column.name.as_bytes().to_vec()));
            let value = rows.iter().find(named).ok_or_else(|| self.no_column(relation, &column.name))?.get(1);
            let text = value.ok_or_else(|| self.nonsense(&relation.schema, &relation.name))?.as_deref();
            row.push(text.map_or(Value::Null, Value::Text));
        }
        Ok(Some(FetchedRow { relation: relation.clone(), row, stamp }))
    }

    /// The present row that another one refers to by these columns, from its table or a partition of that.
    pub fn fetch_parent(
        &mut self,
        schema: &str,
        name: &str,
        columns: &[KeyValue],
        behind: Xid,
    ) -> Result<Option<FetchedRow>> {
        let (names, values): (Vec<String>, Vec<String>) =
            columns.iter().map(|part| (quoted(&part.column), hex(part.text.as_bytes()))).unzip();
        let (names, values) = (format!("{{{}}}", names.join(",")), format!("{{{}}}", values.join(",")));
        let behind = behind.0.to_string();
        let params = [Some(schema), Some(name), Some(&names), Some(&values), Some(&behind)];
        let rows = self
            .inquiry
            .ask(FETCH_PARENT, &params, LIMIT_BYTES, LIMIT, &mut check_for_interrupts)
            .map_err(|error| self.failure(schema, name, &error))?;
        let Some(first) = rows.first() else { return Ok(None) };
        let sense = || self.nonsense(schema, name);
        let stamp = first.get(6..).and_then(read_stamp).ok_or_else(sense)?;
        let mut columns = Vec::with_capacity(rows.len());
        let mut row =
            Tuple::with_capacity(rows.len(), rows.iter().filter_map(|r| r.get(5)?.as_ref().map(Vec::len)).sum());
        for answer in &rows {
            let [_, _, Some(name), Some(is_key), Some(is_delta), value, ..] = answer.as_slice() else {
                return Err(sense());
            };
            columns.push(Column {
                name: String::from_utf8_lossy(name).into_owned(),
                type_oid: TEXT,
                type_modifier: -1,
                is_key: is_key == &[1],
                is_delta: is_delta == &[1],
            });
            row.push(value.as_deref().map_or(Value::Null, Value::Text));
        }
        let part = |at: usize| Some(String::from_utf8_lossy(first.get(at)?.as_deref()?).into_owned());
        let (Some(schema), Some(name)) = (part(0), part(1)) else { return Err(sense()) };
        let relation = Rc::new(RelationDescription { id: RelId(0), schema, name, columns });
        Ok(Some(FetchedRow { relation, row, stamp }))
    }

    fn failure(&self, schema: &str, name: &str, error: &LinkError) -> Failure {
        let message = format!("{}: {error}", self.could_not(schema, name));
        let code = match (error, error.sqlstate()) {
            // the table, or its key, is not as the stream says
            (LinkError::Remote(_), state @ ("42P01" | "55000" | "42809")) => state,
            (_, state) if state.starts_with("08") => state,
            _ => "08006",
        };
        Failure { detail: error.detail(), hint: error.hint(), ..Failure::with_sqlstate(code, message) }
    }

    fn could_not(&self, schema: &str, name: &str) -> String {
        format!("could not fetch a row of \"{schema}.{name}\" from provider \"{}\"", self.provider)
    }

    fn nonsense(&self, schema: &str, name: &str) -> Failure {
        let message = format!("{}: its answer makes no sense", self.could_not(schema, name));
        Failure::new(PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION, message)
            .hint("Check that both nodes have the same version of meld.")
    }

    fn no_column(&self, relation: &RelationDescription, column: &str) -> Failure {
        let message =
            format!("{}: it has no column \"{column}\" any more", self.could_not(&relation.schema, &relation.name));
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
                names.push(quoted(&column.name));
                values.push(hex(bytes));
            }
            Value::Unchanged | Value::Binary(_) => return Err(bad()),
        }
    }
    Ok((format!("{{{}}}", names.join(",")), format!("{{{}}}", values.join(","))))
}

/// As an element of an array's literal.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A value of type bytea, as above.
fn hex(bytes: &[u8]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"\\\\x{hex}\"")
}

fn read_stamp(columns: &[Option<Vec<u8>>]) -> Option<FetchedStamp> {
    let [commit_us, node, is_known] = columns else { return None };
    let commit_ts = Timestamp(i64::from_be_bytes(commit_us.as_deref()?.try_into().ok()?));
    let node = NodeId::checked(i32::from_be_bytes(node.as_deref()?.try_into().ok()?))?;
    let stamp = Stamp { commit_ts, node };
    Some(if is_known.as_deref()? == [1] { FetchedStamp::Known(stamp) } else { FetchedStamp::Forgotten(stamp) })
}
