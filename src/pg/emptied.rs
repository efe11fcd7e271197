//! The call of the trigger that fires after a TRUNCATE, once for each table that it has emptied.

use meld_core::ids::RelId;
use pgrx::pg_sys;
use pgrx::prelude::PgSqlErrorCode;

use super::row_trigger::{Answer, Call};
use crate::log::Failure;

/// Tells which table was emptied.
pub fn run(call: &Call, look: impl FnOnce(RelId)) -> Answer {
    match table(call) {
        Some(table) => look(table),
        None => Failure::new(
            PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
            "function \"meld.truncate_trigger\" was not called by an AFTER TRUNCATE trigger",
        )
        .raise(),
    }
    pg_sys::Datum::from(0_usize)
}

fn table(call: &Call) -> Option<RelId> {
    let data = call.trigger_data()?;
    let place = pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_TIMINGMASK | pg_sys::TRIGGER_EVENT_OPMASK;
    if data.tg_event & place != pg_sys::TRIGGER_EVENT_TRUNCATE {
        return None;
    }
    // SAFETY: the server keeps the table open for the call
    Some(RelId(unsafe { (*data.tg_relation).rd_id }.to_u32()))
}
