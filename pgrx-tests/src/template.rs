//! Data directories made once and copied for each cluster: `initdb` takes a second, a copy a fraction of that.
//!
//! There is one template per place in a cluster, not one for all: nodes with one system identifier would be refused
//! as the same server. Templates stay in the work folder, named after the server's version.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::environment::{Environment, output};
use crate::port::Reservation;

/// Name of the superuser in every server.
pub const SUPERUSER: &str = "postgres";

/// Copies the template with the given number to `data`.
pub fn copy(environment: &Environment, number: usize, data: &Path) -> Result<()> {
    let template = ensure(environment, number)?;
    output(environment.program_at("cp").args(["-a", "--reflink=auto"]).arg(&template).arg(data))?;
    Ok(())
}

/// Whether this server knows a setting.
pub fn knows_setting(environment: &Environment, data: &Path, setting: &str) -> Result<bool> {
    let answer = environment.program("postgres").args(["-C", setting, "-D"]).arg(data).output()?;
    let words = String::from_utf8_lossy(&answer.stderr);
    match answer.status.success() {
        true => Ok(true),
        false if words.contains("unrecognized configuration parameter") => Ok(false),
        false => bail!("could not ask the server for \"{setting}\": {words}"),
    }
}

fn ensure(environment: &Environment, number: usize) -> Result<PathBuf> {
    let version = output(environment.program("postgres").arg("--version"))?;
    let version = version.split_whitespace().nth(2).context("no version")?.to_owned();
    let dir = environment.work.join("templates");
    let template = dir.join(format!("{version}-{number}"));
    environment.make_dir(&dir)?;
    let _making = Reservation::wait(&environment.work.join("locks"), "templates");
    if template.exists() {
        return Ok(template);
    }
    let unfinished = dir.join(format!("{version}-{number}.new"));
    let _ = std::fs::remove_dir_all(&unfinished);
    let mut initdb = environment.program("initdb");
    initdb.args(["--username", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"]);
    output(initdb.arg("-D").arg(&unfinished))?;
    std::fs::rename(&unfinished, &template)?;
    Ok(template)
}

impl Environment {
    /// A program of the system, run under the servers' account.
    fn program_at(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        self.run_as.apply(&mut command);
        command.current_dir("/");
        command
    }
}
