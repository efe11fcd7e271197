//! Checks of arguments, each with the error of a bad one.

use pgrx::prelude::PgSqlErrorCode;

use crate::log::{Failure, Result};
use crate::pg::server::is_superuser;
use crate::pg::types::Name;
use crate::receiver::LinkError;

/// A name of this length may have been cut by the type `name`.
const CUT_NAME_BYTES: usize = 63;

/// The argument, unless it is NULL.
pub fn given<T>(value: Option<T>, argument: &str) -> Result<T> {
    value.ok_or_else(|| {
        Failure::new(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            format!("argument \"{argument}\" must not be null"),
        )
    })
}

/// The name of something that should exist.
pub fn name(value: Option<Name>, argument: &str) -> Result<String> {
    let Name(name) = given(value, argument)?;
    if name.is_empty() {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_INVALID_NAME,
            format!("argument \"{argument}\" must not be empty"),
        ));
    }
    Ok(name)
}

/// The name of something new: one that can't have been cut on its way here.
pub fn new_name(value: Option<Name>, argument: &str) -> Result<String> {
    let name = name(value, argument)?;
    if name.len() >= CUT_NAME_BYTES {
        return Err(Failure::new(PgSqlErrorCode::ERRCODE_NAME_TOO_LONG, format!("name \"{name}\" is too long"))
            .detail(format!("Longer names are cut to {CUT_NAME_BYTES} bytes, so this may not be what was written."))
            .hint(format!("Use at most {} bytes.", CUT_NAME_BYTES - 1)));
    }
    Ok(name)
}

/// A list without NULLs in it.
pub fn list(value: Option<Vec<Option<String>>>, argument: &str) -> Result<Vec<String>> {
    given(value, argument)?.into_iter().collect::<Option<Vec<String>>>().ok_or_else(|| {
        Failure::new(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            format!("argument \"{argument}\" must not contain null"),
        )
    })
}

/// Refuses something that this version does not do yet.
pub fn not_supported(what: &str) -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, format!("{what} is not supported yet"))
}

pub fn refuse_if(asked_for: bool, what: &str) -> Result<()> {
    if asked_for { Err(not_supported(what)) } else { Ok(()) }
}

/// Connection strings are used by this server's own account, so only a superuser may bring one.
pub fn require_superuser(what: &str) -> Result<()> {
    if is_superuser() {
        return Ok(());
    }
    Err(Failure::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, format!("permission denied to {what}"))
        .hint("Must be superuser."))
}

/// A connection string that libpq can read.
pub fn dsn(value: Option<String>, argument: &str) -> Result<String> {
    let dsn = given(value, argument)?;
    crate::receiver::check_dsn(&dsn).map_err(|error| link_failure(&error, None))?;
    Ok(dsn)
}

/// An error of a connection to a peer, with `doing` in front of what it says.
pub fn link_failure(error: &LinkError, doing: Option<&str>) -> Failure {
    let message = match doing {
        Some(doing) => format!("{doing}: {error}"),
        None => error.to_string(),
    };
    let mut failure = Failure::new(code(error.sqlstate()), message);
    failure.detail = error.detail();
    failure.hint = error.hint();
    failure
}

/// A SQLSTATE of five characters as the server's number for it.
fn code(sqlstate: &str) -> PgSqlErrorCode {
    let packed = sqlstate
        .bytes()
        .take(5)
        .enumerate()
        .fold(0, |code, (place, byte)| code | i32::from(byte.wrapping_sub(b'0') & 0x3f) << (6 * place));
    PgSqlErrorCode::from(packed)
}
