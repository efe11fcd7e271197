//! The second fence: every call of libpq (declared in `ffi`) and of the system (`system`), with safe types around them.
//!
//! A [`Connection`] owns its `PGconn` and an [`Answer`] its `PGresult`; both are freed by `Drop`, also when a panic or a
//! query cancel unwinds through their owner. A connection is used by one thread at a time, which is all that libpq asks.
//! Everything here returns at once: waiting is the callers' business (`exec`), so that they can be stopped.
//! Nothing but this module and `src/pg` may be unsafe.

mod ffi;
mod system;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};
use std::time::Duration;

use super::error::RemoteError;
use ffi::*;
pub use system::{Want, poll, with_signals_blocked};

/// How far an attempt to connect is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    Connected,
    Waiting(Want),
    Failed,
}

/// What the next piece of a copy stream is.
#[derive(PartialEq, Eq, Debug)]
pub enum CopyData<'a> {
    Payload(&'a [u8]),
    /// Nothing complete has arrived.
    Wait,
    /// The stream is over; the next answer says why.
    Ended,
}

/// Copies a C string that libpq owns; `None` for null.
///
/// # Safety
/// The text is null, or NUL-terminated and alive.
unsafe fn owned(text: *const c_char) -> Option<String> {
    // SAFETY: the caller's promise
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// The options that a connection string names, as keyword and value; nothing if it can't be parsed.
pub fn parse_dsn(dsn: &CStr) -> Option<Vec<(String, String)>> {
    let mut message = ptr::null_mut();
    // SAFETY: dsn is NUL-terminated; libpq writes null or an allocated text, which we own, to message
    let options = unsafe { PQconninfoParse(dsn.as_ptr(), &mut message) };
    // SAFETY: message is null, which is allowed, or was allocated by libpq and is freed once; it is not looked at,
    // because it repeats the connection string
    unsafe { PQfreemem(message.cast()) };
    take_options(options)
}

/// Copies and frees an array of options.
fn take_options(options: *mut PQconninfoOption) -> Option<Vec<(String, String)>> {
    if options.is_null() {
        return None;
    }
    let mut given = Vec::new();
    let mut at = options;
    // SAFETY: the array that libpq made ends with an element whose keyword is null; at stays inside it
    while let Some(keyword) = unsafe { owned((*at).keyword) } {
        // SAFETY: as above; not the last element, so the next one exists
        let (value, next) = unsafe { (owned((*at).val), at.add(1)) };
        given.extend(value.map(|value| (keyword, value)));
        at = next;
    }
    // SAFETY: options came from PQconninfoParse or PQconninfo and is freed once
    unsafe { PQconninfoFree(options) };
    Some(given)
}

extern "C" fn ignore_notice(_: *mut c_void, _: *const PGresult) {}

/// A connection to a server, in whatever state.
pub struct Connection {
    conn: NonNull<PGconn>,
    /// The last payload of a copy stream, allocated by libpq.
    payload: *mut c_char,
}

// SAFETY: libpq lets a PGconn be used by any thread, one at a time, which &mut guarantees; payload is plain memory
unsafe impl Send for Connection {}

impl Drop for Connection {
    fn drop(&mut self) {
        self.free_payload();
        // SAFETY: conn is alive and finished once, here; PQfinish sends what it can without waiting
        unsafe { PQfinish(self.conn.as_ptr()) }
    }
}

impl Connection {
    /// Begins to connect; of two parameters with one name the later counts. `None` when memory is out.
    pub fn start(parameters: &[(CString, CString)]) -> Option<Connection> {
        let ends = || std::iter::once(ptr::null());
        let keys: Vec<*const c_char> = parameters.iter().map(|(key, _)| key.as_ptr()).chain(ends()).collect();
        let values: Vec<*const c_char> = parameters.iter().map(|(_, value)| value.as_ptr()).chain(ends()).collect();
        // SAFETY: both arrays end with null and outlive the call, which copies what it needs
        let conn = NonNull::new(unsafe { PQconnectStartParams(keys.as_ptr(), values.as_ptr(), 0) })?;
        const VERBOSE: c_int = 2;
        // SAFETY: conn is alive; the receiver is a plain function that needs no argument
        unsafe {
            PQsetErrorVerbosity(conn.as_ptr(), VERBOSE);
            PQsetNoticeReceiver(conn.as_ptr(), ignore_notice, ptr::null_mut());
        }
        Some(Connection { conn, payload: ptr::null_mut() })
    }

    /// Goes on connecting; to be called when what the last call wanted has happened.
    pub fn poll(&mut self) -> Progress {
        // SAFETY: conn is alive
        match unsafe { PQconnectPoll(self.conn.as_ptr()) } {
            1 => Progress::Waiting(Want::Read),
            2 => Progress::Waiting(Want::Write),
            3 => Progress::Connected,
            _ => Progress::Failed,
        }
    }

    pub fn is_bad(&self) -> bool {
        const BAD: c_int = 1;
        // SAFETY: conn is alive
        unsafe { PQstatus(self.conn.as_ptr()) == BAD }
    }

    /// Changes while connecting. Negative when there is none.
    pub fn socket(&self) -> RawFd {
        // SAFETY: conn is alive
        unsafe { PQsocket(self.conn.as_ptr()) }
    }

    pub fn host(&self) -> Option<String> {
        // SAFETY: conn is alive and keeps the text
        unsafe { owned(PQhost(self.conn.as_ptr())) }
    }

    pub fn port(&self) -> Option<String> {
        // SAFETY: conn is alive and keeps the text
        unsafe { owned(PQport(self.conn.as_ptr())) }
    }

    /// Every option in effect: those given, from the environment, a service file, and the defaults.
    pub fn options(&self) -> Vec<(String, String)> {
        // SAFETY: conn is alive; the array is ours
        take_options(unsafe { PQconninfo(self.conn.as_ptr()) }).unwrap_or_default()
    }

    /// Whether the server asked for a password and none was there.
    pub fn needs_password(&self) -> bool {
        // SAFETY: conn is alive
        unsafe { PQconnectionNeedsPassword(self.conn.as_ptr()) != 0 }
    }

    /// libpq's last words. They can repeat the connection string: for recognizing, never for showing.
    pub fn last_words(&self) -> String {
        // SAFETY: conn is alive and keeps the text
        unsafe { owned(PQerrorMessage(self.conn.as_ptr())) }.unwrap_or_default()
    }

    /// A setting that the server reports by itself.
    pub fn parameter(&self, name: &CStr) -> Option<String> {
        // SAFETY: conn is alive and keeps the text; name is NUL-terminated
        unsafe { owned(PQparameterStatus(self.conn.as_ptr(), name.as_ptr())) }
    }

    /// From here on nothing waits for the socket.
    pub fn set_nonblocking(&mut self) -> bool {
        // SAFETY: conn is alive
        unsafe { PQsetnonblocking(self.conn.as_ptr(), 1) == 0 }
    }

    /// Queues a statement in the simple protocol, the only one that replication connections speak.
    pub fn send_query(&mut self, sql: &CStr) -> bool {
        // SAFETY: conn is alive, sql is NUL-terminated and copied
        unsafe { PQsendQuery(self.conn.as_ptr(), sql.as_ptr()) == 1 && PQsetSingleRowMode(self.conn.as_ptr()) == 1 }
    }

    /// Queues a statement with parameters in text form, their types chosen by the server.
    pub fn send_query_params(&mut self, sql: &CStr, params: &[Option<CString>], form: Form) -> bool {
        let Ok(count) = c_int::try_from(params.len()) else { return false };
        let values: Vec<*const c_char> =
            params.iter().map(|param| param.as_ref().map_or(ptr::null(), |text| text.as_ptr())).collect();
        let format = match form {
            Form::Text => 0,
            Form::Binary => 1,
        };
        // SAFETY: conn is alive; values has count elements, each null or NUL-terminated; all is copied. Null for types,
        // lengths and formats means chosen by the server, not needed for text, and all text
        unsafe {
            PQsendQueryParams(
                self.conn.as_ptr(),
                sql.as_ptr(),
                count,
                ptr::null(),
                values.as_ptr(),
                ptr::null(),
                ptr::null(),
                format,
            ) == 1
                && PQsetSingleRowMode(self.conn.as_ptr()) == 1
        }
    }

    /// Whether all that was queued is gone; nothing when the connection is lost.
    pub fn flush(&mut self) -> Option<bool> {
        // SAFETY: conn is alive
        match unsafe { PQflush(self.conn.as_ptr()) } {
            0 => Some(true),
            1 => Some(false),
            _ => None,
        }
    }

    /// Whether bytes can have left the socket that libpq has not got yet, because they wait in a decrypted record. The
    /// socket does not become readable for them, so whoever waits for it has to look again after a moment.
    pub fn is_encrypted(&mut self) -> bool {
        // SAFETY: conn is alive
        unsafe { PQsslInUse(self.conn.as_ptr()) != 0 || PQgssEncInUse(self.conn.as_ptr()) != 0 }
    }

    /// Reads what has arrived; whether the connection still stands. What came before it broke can still be taken.
    pub fn consume_input(&mut self) -> bool {
        /// A call reads 8 kB or more if they are there, a record has at most 16 kB.
        const CALLS_PER_RECORD: usize = 3;
        /// So that a fast server can't hold the caller here; while the socket is readable, nothing is missed.
        const RECORDS: usize = 8;
        let (calls, rounds) = if self.is_encrypted() { (CALLS_PER_RECORD, RECORDS) } else { (1, 1) };
        for _ in 0..rounds {
            // SAFETY: conn is alive
            if (0..calls).any(|_| unsafe { PQconsumeInput(self.conn.as_ptr()) } != 1) {
                return false;
            }
            if rounds > 1 && !poll([(self.socket(), Want::Read)], Some(Duration::ZERO))[0] {
                break;
            }
        }
        true
    }

    /// Whether [`Connection::answer`] would wait.
    pub fn is_busy(&mut self) -> bool {
        // SAFETY: conn is alive
        unsafe { PQisBusy(self.conn.as_ptr()) == 1 }
    }

    /// The next answer to the current statement, if there is one more.
    pub fn answer(&mut self) -> Option<Answer> {
        // SAFETY: conn is alive; the result, if any, is ours
        NonNull::new(unsafe { PQgetResult(self.conn.as_ptr()) }).map(Answer)
    }

    /// Queues a piece of a copy stream.
    pub fn put_copy_data(&mut self, payload: &[u8]) -> bool {
        let Ok(length) = c_int::try_from(payload.len()) else { return false };
        // SAFETY: conn is alive, payload has length bytes and is copied
        unsafe { PQputCopyData(self.conn.as_ptr(), payload.as_ptr().cast(), length) == 1 }
    }

    /// The next piece of a copy stream among what was read.
    pub fn copy_data(&mut self) -> CopyData<'_> {
        self.free_payload();
        // SAFETY: conn is alive; libpq writes null or an allocated buffer, which we own, to payload
        let length = unsafe { PQgetCopyData(self.conn.as_ptr(), &mut self.payload, 1) };
        match usize::try_from(length) {
            Ok(0) => CopyData::Wait,
            // SAFETY: payload has length bytes, which stay until the next call, and that needs &mut self
            Ok(length) => CopyData::Payload(unsafe { std::slice::from_raw_parts(self.payload.cast(), length) }),
            Err(_) => CopyData::Ended,
        }
    }

    fn free_payload(&mut self) {
        // SAFETY: payload is null, which is allowed, or was allocated by libpq and is freed once
        unsafe { PQfreemem(self.payload.cast()) };
        self.payload = ptr::null_mut();
    }

    /// What is needed to cancel the current statement, by whatever thread.
    pub fn canceller(&mut self) -> Option<Canceller> {
        // SAFETY: conn is alive; the copy is ours and does not refer to conn
        NonNull::new(unsafe { PQgetCancel(self.conn.as_ptr()) }).map(Canceller)
    }
}

/// The address and secret of one server process.
pub struct Canceller(NonNull<PGcancel>);

// SAFETY: a PGcancel is plain memory that nothing else refers to; PQcancel is made for any thread
unsafe impl Send for Canceller {}

impl Drop for Canceller {
    fn drop(&mut self) {
        // SAFETY: ours, freed once
        unsafe { PQfreeCancel(self.0.as_ptr()) }
    }
}

impl Canceller {
    /// Asks the server to cancel. Connects anew and waits for that.
    pub fn cancel(&self) {
        let mut message: [c_char; 256] = [0; 256];
        // SAFETY: the cancel object is alive, message has the length that is told. Whether it came to anything shows in
        // the statement's end
        unsafe { PQcancel(self.0.as_ptr(), message.as_mut_ptr(), 256) };
    }
}

/// How an answer's values are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    Text,
    Binary,
}

/// What an answer is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AnswerKind {
    /// A command without rows is done.
    Done,
    /// Rows; the last set of them may be empty.
    Rows,
    CopyBoth,
    Error,
    Other,
}

/// One answer to a statement.
pub struct Answer(NonNull<PGresult>);

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: ours, cleared once
        unsafe { PQclear(self.0.as_ptr()) }
    }
}

impl Answer {
    pub fn kind(&self) -> AnswerKind {
        // SAFETY: the result is alive
        match unsafe { PQresultStatus(self.0.as_ptr()) } {
            1 => AnswerKind::Done,
            2 | 9 => AnswerKind::Rows,
            8 => AnswerKind::CopyBoth,
            5 | 7 => AnswerKind::Error,
            _ => AnswerKind::Other,
        }
    }

    /// The error as the server reported it; nothing if it is libpq's own.
    pub fn remote_error(&self) -> Option<RemoteError> {
        // SAFETY: the result is alive and keeps the text
        let field = |name: u8| unsafe { owned(PQresultErrorField(self.0.as_ptr(), c_int::from(name))) };
        let (sqlstate, message) = (field(b'C')?, field(b'M')?);
        Some(RemoteError { sqlstate, message, detail: field(b'D'), hint: field(b'H') })
    }

    /// All rows, copied; nothing for a text that is not UTF-8.
    pub fn rows(&self) -> Option<Vec<Vec<Option<String>>>> {
        let result = self.0.as_ptr();
        // SAFETY: the result is alive
        let (rows, columns) = unsafe { (PQntuples(result), PQnfields(result)) };
        (0..rows).map(|row| (0..columns).map(|column| self.value(row, column)).collect()).collect()
    }

    /// All rows, copied, as the bytes that came.
    pub fn raw_rows(&self) -> Vec<Vec<Option<Vec<u8>>>> {
        let result = self.0.as_ptr();
        // SAFETY: the result is alive
        let (rows, columns) = unsafe { (PQntuples(result), PQnfields(result)) };
        let row = |row| (0..columns).map(|column| self.bytes(row, column).map(<[u8]>::to_vec)).collect();
        (0..rows).map(row).collect()
    }

    /// One value: outer `None` when it is not UTF-8, inner for null.
    fn value(&self, row: c_int, column: c_int) -> Option<Option<String>> {
        match self.bytes(row, column) {
            None => Some(None),
            Some(bytes) => Some(Some(std::str::from_utf8(bytes).ok()?.to_owned())),
        }
    }

    fn bytes(&self, row: c_int, column: c_int) -> Option<&[u8]> {
        let result = self.0.as_ptr();
        // SAFETY: the result is alive; row and column are within its bounds; value has length bytes until PQclear
        unsafe {
            if PQgetisnull(result, row, column) != 0 {
                return None;
            }
            let length = usize::try_from(PQgetlength(result, row, column)).unwrap_or(0);
            Some(std::slice::from_raw_parts(PQgetvalue(result, row, column).cast::<u8>(), length))
        }
    }
}
