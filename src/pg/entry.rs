//! Entry points of background workers: C functions that the server finds by name and calls with one argument.

use pgrx::{FromDatum, pg_sys};

/// What the server hands to an entry point.
pub type Argument = pg_sys::Datum;

/// The argument as the number that the worker was launched with.
pub fn number(argument: Argument) -> i32 {
    // SAFETY: launched workers get an int4 by value, which any Datum is
    unsafe { i32::from_datum(argument, false) }.unwrap_or(-1)
}

/// Exports a worker's entry point that runs a function of one `i32`.
#[macro_export]
macro_rules! worker_entry {
    ($name:ident => $run:path) => {
        #[doc = concat!("Entry point for the server; runs [`", stringify!($run), "`].")]
        #[unsafe(no_mangle)]
        #[pgrx::pg_guard]
        pub extern "C-unwind" fn $name(argument: $crate::pg::entry::Argument) {
            $run($crate::pg::entry::number(argument));
        }
    };
}
