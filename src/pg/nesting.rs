//! Transactions and subtransactions of this process, for what it notes in memory until they end.

use std::ptr::null_mut;
use std::sync::OnceLock;

use pgrx::pg_sys;
use pgrx::prelude::*;

/// Who wants to know of ends. All but `before_end` may not fail.
#[derive(Clone, Copy)]
pub struct Watch {
    /// Before a transaction is committed or prepared. May write, and may raise, which aborts it.
    pub before_end: fn(),
    pub ended: fn(),
    /// The subtransaction at this level becomes part of the one above.
    pub level_joined: fn(level: i32),
    /// It is undone.
    pub level_undone: fn(level: i32),
}

static WATCH: OnceLock<Watch> = OnceLock::new();

/// Installs the callbacks, for the life of the process. Once.
pub fn watch(watch: Watch) {
    if WATCH.set(watch).is_ok() {
        // SAFETY: the server keeps the functions for the life of the process, in which the library stays loaded
        unsafe {
            pg_sys::RegisterXactCallback(Some(on_transaction), null_mut());
            pg_sys::RegisterSubXactCallback(Some(on_subtransaction), null_mut());
        }
    }
}

/// Of the open transaction: 1, and more in subtransactions.
pub fn level() -> i32 {
    // SAFETY: reads state of this process
    unsafe { pg_sys::GetCurrentTransactionNestLevel() }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_transaction(event: pg_sys::XactEvent::Type, _argument: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::*;
    let Some(watch) = WATCH.get() else { return };
    match event {
        XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE => (watch.before_end)(),
        XACT_EVENT_COMMIT | XACT_EVENT_PREPARE | XACT_EVENT_ABORT => (watch.ended)(),
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_subtransaction(
    event: pg_sys::SubXactEvent::Type,
    _own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut std::ffi::c_void,
) {
    use pg_sys::SubXactEvent::*;
    let Some(watch) = WATCH.get() else { return };
    match event {
        SUBXACT_EVENT_COMMIT_SUB => (watch.level_joined)(level()),
        SUBXACT_EVENT_ABORT_SUB => (watch.level_undone)(level()),
        _ => {}
    }
}
