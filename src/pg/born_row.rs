//! The call of the trigger that fires after a row with delta columns came to be: by an INSERT, or by an UPDATE that gave it
//! another key.

use meld_core::ids::RelId;
use meld_core::value::Tuple;
use pgrx::pg_sys;
use pgrx::prelude::PgSqlErrorCode;

use super::Oid;
use super::counter::Amount;
use super::delta::{self, DeltaColumns};
use super::key_bytes::{self, RowKey};
use super::row_trigger::{Answer, Call};
use crate::log::{Failure, Result};

/// A row that a statement has put where none was, or an UPDATE has written.
pub struct BornRow<'a> {
    data: &'a pg_sys::TriggerData,
    columns: DeltaColumns,
    is_update: bool,
}

/// Looks at the new row of a table with delta columns.
pub fn run(call: &Call, look: impl FnOnce(&BornRow<'_>)) -> Answer {
    match BornRow::of(call) {
        Ok(Some(row)) => look(&row),
        Ok(None) => {}
        Err(failure) => failure.raise(),
    }
    pg_sys::Datum::from(0_usize)
}

/// Tells into which table a statement is about to put rows.
pub fn run_before(call: &Call, look: impl FnOnce(Oid)) -> Answer {
    let timing = pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_TIMINGMASK;
    match call.trigger_data().filter(|data| data.tg_event & timing == pg_sys::TRIGGER_EVENT_BEFORE) {
        // SAFETY: the server keeps the table open for the call
        Some(data) => look(unsafe { (*data.tg_relation).rd_id }),
        None => Failure::new(
            PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
            "function \"meld.arrival_trigger\" was not called by a BEFORE STATEMENT trigger",
        )
        .raise(),
    }
    pg_sys::Datum::from(0_usize)
}

impl<'a> BornRow<'a> {
    /// None if its table has no delta columns.
    fn of(call: &'a Call) -> Result<Option<BornRow<'a>>> {
        let wrong = || {
            Failure::new(
                PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                "function \"meld.counter_trigger\" was not called by an AFTER ROW trigger for INSERT or UPDATE",
            )
        };
        let data = call.trigger_data().ok_or_else(wrong)?;
        let timing = pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_TIMINGMASK;
        if data.tg_event & timing != pg_sys::TRIGGER_EVENT_ROW {
            return Err(wrong());
        }
        let is_update = match data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => false,
            pg_sys::TRIGGER_EVENT_UPDATE => true,
            _ => return Err(wrong()),
        };
        // SAFETY: the server keeps the table open for the call
        let columns = unsafe { delta::of(data.tg_relation)? };
        Ok((!columns.is_empty()).then_some(BornRow { data, columns, is_update }))
    }

    fn row(&self) -> pg_sys::HeapTuple {
        if self.is_update { self.data.tg_newtuple } else { self.data.tg_trigtuple }
    }

    pub fn table(&self) -> Oid {
        // SAFETY: the server keeps the table open for the call
        unsafe { (*self.data.tg_relation).rd_id }
    }

    pub fn relation(&self) -> RelId {
        RelId(self.table().to_u32())
    }

    /// Refuses counters that are no numbers.
    pub fn check_counters(&self) -> Result<()> {
        // SAFETY: the server keeps the table open and the row in memory for the call
        unsafe { delta::amounts(self.data.tg_relation, self.row(), &self.columns) }.map(drop)
    }

    /// The key, if it was not the row's before: None after an UPDATE that left it alone, and in a table without one.
    pub fn new_key(&self) -> Option<RowKey> {
        // SAFETY: the server keeps the table open and the rows in memory for the call
        unsafe {
            let relation = self.data.tg_relation;
            let columns = key_bytes::known(relation)?;
            let key = columns.of_tuple(self.row(), (*relation).rd_att)?;
            if self.is_update && columns.of_tuple(self.data.tg_trigtuple, (*relation).rd_att).as_ref() == Some(&key) {
                return None;
            }
            Some(key)
        }
    }

    /// The key as a tuple of the table.
    pub fn key_tuple(&self) -> Tuple {
        // SAFETY: the server keeps the table open and the row in memory for the call
        unsafe {
            let texts = delta::key_texts(self.data.tg_relation, self.row()).unwrap_or_default();
            let text = |attribute| texts.iter().find(|(place, _)| *place == attribute).map(|(_, text)| text.clone());
            delta::tuple(self.data.tg_relation, text)
        }
    }

    /// The amounts of a residue, in the order of the delta columns.
    pub fn amounts(&self, residue: &[String]) -> Result<Vec<Amount>> {
        self.columns.iter().map(|column| delta::amount_kept(column, residue)).collect()
    }

    /// The amounts as a tuple of the table.
    pub fn amounts_tuple(&self, amounts: &[Amount]) -> Tuple {
        // SAFETY: the server keeps the table open for the call
        unsafe { delta::amounts_tuple(self.data.tg_relation, &self.columns, amounts) }
    }

    /// Nothing, in the table's counters.
    pub fn zeros(&self) -> Vec<Amount> {
        self.columns.iter().map(|column| column.kind.zero()).collect()
    }
}
