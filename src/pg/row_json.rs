//! Rows as JSON text, for the history of conflicts.

use std::ffi::CStr;

use pgrx::pg_sys;

/// `pg_catalog.row_to_json(record)`.
const ROW_TO_JSON: pg_sys::Oid = pg_sys::Oid::from_u32(3155);

/// A row as JSON text.
///
/// # Safety
/// A composite value, inside a transaction.
pub(super) unsafe fn json_of(row: pg_sys::Datum) -> String {
    // SAFETY: see above; row_to_json needs no more of its caller, and what it gives is copied
    unsafe {
        let json = pg_sys::OidFunctionCall1Coll(ROW_TO_JSON, pg_sys::InvalidOid, row);
        let text = pg_sys::text_to_cstring(json.cast_mut_ptr());
        CStr::from_ptr(text).to_string_lossy().into_owned()
    }
}
