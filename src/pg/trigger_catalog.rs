//! Triggers that the server keeps for meld: made, removed, and told apart from those of users.
//!
//! An internal trigger is in no dump and no `\d`. It depends on its function in such a way that DROP EXTENSION takes it
//! along, and on its table like any other trigger.

use std::ffi::{CStr, CString};
use std::ptr::null_mut;

use pgrx::pg_sys;

use super::Oid;

/// The server appends `_` and the trigger's oid. Triggers of one kind fire in the order of their names: this one after
/// those of users, so that it sees a row that really is about to change.
const NAME: &CStr = c"~~meld";

/// What a trigger fires at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Before each UPDATE or DELETE of a row.
    Row,
    /// After each INSERT or UPDATE of a row.
    Counter,
    /// After a TRUNCATE.
    Truncate,
    /// Before an INSERT, once for the statement.
    Arrival,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Row, Kind::Counter, Kind::Truncate, Kind::Arrival];

    fn timing(self) -> u32 {
        match self {
            Kind::Row | Kind::Arrival => pg_sys::TRIGGER_TYPE_BEFORE,
            Kind::Counter | Kind::Truncate => pg_sys::TRIGGER_TYPE_AFTER,
        }
    }

    fn events(self) -> u32 {
        match self {
            Kind::Row => pg_sys::TRIGGER_TYPE_UPDATE | pg_sys::TRIGGER_TYPE_DELETE,
            Kind::Counter => pg_sys::TRIGGER_TYPE_INSERT | pg_sys::TRIGGER_TYPE_UPDATE,
            Kind::Truncate => pg_sys::TRIGGER_TYPE_TRUNCATE,
            Kind::Arrival => pg_sys::TRIGGER_TYPE_INSERT,
        }
    }
}

/// Makes a trigger that fires whatever `session_replication_role` is. Waits until nobody writes to the table.
pub fn create(table: Oid, function: Oid, kind: Kind) {
    let mut statement = pg_sys::CreateTrigStmt {
        type_: pg_sys::NodeTag::T_CreateTrigStmt,
        trigname: NAME.as_ptr().cast_mut(),
        row: matches!(kind, Kind::Row | Kind::Counter),
        timing: kind.timing() as i16,
        events: kind.events() as i16,
        ..Default::default()
    };
    let none = pg_sys::InvalidOid;
    let target = pg_sys::ObjectAddress { classId: pg_sys::ProcedureRelationId, objectId: function, objectSubId: 0 };
    // SAFETY: inside a transaction; the statement is only read, and its other fields mean "not given". An internal
    // trigger is made without asking for rights, which the functions that get here have asked for
    unsafe {
        let trigger = pg_sys::CreateTriggerFiringOn(
            &mut statement,
            std::ptr::null(),
            table,
            none,
            none,
            none,
            function,
            none,
            null_mut(),
            true,
            false,
            pg_sys::TRIGGER_FIRES_ALWAYS as std::ffi::c_char,
        );
        // what was recorded is seen from here on
        pg_sys::CommandCounterIncrement();
        // an ordinary dependency would make DROP EXTENSION ask for CASCADE
        pg_sys::deleteDependencyRecordsForSpecific(
            pg_sys::TriggerRelationId,
            trigger.objectId,
            pg_sys::DependencyType::DEPENDENCY_NORMAL as std::ffi::c_char,
            pg_sys::ProcedureRelationId,
            function,
        );
        pg_sys::recordDependencyOn(&trigger, &target, pg_sys::DependencyType::DEPENDENCY_AUTO);
        pg_sys::CommandCounterIncrement();
    }
}

/// Removes a trigger. Waits until nobody uses the table.
pub fn remove(trigger: Oid) {
    let address = pg_sys::ObjectAddress { classId: pg_sys::TriggerRelationId, objectId: trigger, objectSubId: 0 };
    // SAFETY: inside a transaction; raises if there is no such trigger
    unsafe {
        pg_sys::performDeletion(
            &address,
            pg_sys::DropBehavior::DROP_RESTRICT,
            pg_sys::PERFORM_DELETION_INTERNAL as std::ffi::c_int,
        );
        pg_sys::CommandCounterIncrement();
    }
}

/// Whether a trigger of that name is one of meld's: no user can know the oid of a trigger before it is there.
pub(super) fn is_own(table: Oid, name: &CStr) -> bool {
    if !name.to_bytes().starts_with(NAME.to_bytes()) {
        return false;
    }
    // SAFETY: inside a transaction; a table's oid and a C string; gives InvalidOid for what is not there
    let oid = unsafe { pg_sys::get_trigger_oid(table, name.as_ptr(), true) };
    let full = format!("{}_{}", NAME.to_string_lossy(), oid.to_u32());
    oid != pg_sys::InvalidOid && CString::new(full).is_ok_and(|full| full.as_c_str() == name)
}
