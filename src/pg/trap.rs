//! Catching errors of the server at the outermost frame of a worker.

use std::panic::AssertUnwindSafe;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::PgTryBuilder;
use pgrx::{PgLogLevel, pg_sys};

use super::ErrorReport;
use crate::log::{Failure, Result};

/// Runs `work`; an ERROR of the server or a panic inside becomes a [`Failure`], and the transaction that was open is
/// aborted. What `work` was changing must not be used afterwards.
pub fn trap<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let outcome = PgTryBuilder::new(AssertUnwindSafe(work))
        .catch_others(|caught| Err(failure_of(&caught)))
        .catch_rust_panic(|caught| Err(failure_of(&caught)))
        .execute();
    if outcome.is_err() {
        // SAFETY: main thread; does nothing outside of a transaction
        unsafe { pg_sys::AbortOutOfAnyTransaction() };
    }
    outcome
}

/// Writes a report below level ERROR. A request to cancel stays pending meanwhile: at its end such a report looks for
/// one and would raise it right out of C code that pgrx calls unguarded, over the Rust frames up to the next handler of
/// the server, past [`trap`] and everything that has to be dropped.
pub fn go_on_after(report: ErrorReport, level: PgLogLevel) {
    // SAFETY: main thread; nothing below ERROR raises while cancelling is held off, so the count is put back
    unsafe {
        pg_sys::QueryCancelHoldoffCount += 1;
        report.report(level);
        pg_sys::QueryCancelHoldoffCount -= 1;
    }
}

fn failure_of(caught: &CaughtError) -> Failure {
    let report = match caught {
        CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. } => report,
    };
    Failure {
        code: report.sql_error_code(),
        message: report.message().to_owned(),
        detail: report.detail().map(str::to_owned),
        hint: report.hint().map(str::to_owned),
    }
}
