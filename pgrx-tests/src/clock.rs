//! Servers with a clock of their own: a small library (`clock.c`) in front of the C library, told by a file how far it
//! is off.
//!
//! The library is built once for all clusters. It is not libfaketime, whose state in a process that was forked out of a
//! signal handler, as PostgreSQL 15 starts its background workers, leaves that process with the true time. Only the time
//! of day is off: what measures how long something takes goes on. A server without such a clock is not touched.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::environment::{Environment, output};
use crate::port::Reservation;

const SOURCE: &str = include_str!("clock.c");

/// The clock of one server.
pub struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// A clock that is right until it is set.
    pub fn create(environment: &Environment, file: PathBuf) -> Result<Clock> {
        let clock = Clock { library: library(environment)?, file };
        clock.set(0)?;
        Ok(clock)
    }

    /// How far it is ahead from now on; negative: behind.
    pub fn set(&self, ahead_ms: i64) -> Result<()> {
        // in place: the server has the file mapped
        let mut file = std::fs::File::options().create(true).truncate(false).write(true).open(&self.file)?;
        std::io::Write::write_all(&mut file, &(ahead_ms * 1000).to_ne_bytes())?;
        Ok(())
    }

    /// Gives the clock to a program that is about to be started, and to its children.
    pub fn give(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("MELD_CLOCK_FILE", &self.file);
    }
}

fn library(environment: &Environment) -> Result<PathBuf> {
    let dir = environment.work.join("clock");
    environment.make_dir(&dir)?;
    let _building = Reservation::wait(&environment.work.join("locks"), "clock");
    let (source, library) = (dir.join("clock.c"), dir.join("clock.so"));
    let is_built = std::fs::read_to_string(&source).is_ok_and(|built| built == SOURCE) && library.exists();
    if !is_built {
        build(&source, &library)?;
    }
    Ok(library)
}

fn build(source: &Path, library: &Path) -> Result<()> {
    // a server that runs may have the old one mapped
    let _ = std::fs::remove_file(library);
    std::fs::write(source, SOURCE)?;
    output(Command::new("cc").args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"]).arg(library).arg(source))?;
    Ok(())
}
