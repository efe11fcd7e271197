//! The call of the trigger that fires after a TRUNCATE, once for each table that it has emptied.

use std::ffi::CStr;

use meld_core::ids::RelId;
use pgrx::pg_sys;
use pgrx::prelude::PgSqlErrorCode;

use super::delta;
use super::row_trigger::{Answer, Call};
use crate::log::{Failure, Result};

/// A table that was emptied.
pub struct EmptiedTable {
    pub id: RelId,
    pub name: String,
    /// It has delta columns.
    pub has_counters: bool,
}

/// Tells which table was emptied.
pub fn run(call: &Call, look: impl FnOnce(&EmptiedTable)) -> Answer {
    match table(call) {
        Some(Ok(table)) => look(&table),
        Some(Err(failure)) => failure.raise(),
        None => Failure::new(
            PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
            "function \"meld.truncate_trigger\" was not called by an AFTER TRUNCATE trigger",
        )
        .raise(),
    }
    pg_sys::Datum::from(0_usize)
}

fn table(call: &Call) -> Option<Result<EmptiedTable>> {
    let data = call.trigger_data()?;
    let place = pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_TIMINGMASK | pg_sys::TRIGGER_EVENT_OPMASK;
    if data.tg_event & place != pg_sys::TRIGGER_EVENT_TRUNCATE {
        return None;
    }
    // SAFETY: the server keeps the table open for the call; names are terminated within their 64 bytes
    let (id, name, columns) = unsafe {
        let relation = data.tg_relation;
        let name = CStr::from_ptr((*(*relation).rd_rel).relname.data.as_ptr()).to_string_lossy().into_owned();
        (RelId((*relation).rd_id.to_u32()), name, delta::of(relation))
    };
    Some(columns.map(|columns| EmptiedTable { id, name, has_counters: !columns.is_empty() }))
}
