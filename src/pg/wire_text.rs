//! Values of the stream as text, for people: a binary one goes through its type.

use pgrx::pg_sys;
use pgrx::prelude::PgTryBuilder;
use std::ffi::CStr;

use super::columns::copy_terminated;

/// The text of a binary value of a type, as its output function writes it; `None` if it is none of that type's.
///
/// An error is caught here, outside of any subtransaction: a receive or output function of a base type has nothing open
/// when it raises but memory.
pub fn text_of(type_oid: u32, modifier: i32, bytes: &[u8]) -> Option<String> {
    // SAFETY: main thread; a global that the catch below puts back
    let context = unsafe { pg_sys::CurrentMemoryContext };
    PgTryBuilder::new(|| {
        // SAFETY: inside a transaction; the buffer is a private, NUL-terminated copy, and what comes back a C string
        unsafe {
            let (mut receive, mut param) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
            let (mut output, mut is_varlena) = (pg_sys::InvalidOid, false);
            let type_oid = pg_sys::Oid::from(type_oid);
            pg_sys::getTypeBinaryInputInfo(type_oid, &mut receive, &mut param);
            pg_sys::getTypeOutputInfo(type_oid, &mut output, &mut is_varlena);
            let length = i32::try_from(bytes.len()).unwrap_or(0);
            let mut buffer = pg_sys::StringInfoData {
                data: copy_terminated(bytes),
                len: length,
                maxlen: length.saturating_add(1),
                cursor: 0,
            };
            let value = pg_sys::OidReceiveFunctionCall(receive, &mut buffer, param, modifier);
            let text = pg_sys::OidOutputFunctionCall(output, value);
            Some(CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    })
    .catch_others(|_| {
        // SAFETY: the context that was current before, which lives on
        unsafe { pg_sys::MemoryContextSwitchTo(context) };
        None
    })
    .execute()
}
