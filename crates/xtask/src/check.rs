//! `cargo x check`: format, clippy with warnings as errors, house rules, and the tests that need no server.
//!
//! Meant to be run before every commit: under two minutes once the dependencies are built, and no server is started.

use crate::pg::{self, Major};
use crate::repo;
use crate::run::{self, Stages};
use crate::tidy;
use anyhow::Result;
use std::process::Command;

pub fn check() -> Result<()> {
    let major = pg::installed()?;
    checks(major, &mut Stages::default())
}

/// The same checks as part of a longer command.
pub fn checks(major: Major, stages: &mut Stages) -> Result<()> {
    stages.stage("format", || run::run(cargo().args(["fmt", "--all", "--check"])))?;
    stages.stage("house rules", tidy::tidy_repository)?;
    stages.stage("clippy", || {
        let mut clippy = cargo();
        // With pg_test, so that the tests that run inside the server are read too.
        clippy.args(["clippy", "--workspace", "--all-targets", "--quiet"]).args(major.cargo_features(&["pg_test"]));
        run::run(clippy.args(["--", "--deny", "warnings"]))
    })?;
    stages.stage("tests without a server", || run::run(cargo().args(["test", "--quiet"]).args(serverless_packages())))
}

/// The packages whose tests need no server, those that exist.
pub fn serverless_packages() -> Vec<&'static str> {
    let packages = [("crates/core", "meld-core"), ("crates/sim", "meld-sim"), ("crates/xtask", "xtask")];
    let existing = packages.into_iter().filter(|(folder, _)| repo::root().join(folder).join("Cargo.toml").is_file());
    existing.flat_map(|(_, name)| ["--package", name]).collect()
}

pub fn cargo() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(repo::root());
    command
}
