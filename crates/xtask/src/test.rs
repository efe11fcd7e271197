//! `cargo x test`: everything that is tested, and nothing left behind.
//!
//! Stages: setup, the checks of `cargo x check`, the extension installed into the private tree, `#[pg_test]`s inside a server
//! of their own, and the cluster tests (`pgrx-tests`). The servers live below the work folder; whatever still runs
//! there when this ends, for whatever reason, is stopped.

use crate::check::{self, cargo};
use crate::install;
use crate::pg::Major;
use crate::repo;
use crate::run::{self, Stages};
use crate::server::{Account, stop_all_below};
use crate::setup;
use crate::tree::Tree;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub fn test(filter: Option<&str>) -> Result<()> {
    let mut stages = Stages::default();
    let major = stages.stage("setup", setup::prepare)?;
    let _one_at_a_time = lock()?;
    match filter {
        None => check::checks(major, &mut stages)?,
        Some(filter) => stages.stage("tests without a server", || {
            run::run(cargo().args(["test", "--quiet"]).args(check::serverless_packages()).arg(filter))
        })?,
    }
    let account = Account::of_servers()?;
    stages.stage("tests inside a server", || tests_inside(major, &account, filter))?;
    let tree = stages.stage("install into the private server", || install::into_tree(major, false))?;
    stages.stage("tests of clusters", || tests_of_clusters(&tree, &account, filter))
}

/// Two runs over one work folder would stop each other's servers.
fn lock() -> Result<File> {
    let path = repo::work()?.join("test.lock");
    let file = File::create(&path).with_context(|| format!("could not make {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("waiting for another `cargo x test` over {} to end", repo::work()?.display());
        file.lock()?;
    }
    Ok(file)
}

/// Stops the servers below a folder and removes their data when it goes out of scope.
struct Sweep(PathBuf);

impl Drop for Sweep {
    fn drop(&mut self) {
        stop_all_below(&self.0);
    }
}

/// `#[pg_test]`s. Their build of the extension carries the tests as SQL functions, so it gets a tree of its own.
fn tests_inside(major: Major, account: &Account, filter: Option<&str>) -> Result<()> {
    let tree = Tree::ready(major, &format!("{}-tests", major.feature()))?;
    tree.remove_extension()?;
    let work = repo::work()?;
    // pgrx takes the server from its configuration; this one names the private tree and is not the user's.
    let pgrx_home = work.join("pgrx");
    fs::create_dir_all(&pgrx_home)?;
    let config = format!("[configs]\n{} = \"{}\"\n", major.feature(), tree.pg_config().display());
    write_if_changed(&pgrx_home.join("config.toml"), &config)?;

    let data = account.folder("pg_tests")?;
    let _sweep = Sweep(data.clone());
    let mut command = install::cargo_pgrx();
    command.args(["test", "--package", "meld", "--pgdata"]).arg(&data).env("PGRX_HOME", &pgrx_home);
    command.env("MELD_PG_BIN", tree.bin());
    if let Some(user) = account.other_name() {
        command.args(["--runas", user]).env("PATH", path_with_sudo(&work)?);
    } else {
        command.env("USER", run::capture(std::process::Command::new("id").arg("-un"))?);
    }
    run::run(command.arg(major.feature()).args(filter))
}

/// PATH with a `sudo` in front that changes the user as root can without it.
///
/// pgrx' test framework runs its server through `sudo -u USER`. Root needs no sudo for that, and a container has none.
fn path_with_sudo(work: &Path) -> Result<std::ffi::OsString> {
    let folder = work.join("bin");
    fs::create_dir_all(&folder)?;
    let sudo = folder.join("sudo");
    write_if_changed(&sudo, include_str!("sudo.sh"))?;
    fs::set_permissions(&sudo, fs::Permissions::from_mode(0o755))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths([folder].into_iter().chain(std::env::split_paths(&path)))?)
}

fn tests_of_clusters(tree: &Tree, account: &Account, filter: Option<&str>) -> Result<()> {
    let clusters = account.folder("clusters")?;
    let _sweep = Sweep(clusters);
    let mut command = cargo();
    command.args(["test", "--no-fail-fast", "--package", "meld-cluster-tests"]).args(filter);
    command.env("MELD_PG_BIN", tree.bin()).env("MELD_WORK", repo::work()?);
    run::run(command.env("MELD_RUN_AS", account.other_name().unwrap_or_default()))
}

/// A file that is written anew each time would make cargo build what depends on it anew.
fn write_if_changed(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}
