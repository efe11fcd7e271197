//! Settings of an apply worker's session, which must not depend on what a database or a role was given as default.

use std::ffi::CStr;

use pgrx::pg_sys;

const FOR_APPLY: [(&CStr, &CStr); 13] = [
    // only triggers that are enabled for replicas fire
    (c"session_replication_role", c"replica"),
    // nothing is found by a name that somebody else may take
    (c"search_path", c""),
    // the flushed position is reported later instead
    (c"synchronous_commit", c"off"),
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_deferrable", c"off"),
    // the formats that the provider prints
    (c"datestyle", c"ISO, MDY"),
    (c"intervalstyle", c"postgres"),
    (c"extra_float_digits", c"3"),
    (c"statement_timeout", c"0"),
    (c"lock_timeout", c"0"),
    (c"idle_in_transaction_session_timeout", c"0"),
    (c"row_security", c"on"),
];

/// Sets them for the life of the process.
pub fn prepare_for_apply() {
    for (name, value) in FOR_APPLY {
        // SAFETY: main thread of a worker connected to a database; the server copies both texts
        unsafe {
            pg_sys::SetConfigOption(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_OVERRIDE,
            );
        }
    }
}
