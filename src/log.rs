//! The only way out for an error: kind (SQLSTATE), message, detail and hint, raised as one report.
//!
//! An `Err` that a function returns to PostgreSQL would be raised as "data exception" whatever it says, so the rooms
//! return a [`Failure`] and the outermost function raises it. A report never holds a connection string or a password.

use pgrx::prelude::PgSqlErrorCode;
use pgrx::{PgLogLevel, PostgresGucEnum};

use crate::receiver::LinkError;

use crate::pg::ErrorReport;
use crate::pg::trap::go_on_after;

pub type Result<T> = std::result::Result<T, Failure>;

/// An error on its way to the user.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub code: PgSqlErrorCode,
    /// Small first letter, no full stop, names in double quotes.
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

/// How loud something is told: the server's levels, but for those that end a statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PostgresGucEnum)]
pub enum LogLevel {
    #[name = c"debug5"]
    Debug5,
    #[name = c"debug4"]
    Debug4,
    #[name = c"debug3"]
    Debug3,
    #[name = c"debug2"]
    Debug2,
    #[name = c"debug1"]
    Debug1,
    #[name = c"info"]
    Info,
    #[name = c"notice"]
    Notice,
    #[name = c"warning"]
    Warning,
    #[name = c"log"]
    Log,
}

impl Failure {
    pub fn new(code: PgSqlErrorCode, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), detail: None, hint: None }
    }

    /// A whole sentence that says more about what was found.
    pub fn detail(mut self, detail: impl Into<String>) -> Failure {
        self.detail = Some(detail.into());
        self
    }

    /// A whole sentence that says what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// An error that came from elsewhere with the five characters of its SQLSTATE.
    pub fn with_sqlstate(sqlstate: &str, message: impl Into<String>) -> Failure {
        let code =
            sqlstate.bytes().rev().fold(0, |code, byte| code << 6 | ((i32::from(byte) - i32::from(b'0')) & 0x3F));
        Failure::new(PgSqlErrorCode::from(code), message)
    }

    /// The five characters of the SQLSTATE.
    pub fn sqlstate(&self) -> String {
        let code = self.code as i32;
        (0..5).map(|i| char::from(b'0' + (code >> (6 * i) & 0x3F) as u8)).collect()
    }

    fn report(self) -> ErrorReport {
        let mut report = ErrorReport::new(self.code, self.message, "meld");
        if let Some(detail) = self.detail {
            report = report.set_detail(detail);
        }
        if let Some(hint) = self.hint {
            report = report.set_hint(hint);
        }
        report
    }

    /// Ends the current statement, or the current worker, with this error.
    pub fn raise(self) -> ! {
        self.report().report(PgLogLevel::ERROR);
        unreachable!("a report at level ERROR does not return")
    }

    /// Writes it to the server log (and to a client that wants warnings) and goes on.
    pub fn warn(self) {
        go_on_after(self.report(), PgLogLevel::WARNING);
    }

    /// Writes it to the server log only.
    pub fn log(self) {
        go_on_after(self.report(), PgLogLevel::LOG);
    }

    /// Writes it to the server log, at a level below ERROR, and goes on.
    pub fn log_at(self, level: LogLevel) {
        // the server's own code for a warning of no special kind
        let code = if level == LogLevel::Warning { PgSqlErrorCode::ERRCODE_WARNING } else { self.code };
        let level = match level {
            LogLevel::Debug5 => PgLogLevel::DEBUG5,
            LogLevel::Debug4 => PgLogLevel::DEBUG4,
            LogLevel::Debug3 => PgLogLevel::DEBUG3,
            LogLevel::Debug2 => PgLogLevel::DEBUG2,
            LogLevel::Debug1 => PgLogLevel::DEBUG1,
            LogLevel::Info => PgLogLevel::INFO,
            LogLevel::Notice => PgLogLevel::NOTICE,
            LogLevel::Warning => PgLogLevel::WARNING,
            LogLevel::Log => PgLogLevel::LOG,
        };
        go_on_after(Failure { code, ..self }.report(), level);
    }

    /// Tells the client only, and goes on.
    pub fn notice(self) {
        go_on_after(self.report(), PgLogLevel::NOTICE);
    }
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Failure {
        let failure = Failure::with_sqlstate(error.sqlstate(), error.to_string());
        Failure { detail: error.detail(), hint: error.hint(), ..failure }
    }
}

/// Gives the value, or raises the failure.
pub fn or_raise<T>(result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(failure) => failure.raise(),
    }
}

impl From<pgrx::spi::SpiError> for Failure {
    fn from(error: pgrx::spi::SpiError) -> Failure {
        Failure::new(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, format!("query on meld's catalog failed: {error}"))
    }
}
