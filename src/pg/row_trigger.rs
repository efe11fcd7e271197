//! The call of a row trigger, and what it can see of the old row.
//!
//! Runs once for each row that a statement updates or deletes, so the way through it that most rows take (written by
//! this node) allocates nothing and asks the server two questions.

use std::marker::PhantomData;
use std::rc::Rc;

use meld_core::ids::{RelId, Xid};
use meld_core::value::Tuple;
use meld_core::wire::Replacing;
use pgrx::pg_sys;
use pgrx::prelude::PgSqlErrorCode;

use super::key_bytes::{self, KeyColumns, RowKey};
use super::origin::{Writer, writer_of_row};
use super::{delta, row_key};
use crate::log::{Failure, Result};

/// What the server hands to the trigger's function.
#[repr(transparent)]
pub struct Call(pg_sys::FunctionCallInfo);

impl Call {
    pub(super) fn trigger_data(&self) -> Option<&pg_sys::TriggerData> {
        // SAFETY: the server's own call; a node that calls itself trigger data is that, and lives as long as the call
        unsafe {
            let context = (*self.0).context;
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
                return None;
            }
            Some(&*context.cast::<pg_sys::TriggerData>())
        }
    }
}

/// What the server gets back.
pub type Answer = pg_sys::Datum;

/// The record by which the server knows how to call the function.
pub type CallingConvention = pg_sys::Pg_finfo_record;

pub const CALLING_CONVENTION: CallingConvention = pg_sys::Pg_finfo_record { api_version: 1 };

/// What the tombstone of a row with delta columns has beside its stamp.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Residue {
    /// As `pg::delta` keeps it; empty if all counters are zero.
    pub counters: Vec<String>,
    /// The key as text, in the order of its columns; not needed without counters.
    pub key_values: Vec<String>,
}

impl Residue {
    /// # Safety
    /// An open relation, in a transaction, and a row of it.
    unsafe fn of(relation: pg_sys::Relation, row: pg_sys::HeapTuple) -> Result<Option<Residue>> {
        // SAFETY: see above
        unsafe {
            let columns = delta::of(relation)?;
            if columns.is_empty() {
                return Ok(None);
            }
            let amounts = delta::amounts(relation, row, &columns)?;
            let counters: Vec<String> =
                columns.iter().zip(&amounts).filter_map(|(column, amount)| delta::kept(column, amount)).collect();
            let key = if counters.is_empty() { None } else { delta::key_texts(relation, row) };
            let key = key.unwrap_or_default();
            Ok(Some(Residue { counters, key_values: key.into_iter().map(|(_, text)| text).collect() }))
        }
    }
}

/// A row that is about to be replaced or deleted.
pub struct OldRow<'a> {
    data: &'a pg_sys::TriggerData,
    change: Replacing,
    call: PhantomData<&'a Call>,
}

/// Exports a function of an [`OldRow`] as the C function of a BEFORE ROW trigger, which lets the change go on as it is; or
/// one of what another runner takes from the call.
#[macro_export]
macro_rules! row_trigger_entry {
    ($name:ident, $info:ident => $look:path) => {
        $crate::row_trigger_entry!($name, $info => $crate::pg::row_trigger::run, $look);
    };
    ($name:ident, $info:ident => $run:path, $look:path) => {
        #[doc = concat!("Trigger function for the server; runs [`", stringify!($look), "`].")]
        #[unsafe(no_mangle)]
        #[pgrx::pg_guard]
        pub extern "C-unwind" fn $name(call: $crate::pg::row_trigger::Call) -> $crate::pg::row_trigger::Answer {
            $run(&call, $look)
        }

        #[doc = concat!("How to call `", stringify!($name), "`.")]
        #[unsafe(no_mangle)]
        pub extern "C-unwind" fn $info() -> &'static $crate::pg::row_trigger::CallingConvention {
            &$crate::pg::row_trigger::CALLING_CONVENTION
        }
    };
}

/// Looks at the old row, and gives the server the new one unchanged.
pub fn run(call: &Call, look: impl FnOnce(&OldRow<'_>)) -> Answer {
    let Some(row) = OldRow::of(call) else {
        Failure::new(
            PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
            "function \"meld.row_trigger\" was not called by a BEFORE ROW trigger for UPDATE or DELETE",
        )
        .raise()
    };
    look(&row);
    pg_sys::Datum::from(match row.change {
        Replacing::Update => row.data.tg_newtuple,
        Replacing::Delete | Replacing::Return => row.data.tg_trigtuple,
    })
}

impl<'a> OldRow<'a> {
    fn of(call: &'a Call) -> Option<OldRow<'a>> {
        let data = call.trigger_data()?;
        let timing = pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_TIMINGMASK;
        if data.tg_event & timing != pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_BEFORE {
            return None;
        }
        let change = match data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_UPDATE => Replacing::Update,
            pg_sys::TRIGGER_EVENT_DELETE => Replacing::Delete,
            _ => return None,
        };
        Some(OldRow { data, change, call: PhantomData })
    }

    pub fn change(&self) -> Replacing {
        self.change
    }

    pub fn relation(&self) -> RelId {
        // SAFETY: the server keeps the table open for the call
        RelId(unsafe { (*self.data.tg_relation).rd_id }.to_u32())
    }

    pub fn writer(&self) -> Writer {
        // SAFETY: the server's copy of the old row; a trigger runs inside a transaction
        unsafe { writer_of_row((*self.data.tg_trigtuple).t_data) }
    }

    /// Number of the transaction that wrote it.
    pub fn xmin(&self) -> Xid {
        // SAFETY: the server's copy of the old row
        Xid(unsafe { pg_sys::htup::HeapTupleHeaderGetRawXmin((*self.data.tg_trigtuple).t_data) }.into_inner())
    }

    /// Whether it is marked as visible to all.
    pub fn is_frozen(&self) -> bool {
        // SAFETY: the server's copy of the old row
        let mask = u32::from(unsafe { (*(*self.data.tg_trigtuple).t_data).t_infomask });
        mask & pg_sys::HEAP_XMIN_FROZEN == pg_sys::HEAP_XMIN_FROZEN
    }

    /// The columns of its key; none for a table without a key, or with one whose values can't be compared as bytes.
    pub fn key_columns(&self) -> Option<Rc<KeyColumns>> {
        // SAFETY: the server keeps the table open for the call
        unsafe { key_bytes::known(self.data.tg_relation) }
    }

    /// Its key as bytes, if it has one.
    pub fn row_key(&self) -> Option<RowKey> {
        let mut bytes = Vec::new();
        self.append_key(&*self.key_columns()?, &mut bytes).then_some(RowKey(bytes))
    }

    /// Its key, if the change takes it away.
    pub fn lost_key(&self, columns: &KeyColumns) -> Option<RowKey> {
        let mut bytes = Vec::new();
        (self.loses_key(columns) && self.append_key(columns, &mut bytes)).then_some(RowKey(bytes))
    }

    /// Whether the change takes its key away: a DELETE, or an UPDATE that changes it.
    pub fn loses_key(&self, columns: &KeyColumns) -> bool {
        // SAFETY: the server keeps the table open and both rows in memory for the call
        unsafe {
            match self.change {
                Replacing::Delete | Replacing::Return => true,
                Replacing::Update => {
                    columns.differ(self.data.tg_trigtuple, self.data.tg_newtuple, (*self.data.tg_relation).rd_att)
                }
            }
        }
    }

    /// Puts its key's bytes behind others; false if it has none, what is behind then means nothing.
    pub fn append_key(&self, columns: &KeyColumns, bytes: &mut Vec<u8>) -> bool {
        // SAFETY: the server keeps the table open and the row in memory for the call
        unsafe { columns.append_tuple(bytes, self.data.tg_trigtuple, (*self.data.tg_relation).rd_att) }
    }

    /// Fingerprint of its key, if the table has one.
    pub fn key(&self) -> Option<u64> {
        // SAFETY: the server keeps the table open and the row in memory for the call
        unsafe { row_key::fingerprint(self.data.tg_relation, self.data.tg_trigtuple, false) }
    }

    /// Whether the table has delta columns.
    pub fn has_counters(&self) -> Result<bool> {
        // SAFETY: the server keeps the table open for the call
        Ok(!unsafe { delta::of(self.data.tg_relation) }?.is_empty())
    }

    /// What the delta columns are before an UPDATE, if the table has any. What they will be must be numbers, too.
    pub fn old_counters(&self) -> Result<Option<Tuple>> {
        // SAFETY: the server keeps the table open and both rows in memory for the call
        unsafe {
            let relation = self.data.tg_relation;
            let columns = delta::of(relation)?;
            if columns.is_empty() || self.change == Replacing::Delete {
                return Ok(None);
            }
            let old = delta::amounts(relation, self.data.tg_trigtuple, &columns)?;
            delta::amounts(relation, self.data.tg_newtuple, &columns)?;
            Ok(Some(delta::amounts_tuple(relation, &columns, &old)))
        }
    }

    /// Of a table with delta columns: what is kept of them, and of the key, if the row goes.
    pub fn residue(&self) -> Result<Option<Residue>> {
        // SAFETY: the server keeps the table open and the row in memory for the call
        unsafe { Residue::of(self.data.tg_relation, self.data.tg_trigtuple) }
    }

    /// The transaction that writes.
    pub fn transaction(&self) -> Xid {
        // SAFETY: inside a transaction, in which a trigger always is
        Xid(unsafe { pg_sys::GetTopTransactionId() }.into_inner())
    }
}

/// Whether this session replays what was written elsewhere: meld's apply workers do, and those of others.
pub fn is_replaying() -> bool {
    // SAFETY: reads a global of this process
    let under_origin =
        unsafe { pg_sys::replorigin_session_origin != pg_sys::InvalidRepOriginId as pg_sys::RepOriginId };
    // an apply worker says by itself what it does in transactions of this node's own
    under_origin || super::session::is_for_apply()
}
