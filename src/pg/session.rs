//! Settings of an apply worker's session, which must not depend on what a database or a role was given as default.

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::worker::set_for_session;

const FOR_APPLY: [(&CStr, &CStr); 16] = [
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
    (c"lc_monetary", c"C"),
    // what input functions make of a text must not depend on it either
    (c"xmloption", c"content"),
    (c"array_nulls", c"on"),
    (c"statement_timeout", c"0"),
    (c"lock_timeout", c"0"),
    (c"idle_in_transaction_session_timeout", c"0"),
    (c"row_security", c"on"),
];

static IS_FOR_APPLY: AtomicBool = AtomicBool::new(false);

/// Whether this process is an apply worker.
pub fn is_for_apply() -> bool {
    IS_FOR_APPLY.load(Ordering::Relaxed)
}

/// Sets them for the life of the process.
pub fn prepare_for_apply() {
    IS_FOR_APPLY.store(true, Ordering::Relaxed);
    FOR_APPLY.iter().for_each(|(name, value)| set_for_session(name, value));
}
