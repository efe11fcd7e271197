//! The record of the clock in the data directory, which is every server process's working folder.
//!
//! Written beside the old one and renamed over it, each step flushed, so that there is always a whole one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;

use meld_core::clock::Record;
use pgrx::prelude::PgSqlErrorCode;

use crate::log::{Failure, Result};
use crate::pg::shmem::{Reserve, SharedTable};

const NAME: &str = "meld.clock";
const UNFINISHED: &str = "meld.clock.new";

/// Held by the one process that writes.
static WRITER: SharedTable<(), ()> = SharedTable::new(c"meld clock file");

pub fn reservation() -> &'static dyn Reserve {
    &WRITER
}

/// The record, if there is one. A damaged one is reported and counts as none: the transactions' own timestamps are there.
pub fn read() -> Option<Record> {
    let problem = match fs::read_to_string(NAME) {
        Ok(text) => match Record::parse(&text) {
            Some(record) => return Some(record),
            None => "it is damaged".to_owned(),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => error.to_string(),
    };
    Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, format!("could not read file \"{NAME}\": {problem}"))
        .detail("The latest commit timestamp is taken from the last transactions of the server.")
        .warn();
    None
}

/// Writes what `compose` gives, which is called while nobody else writes. Durable when this returns.
pub fn write(compose: impl FnOnce() -> Record) -> Result<Record> {
    let write = || -> io::Result<Record> {
        let record = compose();
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(UNFINISHED)?;
        file.write_all(record.to_text().as_bytes())?;
        file.sync_all()?;
        drop(file);
        fs::rename(UNFINISHED, NAME)?;
        File::open(".")?.sync_all()?;
        Ok(record)
    };
    match WRITER.write(|()| write()) {
        Some(Ok(record)) => Ok(record),
        Some(Err(error)) => Err(Failure::new(
            PgSqlErrorCode::ERRCODE_IO_ERROR,
            format!("could not write file \"{NAME}\" in the data directory: {error}"),
        )),
        None => Err(Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "meld is not in shared_preload_libraries",
        )),
    }
}
