//! Tools of the Rust side: rustfmt and clippy, cargo-pgrx in the pinned version, and its configuration.

use super::PGRX_VERSION;
use crate::pg::Major;
use crate::run::{self, have_program};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A toolchain installed with the minimal profile has neither.
pub fn install_rust_components() -> Result<()> {
    for (component, subcommand) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if run::capture(Command::new("cargo").args([subcommand, "--version"])).is_ok() {
            continue;
        }
        if !have_program("rustup") {
            bail!("`cargo {subcommand}` is missing, and there is no rustup to install {component} with");
        }
        eprintln!("setup: adding {component} to the Rust toolchain");
        run::run(Command::new("rustup").args(["component", "add", component]))?;
    }
    Ok(())
}

pub fn install_cargo_pgrx() -> Result<()> {
    let version = run::capture(Command::new("cargo").args(["pgrx", "--version"])).unwrap_or_default();
    if version.split_whitespace().last() == Some(PGRX_VERSION) {
        return Ok(());
    }
    eprintln!("setup: installing cargo-pgrx {PGRX_VERSION}, which takes some minutes");
    let mut command = Command::new("cargo");
    command.args(["install", "--locked", "cargo-pgrx", "--version", &format!("={PGRX_VERSION}")]);
    // Not in the repository, whose cargo configuration is not meant for it.
    run::run(command.current_dir("/"))
}

/// Tells pgrx about the server, which the build of its bindings asks for. Majors it knows already stay known.
pub fn init_pgrx(major: Major) -> Result<()> {
    let config = pgrx_home()?.join("config.toml");
    let mut known = read_config(&fs::read_to_string(config).unwrap_or_default());
    known.retain(|_, pg_config| Path::new(pg_config).is_file());
    if known.contains_key(&major.feature()) {
        return Ok(());
    }
    eprintln!("setup: making PostgreSQL {} known to pgrx", major.0);
    known.insert(major.feature(), major.system_pg_config().display().to_string());
    let mut command = Command::new("cargo");
    command.args(["pgrx", "init"]);
    for (label, pg_config) in known {
        command.arg(format!("--{label}")).arg(pg_config);
    }
    run::run(&mut command)
}

fn pgrx_home() -> Result<PathBuf> {
    match std::env::var_os("PGRX_HOME") {
        Some(home) => Ok(home.into()),
        None => Ok(std::env::home_dir().context("there is no home folder: set PGRX_HOME")?.join(".pgrx")),
    }
}

/// The lines `pg15 = "/path/to/pg_config"` of pgrx' configuration.
fn read_config(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let entries = pairs.map(|(label, path)| (label.trim().to_owned(), path.trim().trim_matches('"').to_owned()));
    entries.filter(|(label, _)| label.strip_prefix("pg").is_some_and(|major| major.parse::<u16>().is_ok())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majors_that_pgrx_knows_are_read() {
        let text = "base_port = 28800\n[configs]\npg15 = \"/usr/lib/postgresql/15/bin/pg_config\"\npg17=\"/x y\"\n";
        let known = read_config(text);
        assert_eq!(known.len(), 2);
        assert_eq!(known["pg15"], "/usr/lib/postgresql/15/bin/pg_config");
        assert_eq!(known["pg17"], "/x y");
    }

    #[test]
    fn the_pinned_version_is_the_one_in_the_manifest() {
        let manifest = fs::read_to_string(crate::repo::root().join("Cargo.toml")).unwrap();
        for package in ["pgrx", "pgrx-tests"] {
            let line = format!("{package} = \"={PGRX_VERSION}\"");
            assert!(manifest.contains(&line), "Cargo.toml has no line `{line}`");
        }
    }
}
