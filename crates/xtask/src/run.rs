//! Child processes: run them, time them, and take them down on Ctrl-C or SIGTERM.
//!
//! Every child gets a process group of its own, and the groups are listed in [`GROUPS`]. One thread waits for signals
//! and passes them on to all groups, so that no grandchild (a test binary below cargo, say) is left behind. The main
//! thread then sees its child fail, returns an error, and the guards on its stack stop the servers they started.
//! Children that may ask for a password (`sudo`) stay in our group: a background group may not read the terminal.

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static GROUPS: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// Starts the thread that passes signals on. Called once, first thing.
pub fn watch_signals() {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).expect("these may be caught");
    std::thread::spawn(move || {
        for _ in signals.forever() {
            INTERRUPTED.store(true, Ordering::SeqCst);
            eprintln!("\ninterrupted: stopping what was started ...");
            for group in GROUPS.lock().expect("no holder panics").iter() {
                let _ = killpg(Pid::from_raw(*group), Signal::SIGTERM);
            }
        }
    });
}

/// Fails once the user has asked us to stop. Long loops ask this in every round.
pub fn ensure_not_interrupted() -> Result<()> {
    ensure!(!INTERRUPTED.load(Ordering::SeqCst), "interrupted");
    Ok(())
}

/// A started child whose process group is signalled on Ctrl-C.
pub struct Group {
    child: Child,
}

impl Group {
    pub fn spawn(command: &mut Command) -> Result<Group> {
        ensure_not_interrupted()?;
        let child = command.process_group(0).spawn().with_context(|| format!("could not start {}", shown(command)))?;
        GROUPS.lock().expect("no holder panics").push(child.id() as i32);
        Ok(Group { child })
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    fn forget(&mut self) {
        let id = self.child.id() as i32;
        GROUPS.lock().expect("no holder panics").retain(|group| *group != id);
    }

    pub fn wait(mut self) -> Result<ExitStatus> {
        let status = self.child.wait();
        self.forget();
        ensure_not_interrupted()?;
        Ok(status?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
            let _ = self.child.wait();
        }
        self.forget();
    }
}

/// Runs a command with its output on ours and expects it to succeed.
pub fn run(command: &mut Command) -> Result<()> {
    eprintln!("$ {}", shown(command));
    let status = Group::spawn(command.stdin(Stdio::null()))?.wait()?;
    ensure!(status.success(), "{} failed ({status})", shown(command));
    Ok(())
}

/// As [`run`], for commands that may read from the terminal.
pub fn run_interactive(command: &mut Command) -> Result<()> {
    ensure_not_interrupted()?;
    eprintln!("$ {}", shown(command));
    let status = command.status().with_context(|| format!("could not start {}", shown(command)))?;
    ensure_not_interrupted()?;
    ensure!(status.success(), "{} failed ({status})", shown(command));
    Ok(())
}

/// Runs a command quietly and returns what it wrote to its standard output, without the last line break.
pub fn capture(command: &mut Command) -> Result<String> {
    ensure_not_interrupted()?;
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("could not start {}", shown(command)))?;
    ensure_not_interrupted()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({})\n{}", shown(command), output.status, message.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// Runs a command that starts a daemon, without output: a daemon would hold a pipe of ours open.
pub fn quiet(command: &mut Command) -> Result<()> {
    ensure_not_interrupted()?;
    let streams = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = streams.status().with_context(|| format!("could not start {}", shown(command)))?;
    ensure!(status.success(), "{} failed ({status})", shown(command));
    Ok(())
}

/// Whether a program can be found through PATH.
pub fn have_program(name: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
}

/// A command as a user would type it.
fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| {
        let word = word.to_string_lossy();
        let plain = !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || "'\"$;&|<>()*".contains(c));
        if plain { word.into_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
    }));
    words.join(" ")
}

/// The named parts of a long command and the time each took.
#[derive(Default)]
pub struct Stages {
    times: Vec<(&'static str, Duration)>,
}

impl Stages {
    pub fn stage<T>(&mut self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("\n== {name}");
        let start = Instant::now();
        let result = work();
        self.times.push((name, start.elapsed()));
        result.with_context(|| format!("stage \"{name}\""))
    }
}

impl Drop for Stages {
    /// The table of times is printed however the command ends.
    fn drop(&mut self) {
        let total: Duration = self.times.iter().map(|(_, time)| *time).sum();
        eprintln!();
        for (name, time) in self.times.iter().chain([&("total", total)]) {
            eprintln!("{:>9.1} s  {name}", time.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_so_that_they_can_be_pasted() {
        let mut command = Command::new("psql");
        command.args(["-c", "SELECT 'a b'", "", "plain"]);
        assert_eq!(shown(&command), r"psql -c 'SELECT '\''a b'\''' '' plain");
    }

    #[test]
    fn a_failing_command_says_why() {
        let error = capture(Command::new("sh").args(["-c", "echo reason >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("reason") && error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_dropped_group_takes_its_grandchildren_along() {
        let mut command = Command::new("sh");
        command.args(["-c", "tail -f /dev/null & echo $!; wait"]).stdout(Stdio::piped());
        let mut group = Group::spawn(&mut command).unwrap();
        let mut line = String::new();
        let mut stdout = std::io::BufReader::new(group.child().stdout.take().unwrap());
        std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
        drop(group);
        // The pipe's other end is held by the grandchild alone: end of file means that it is gone.
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut stdout, &mut rest).unwrap();
        assert_eq!(rest, "");
    }
}
