//! Servers of ours: the OS user they run as, and stopping what is left of them.

use crate::repo;
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown, geteuid};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How deep below a folder of clusters a data folder may lie.
const DATA_DEPTH: usize = 4;
/// How long to wait before a process is looked at again.
const POLL_EVERY: Duration = Duration::from_millis(50);

/// Who runs servers: PostgreSQL refuses root, so root hands over to the user that the package made.
pub struct Account(Option<User>);

impl Account {
    pub fn of_servers() -> Result<Account> {
        if !geteuid().is_root() {
            return Ok(Account(None));
        }
        let user = User::from_name("postgres")?;
        let user = user.context("there is no OS user \"postgres\": it comes with the package postgresql-common")?;
        Ok(Account(Some(user)))
    }

    /// The user's name if it is not ourselves.
    pub fn other_name(&self) -> Option<&str> {
        self.0.as_ref().map(|user| user.name.as_str())
    }

    /// A command that runs as this user. A root's supplementary groups are dropped with the change of user.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some(user) = &self.0 {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        // The folder we are in may not be readable for the other user.
        command.current_dir("/");
        command
    }

    /// A folder of the work folder that belongs to this user.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = repo::work()?.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
        self.give(&folder)?;
        Ok(folder)
    }

    /// As [`Account::folder`], and nobody else may enter it.
    pub fn private_folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder(name)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        Ok(folder)
    }

    /// Makes a file or folder of ours this user's.
    pub fn give(&self, path: &Path) -> Result<()> {
        if let Some(user) = &self.0 {
            chown(path, Some(user.uid), Some(user.gid))
                .with_context(|| format!("could not give {} to {}", path.display(), user.name))?;
        }
        Ok(())
    }
}

/// Stops every server whose data folder lies below `folder`, the hard way if it must be.
///
/// A pid file may be stale and its number someone else's by now, so a process counts only if the data folder is its
/// working folder, as it is for every postmaster.
pub fn stop_all_below(folder: &Path) {
    let pids: Vec<Pid> = data_folders(folder, DATA_DEPTH).iter().filter_map(|data| postmaster_of(data)).collect();
    for (signal, patience) in [(Signal::SIGINT, 15), (Signal::SIGQUIT, 10), (Signal::SIGKILL, 5)] {
        let running: Vec<Pid> = pids.iter().copied().filter(|pid| is_alive(*pid)).collect();
        for pid in &running {
            let _ = kill(*pid, signal);
        }
        let deadline = Instant::now() + Duration::from_secs(patience);
        while running.iter().any(|pid| is_alive(*pid)) && Instant::now() < deadline {
            std::thread::sleep(POLL_EVERY);
        }
    }
}

fn data_folders(folder: &Path, depth: usize) -> Vec<PathBuf> {
    if folder.join("PG_VERSION").is_file() {
        return vec![folder.to_path_buf()];
    }
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let below = entries.flatten().map(|entry| entry.path()).filter(|path| depth > 0 && path.is_dir());
    below.flat_map(|path| data_folders(&path, depth - 1)).collect()
}

/// The postmaster that runs on a data folder. Folders are compared by what they are, not by their path, which differs
/// where a container sees them from elsewhere.
fn postmaster_of(data: &Path) -> Option<Pid> {
    let pid_file = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid: i32 = pid_file.lines().next()?.trim().parse().ok()?;
    let identity = |path: &Path| fs::metadata(path).map(|folder| (folder.dev(), folder.ino())).ok();
    let working_folder = identity(Path::new(&format!("/proc/{pid}/cwd")))?;
    (Some(working_folder) == identity(data)).then(|| Pid::from_raw(pid))
}

fn is_alive(pid: Pid) -> bool {
    kill(pid, None) != Err(Errno::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_pid_file_names_nobody() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("PG_VERSION"), "15\n").unwrap();
        // Our own process lives, but its working folder is another one.
        fs::write(dir.path().join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
        assert_eq!(data_folders(dir.path(), DATA_DEPTH), [dir.path()]);
        assert_eq!(postmaster_of(dir.path()), None);
        stop_all_below(dir.path());
    }

    #[test]
    fn a_process_that_works_in_its_data_folder_is_stopped() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("PG_VERSION"), "15\n").unwrap();
        let mut tail = Command::new("tail").args(["-f", "/dev/null"]).current_dir(dir.path()).spawn().unwrap();
        fs::write(dir.path().join("postmaster.pid"), format!("{}\n", tail.id())).unwrap();
        assert_eq!(postmaster_of(dir.path()), Some(Pid::from_raw(tail.id() as i32)));
        // An ended child counts as alive until it is waited for.
        let waiter = std::thread::spawn(move || tail.wait().unwrap());
        stop_all_below(dir.path());
        assert!(!waiter.join().unwrap().success());
    }
}
