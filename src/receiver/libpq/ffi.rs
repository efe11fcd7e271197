//! The functions of libpq that are called, as libpq-fe.h of PostgreSQL 15 declares them; later versions keep them so.

use std::ffi::{c_char, c_int, c_void};

/// `PGconn`, `PGresult` and `PGcancel` are known to libpq only.
macro_rules! opaque {
    ($($name:ident),*) => { $(#[repr(C)] pub struct $name { _private: [u8; 0] })* };
}
opaque!(PGconn, PGresult, PGcancel);

#[repr(C)]
pub struct PQconninfoOption {
    pub keyword: *const c_char,
    pub envvar: *const c_char,
    pub compiled: *const c_char,
    pub val: *const c_char,
    pub label: *const c_char,
    pub dispchar: *const c_char,
    pub dispsize: c_int,
}

pub type NoticeReceiver = extern "C" fn(*mut c_void, *const PGresult);

#[link(name = "pq")]
unsafe extern "C" {
    pub fn PQconninfoParse(conninfo: *const c_char, message: *mut *mut c_char) -> *mut PQconninfoOption;
    pub fn PQconninfo(conn: *mut PGconn) -> *mut PQconninfoOption;
    pub fn PQconninfoFree(options: *mut PQconninfoOption);
    pub fn PQfreemem(pointer: *mut c_void);
    pub fn PQconnectStartParams(keys: *const *const c_char, values: *const *const c_char, expand: c_int)
    -> *mut PGconn;
    pub fn PQconnectPoll(conn: *mut PGconn) -> c_int;
    pub fn PQfinish(conn: *mut PGconn);
    pub fn PQstatus(conn: *const PGconn) -> c_int;
    pub fn PQsocket(conn: *const PGconn) -> c_int;
    pub fn PQhost(conn: *const PGconn) -> *const c_char;
    pub fn PQport(conn: *const PGconn) -> *const c_char;
    pub fn PQconnectionNeedsPassword(conn: *const PGconn) -> c_int;
    pub fn PQerrorMessage(conn: *const PGconn) -> *const c_char;
    pub fn PQparameterStatus(conn: *const PGconn, name: *const c_char) -> *const c_char;
    pub fn PQsslInUse(conn: *mut PGconn) -> c_int;
    pub fn PQgssEncInUse(conn: *mut PGconn) -> c_int;
    pub fn PQsetErrorVerbosity(conn: *mut PGconn, verbosity: c_int) -> c_int;
    pub fn PQsetNoticeReceiver(conn: *mut PGconn, receiver: NoticeReceiver, arg: *mut c_void)
    -> Option<NoticeReceiver>;
    pub fn PQsetnonblocking(conn: *mut PGconn, on: c_int) -> c_int;
    pub fn PQsendQuery(conn: *mut PGconn, sql: *const c_char) -> c_int;
    pub fn PQsendQueryParams(
        conn: *mut PGconn,
        sql: *const c_char,
        count: c_int,
        types: *const u32,
        values: *const *const c_char,
        lengths: *const c_int,
        formats: *const c_int,
        result_format: c_int,
    ) -> c_int;
    pub fn PQsetSingleRowMode(conn: *mut PGconn) -> c_int;
    pub fn PQflush(conn: *mut PGconn) -> c_int;
    pub fn PQconsumeInput(conn: *mut PGconn) -> c_int;
    pub fn PQisBusy(conn: *mut PGconn) -> c_int;
    pub fn PQgetResult(conn: *mut PGconn) -> *mut PGresult;
    pub fn PQputCopyData(conn: *mut PGconn, buffer: *const c_char, length: c_int) -> c_int;
    pub fn PQgetCopyData(conn: *mut PGconn, buffer: *mut *mut c_char, nonblocking: c_int) -> c_int;
    pub fn PQclear(result: *mut PGresult);
    pub fn PQresultStatus(result: *const PGresult) -> c_int;
    pub fn PQresultErrorField(result: *const PGresult, field: c_int) -> *const c_char;
    pub fn PQntuples(result: *const PGresult) -> c_int;
    pub fn PQnfields(result: *const PGresult) -> c_int;
    pub fn PQgetisnull(result: *const PGresult, row: c_int, column: c_int) -> c_int;
    pub fn PQgetvalue(result: *const PGresult, row: c_int, column: c_int) -> *const c_char;
    pub fn PQgetlength(result: *const PGresult, row: c_int, column: c_int) -> c_int;
    pub fn PQgetCancel(conn: *mut PGconn) -> *mut PGcancel;
    pub fn PQfreeCancel(cancel: *mut PGcancel);
    pub fn PQcancel(cancel: *mut PGcancel, message: *mut c_char, length: c_int) -> c_int;
}
