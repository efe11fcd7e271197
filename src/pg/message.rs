//! Messages of meld in the WAL, and positions in it.

use std::ffi::c_char;

use meld_core::lsn::Lsn;
use pgrx::pg_sys;

/// Prefix of every message that meld writes.
pub const PREFIX: &str = "meld";

const C_PREFIX: &std::ffi::CStr = c"meld";

// Not among pgrx's bindings: replication/message.h
#[allow(improper_ctypes)]
unsafe extern "C-unwind" {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    fn LogLogicalMessage(prefix: *const c_char, message: *const c_char, size: usize, transactional: bool) -> u64;
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    fn LogLogicalMessage(
        prefix: *const c_char,
        message: *const c_char,
        size: usize,
        transactional: bool,
        flush: bool,
    ) -> u64;
}

/// Writes a message that stands for itself, whether the transaction commits or not, and gives the end of its record.
/// It is on disk when this returns, so that senders send it.
pub fn emit(body: &[u8]) -> Lsn {
    let end = call_log_logical_message(body, false);
    // SAFETY: a position that was just inserted
    unsafe { pg_sys::XLogFlush(end) };
    Lsn(end)
}

/// Writes a message that is part of the open transaction, at this point of it.
pub fn emit_in_transaction(body: &[u8]) {
    call_log_logical_message(body, true);
}

fn call_log_logical_message(body: &[u8], transactional: bool) -> u64 {
    let (prefix, body, size) = (C_PREFIX.as_ptr(), body.as_ptr().cast::<c_char>(), body.len());
    let call = || {
        // SAFETY: the server copies prefix and body into the WAL; it raises when the server is in recovery
        unsafe {
            #[cfg(any(feature = "pg15", feature = "pg16"))]
            let end = LogLogicalMessage(prefix, body, size, transactional);
            #[cfg(any(feature = "pg17", feature = "pg18"))]
            let end = LogLogicalMessage(prefix, body, size, transactional, !transactional);
            end
        }
    };
    // SAFETY: one C call, nothing with a destructor inside; errors become panics that pgrx carries
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(call) }
}

/// Where the next WAL record will go.
pub fn insert_position() -> Lsn {
    // SAFETY: reads shared memory under a spinlock
    Lsn(unsafe { pg_sys::GetXLogInsertRecPtr() })
}
