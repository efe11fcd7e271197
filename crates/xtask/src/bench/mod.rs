//! `cargo x bench`: what replication costs, as ratios.
//!
//! Times on a shared machine mean little, ratios of runs side by side do. Each figure is the median of pairs: the same
//! work on a table in a replication set and on its twin in none, one directly after the other, the first of them by turns.
//! Two times are compared: what the backend had on a CPU, as the kernel tells it, which does not depend on who else is at
//! work; and what a user waited, which wants a quiet machine. The targets are for the latter.

mod origin;
mod snowflake;

use crate::demo::node::{self, DATABASE, Node};
use crate::install;
use crate::pg;
use crate::repo;
use crate::run;
use crate::server::{Account, stop_all_below};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

/// Folder in the work folder.
const FOLDER: &str = "bench";
const FIRST_PORT: u16 = 7531;

pub fn bench(which: &str, pairs: usize) -> Result<()> {
    let measure = match which {
        "origin" => origin::measure,
        "snowflake" => snowflake::measure,
        _ => bail!("there is no measurement \"{which}\"; there are \"origin\" and \"snowflake\""),
    };
    ensure!(pairs > 0, "a ratio takes at least one pair");
    let tree = install::into_tree(pg::installed()?, true)?;
    let account = Account::of_servers()?;
    let servers = Servers(repo::work()?.join(FOLDER));
    servers.remove()?;
    let folder = account.private_folder(FOLDER)?;
    let nodes = node::start_all(&tree, &account, &folder, (1, "256MB"), FIRST_PORT)?;
    measure(&nodes[0], pairs)
}

/// Stopped and removed at the end, however it comes.
struct Servers(PathBuf);

impl Servers {
    fn remove(&self) -> Result<()> {
        stop_all_below(&self.0);
        if self.0.exists() {
            fs::remove_dir_all(&self.0).with_context(|| format!("could not remove {}", self.0.display()))?;
        }
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let _ = self.remove();
    }
}

/// What some work cost.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// Of the backend.
    cpu: Duration,
    elapsed: Duration,
}

/// What `work` costs in a session that has run `before` first. `is_durable`: each commit waits for the disk, as a user's
/// does.
fn cost_of(node: &Node, before: &str, work: &str, is_durable: bool) -> Result<Cost> {
    run::ensure_not_interrupted()?;
    let look = "\\! cut -d' ' -f1 /proc/$BACKEND/schedstat; date +%s%N\n";
    let durable = if is_durable { "on" } else { "off" };
    let script = format!(
        "SET synchronous_commit = {durable};\nSET client_min_messages = error;\n{before}\nCHECKPOINT;\n\
         SELECT pg_backend_pid() AS pid \\gset\n\\setenv BACKEND :pid\n\\o /dev/null\n{look}{work}\n{look}"
    );
    let mut psql = node.psql(DATABASE);
    let mut child = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("psql has no input")?;
    let writer = std::thread::spawn(move || stdin.write_all(script.as_bytes()));
    let output = child.wait_with_output()?;
    let written = writer.join();
    ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr));
    ensure!(matches!(written, Ok(Ok(()))), "psql did not read its input");
    let text = String::from_utf8_lossy(&output.stdout);
    let times: Vec<u64> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
    let &[.., cpu_start, start, cpu_end, end] = &times[..] else { bail!("psql printed no times: {text}") };
    let between = |start: u64, end: u64| Duration::from_nanos(end.saturating_sub(start));
    Ok(Cost { cpu: between(cpu_start, cpu_end), elapsed: between(start, end) })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
