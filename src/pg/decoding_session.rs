//! What a process that decodes must be and know: its settings for text output, a transaction to read the catalog in,
//! and facts about its server and database.

use std::ffi::{CStr, c_char, c_int};

use pgrx::pg_sys;
use pgrx::prelude::PgSqlErrorCode;

use crate::log::{Failure, Result};

/// Runs `work`, which reads the catalog, in the transaction that is open, or in one of its own: a walsender has none
/// when it starts to decode.
pub fn in_catalog_transaction<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: main thread of a process that is connected to a database; committing or the error's clean-up ends the
    // transaction. The current memory context is put back, since both ends of a transaction change it
    unsafe {
        if pg_sys::IsTransactionState() {
            return work();
        }
        let outside = pg_sys::CurrentMemoryContext;
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        let result = work();
        pg_sys::CommitTransactionCommand();
        pg_sys::CurrentMemoryContext = outside;
        result
    }
}

/// Settings under which the text form of a value is read the same way on any server.
///
/// A walsender keeps them until its connection ends. A backend that decodes for an SQL function gets its own settings
/// back when decoding ends, or with the abort of its transaction.
pub struct TextFormats {
    nest_level: Option<c_int>,
}

impl TextFormats {
    const SETTINGS: [(&CStr, &CStr); 6] = [
        (c"datestyle", c"ISO, YMD"),
        (c"intervalstyle", c"postgres"),
        (c"extra_float_digits", c"3"),
        (c"bytea_output", c"hex"),
        (c"lc_monetary", c"C"),
        // names in values of reg* types are written with their schema
        (c"search_path", c""),
    ];

    pub fn set() -> TextFormats {
        // SAFETY: main thread; a nest level may be opened in any transaction, and outside of one a plain set is right
        let nest_level = unsafe { pg_sys::IsTransactionState().then(|| pg_sys::NewGUCNestLevel()) };
        let action =
            if nest_level.is_some() { pg_sys::GucAction::GUC_ACTION_SAVE } else { pg_sys::GucAction::GUC_ACTION_SET };
        for (name, value) in Self::SETTINGS {
            // SAFETY: C strings; settings that every user may change, with values that every version takes
            unsafe {
                pg_sys::set_config_option(
                    name.as_ptr(),
                    value.as_ptr(),
                    pg_sys::GucContext::PGC_USERSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    action,
                    true,
                    0,
                    false,
                );
            }
        }
        TextFormats { nest_level }
    }

    /// Gives an SQL session its own settings back.
    pub fn restore(&mut self) {
        if let Some(nest_level) = self.nest_level.take() {
            // SAFETY: the level was opened by `set` in this transaction, and all that was opened since is closed
            unsafe { pg_sys::AtEOXact_GUC(true, nest_level) }
        }
    }
}

/// Values leave in the database encoding, but the send functions of text-like types convert to the client's: they must
/// be the same. A walsender is made so; a session of a user is not changed under its owner's hands.
pub fn require_database_encoding() -> Result<()> {
    // SAFETY: main thread; plain look-ups of this process's state
    let (client, database) = unsafe { (pg_sys::pg_get_client_encoding(), pg_sys::GetDatabaseEncoding()) };
    if client == database {
        return Ok(());
    }
    // SAFETY: as above
    if unsafe { pg_sys::am_walsender } {
        // SAFETY: C strings; no conversion is needed for the database's own encoding, so this can't fail
        unsafe {
            pg_sys::SetConfigOption(
                c"client_encoding".as_ptr(),
                pg_sys::GetDatabaseEncodingName(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
            );
        }
        return Ok(());
    }
    let database = database_encoding();
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "changes can be decoded in the encoding of the database only",
    )
    .hint(format!("Execute SET client_encoding = '{database}' first.")))
}

/// Name of the database's encoding.
pub fn database_encoding() -> String {
    // SAFETY: a static string
    unsafe { ascii(pg_sys::GetDatabaseEncodingName()) }
}

/// `server_version_num` of the running server.
pub fn server_version() -> u32 {
    // SAFETY: a setting that is always there; its value is a string that lives until the next call
    let text = unsafe { ascii(pg_sys::GetConfigOption(c"server_version_num".as_ptr(), false, false)) };
    text.parse().unwrap_or(pg_sys::PG_VERSION_NUM)
}

/// The cluster's number, drawn when it was made.
pub fn system_identifier() -> u64 {
    // SAFETY: reads the control file's copy in shared memory
    unsafe { pg_sys::GetSystemIdentifier() }
}

/// Name of the database that this process is connected to. Needs a transaction.
pub fn database_name() -> String {
    // SAFETY: in a transaction of a process that is connected to a database; a copy in the current memory context
    let name = unsafe { pg_sys::get_database_name(pg_sys::MyDatabaseId) };
    if name.is_null() {
        return String::new();
    }
    // SAFETY: a C string
    to_utf8(unsafe { CStr::from_ptr(name) }.to_bytes())
}

/// A name in the database's encoding as UTF-8. Needs catalog access if the encoding is another.
pub fn to_utf8(name: &[u8]) -> String {
    let utf8 = pg_sys::pg_enc::PG_UTF8 as c_int;
    // SAFETY: a plain look-up
    if name.is_ascii() || unsafe { pg_sys::GetDatabaseEncoding() } == utf8 {
        return String::from_utf8_lossy(name).into_owned();
    }
    let length = c_int::try_from(name.len()).unwrap_or(c_int::MAX);
    // SAFETY: so many bytes; gives the same pointer back if there is nothing to convert, else a C string in the current
    // memory context
    let converted = unsafe {
        let start = name.as_ptr().cast::<c_char>();
        let end = pg_sys::pg_server_to_any(start, length, utf8);
        if end.cast_const() == start { name } else { CStr::from_ptr(end).to_bytes() }
    };
    String::from_utf8_lossy(converted).into_owned()
}

/// # Safety
/// A C string.
unsafe fn ascii(text: *const c_char) -> String {
    // SAFETY: see above
    String::from_utf8_lossy(unsafe { CStr::from_ptr(text) }.to_bytes()).into_owned()
}
