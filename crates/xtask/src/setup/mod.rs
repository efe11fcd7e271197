//! `cargo x setup`: what it takes to build and test meld, installed where it is missing.
//!
//! Every step looks first and does nothing when what it would install is there, so that the command may be run at any
//! time and is the first thing that `make test` and `make demo` do. Each thing that is done is said beforehand. On
//! Debian and Ubuntu packages are installed ([`packages`]); elsewhere the command says what is needed and fails.

mod packages;
mod tools;

use crate::pg::{self, Major};
use crate::run;
use anyhow::Result;
use std::process::Command;

/// The version of cargo-pgrx must be that of the crate `pgrx` in Cargo.toml.
const PGRX_VERSION: &str = "0.18.1";

pub fn setup() -> Result<()> {
    let major = prepare()?;
    let version = run::capture(Command::new(major.system_pg_config()).arg("--version"))?;
    eprintln!("setup: all is there: {version}, cargo-pgrx {PGRX_VERSION}");
    Ok(())
}

/// Installs what is missing and returns the major that will be used.
pub fn prepare() -> Result<Major> {
    packages::install_missing()?;
    let major = pg::installed()?;
    tools::install_rust_components()?;
    tools::install_cargo_pgrx()?;
    tools::init_pgrx(major)?;
    Ok(major)
}
