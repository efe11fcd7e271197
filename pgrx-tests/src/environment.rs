//! Where the servers' programs are, as whom they run, and where their files go.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `MELD_PG_BIN` | folder with `postgres`, `initdb`, `pgbench` | `bindir` of the `pg_config` on the path |
//! | `MELD_RUN_AS` | OS user of the servers | `postgres` for root, else the caller |
//! | `MELD_NODE1_SETTINGS` | lines for the configuration of the first server of each cluster, `;` between them | none |
//! | `MELD_WORK` | folder for templates and clusters | `/var/tmp/meld-<hash of the repository's path>` |
//!
//! The folder lies outside the repository, since the servers' user may not be allowed to look into that.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// The account that servers run under.
#[derive(Clone, Debug)]
pub struct RunAs {
    pub user: String,
    /// Set when the harness itself has to change to that account.
    ids: Option<(u32, u32)>,
}

#[derive(Clone, Debug)]
pub struct Environment {
    pub bin: PathBuf,
    pub work: PathBuf,
    pub run_as: RunAs,
}

impl Environment {
    pub fn read() -> Result<Environment> {
        let bin = match std::env::var_os("MELD_PG_BIN") {
            Some(dir) => PathBuf::from(dir),
            None => PathBuf::from(output(Command::new("pg_config").arg("--bindir"))?),
        };
        ensure!(bin.join("postgres").exists(), "no server in \"{}\": set MELD_PG_BIN", bin.display());
        let work = std::env::var_os("MELD_WORK").filter(|dir| !dir.is_empty()).map_or_else(default_work, PathBuf::from);
        let environment = Environment { bin, work, run_as: RunAs::read()? };
        std::fs::create_dir_all(&environment.work)
            .with_context(|| format!("could not create \"{}\"", environment.work.display()))?;
        Ok(environment)
    }

    /// A program of the server's installation, run under the servers' account.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        self.run_as.apply(&mut command);
        // nothing of the caller's environment may choose another server, database or language
        for (key, _) in std::env::vars_os() {
            let name = key.to_string_lossy();
            if name.starts_with("PG") || name.starts_with("LC_") || name == "LANG" {
                command.env_remove(&key);
            }
        }
        command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC").current_dir("/");
        command
    }

    /// Makes a folder that belongs to the servers' account.
    pub fn make_dir(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).with_context(|| format!("could not create \"{}\"", dir.display()))?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
        if let Some((uid, gid)) = self.run_as.ids {
            chown(dir, Some(uid), Some(gid))?;
        }
        Ok(())
    }
}

impl RunAs {
    fn read() -> Result<RunAs> {
        let asked = std::env::var("MELD_RUN_AS").ok().filter(|user| !user.is_empty());
        let is_root = rustix::process::geteuid().is_root();
        let user = match asked {
            Some(user) => user,
            None if is_root => "postgres".to_owned(),
            None => output(Command::new("id").arg("-un"))?,
        };
        if !is_root {
            return Ok(RunAs { user, ids: None });
        }
        let id = |flag: &str| -> Result<u32> { Ok(output(Command::new("id").args([flag, &user]))?.parse()?) };
        let ids = (id("-u")?, id("-g")?);
        if ids.0 == 0 {
            bail!("servers cannot run as root: set MELD_RUN_AS");
        }
        Ok(RunAs { user, ids: Some(ids) })
    }

    pub fn apply(&self, command: &mut Command) {
        if let Some((uid, gid)) = self.ids {
            command.uid(uid).gid(gid);
        }
    }
}

/// Runs a command that must succeed; its output without the last line end.
pub fn output(command: &mut Command) -> Result<String> {
    let done = command.output().with_context(|| format!("could not run {command:?}"))?;
    if !done.status.success() {
        bail!(
            "{command:?} failed ({}):\n{}{}",
            done.status,
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).trim_end().to_owned())
}

/// Two check-outs of the repository on one machine must not meet in one folder. The hash is FNV-1a.
fn default_work() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let repository = manifest.parent().unwrap_or(manifest);
    let hash = repository
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    PathBuf::from(format!("/var/tmp/meld-{hash:08x}"))
}
