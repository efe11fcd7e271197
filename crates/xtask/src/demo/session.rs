//! A psql that stays connected, so that transactions on several nodes can be open at the same time.

use super::node::{DATABASE, Node};
use crate::run::Group;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStderr, ChildStdin, ChildStdout, Stdio};

/// Printed by psql after each batch, so that its end can be seen in the output.
const MARK: &str = "--done--";

pub struct Session<'a> {
    node: &'a Node,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    stderr: ChildStderr,
    /// Last, so that psql is ended after its pipes are closed.
    _psql: Group,
}

impl<'a> Session<'a> {
    pub fn open(node: &'a Node) -> Result<Session<'a>> {
        let mut command = node.psql(DATABASE);
        let mut psql = Group::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
        let child = psql.child();
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else { bail!("psql has no pipes") };
        Ok(Session { node, stdin, stdout: BufReader::new(stdout), stderr, _psql: psql })
    }

    /// Runs statements and waits for them.
    pub fn run(&mut self, sql: &str) -> Result<()> {
        self.send(sql)?;
        self.wait()
    }

    /// Hands statements over without waiting.
    pub fn send(&mut self, sql: &str) -> Result<()> {
        eprintln!("{}=# {sql};", self.node.name);
        self.stdin.write_all(format!("{sql};\n\\echo {MARK}\n").as_bytes())?;
        self.stdin.flush().context("psql is gone")
    }

    /// Waits until what was sent has run.
    pub fn wait(&mut self) -> Result<()> {
        let mut line = String::new();
        while line.trim_end() != MARK {
            line.clear();
            if self.stdout.read_line(&mut line)? == 0 {
                let mut message = String::new();
                self.stderr.read_to_string(&mut message)?;
                bail!("on node {}: {}", self.node.name, message.trim_end());
            }
        }
        Ok(())
    }
}
