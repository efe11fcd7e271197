//! `cargo x install-dev` and `cargo x install`: build the extension and put it into a server.
//!
//! `install-dev` writes to the private tree only (see [`crate::tree`]). `install` is the one command that writes to the
//! system's PostgreSQL.

use crate::pg::{self, Major};
use crate::repo;
use crate::run;
use crate::tree::Tree;
use anyhow::{Result, ensure};
use nix::unistd::geteuid;
use std::path::Path;
use std::process::Command;

/// Prints the tree's folder on standard output, everything else goes to standard error.
pub fn install_dev(release: bool) -> Result<()> {
    println!("{}", into_tree(pg::installed()?, release)?.dir.display());
    Ok(())
}

/// Installs the extension into the private tree that tests and the demo share.
///
/// The development build is the default for both: dependencies are optimised in it as well (`profile.dev.package`),
/// and one build less is worth minutes on a small machine.
pub fn into_tree(major: Major, release: bool) -> Result<Tree> {
    let tree = Tree::ready(major, &major.feature())?;
    tree.remove_extension()?;
    // The tree is the answer on standard output; the progress of the build goes to the other one.
    run::run(pgrx_install(&tree.pg_config(), release).stdout(std::io::stderr()))?;
    Ok(tree)
}

pub fn install_system() -> Result<()> {
    let major = pg::installed()?;
    let mut command = pgrx_install(&major.system_pg_config(), true);
    if !geteuid().is_root() {
        ensure!(run::have_program("sudo"), "installing into the system needs root, and there is no sudo");
        command.arg("--sudo");
    }
    run::run_interactive(&mut command)?;
    eprintln!(
        "\nmeld is installed for PostgreSQL {}. Every server that shall use it needs in its postgresql.conf\n\
         shared_preload_libraries = 'meld', wal_level = logical, track_commit_timestamp = on, and a restart.",
        major.0
    );
    Ok(())
}

/// `cargo pgrx`, told not to build every crate with linker flags of its own: build.rs has them for the one library
/// that needs them, and so the same build of all dependencies serves tests and installation.
pub fn cargo_pgrx() -> Command {
    let mut command = Command::new("cargo");
    command.arg("pgrx").current_dir(repo::root()).env("CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND", "1");
    command
}

fn pgrx_install(pg_config: &Path, release: bool) -> Command {
    let mut command = cargo_pgrx();
    command.args(["install", "--package", "meld", "--pg-config"]).arg(pg_config);
    if release {
        command.arg("--release");
    }
    command
}
