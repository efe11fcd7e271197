//! `cargo x tidy`: the house rules that a program can check, proved by reading the source.
//!
//! Each rule is a function from the files to violations. Rules read Rust through [`source::Source`], which blanks
//! comments and literals, so that prose and test data cannot trip a rule. Every rule has a test that plants a
//! violation in a small tree and sees it found ([`plants`]).
//!
//! | rule | says |
//! |---|---|
//! | fence | `unsafe` and `pg_sys` only inside the two fences |
//! | imports | rooms use only the rooms and crates that the table in docs/architecture.md allows |
//! | size | files of at most 400 lines, functions of at most 70, each file with a header |
//! | codec | bincode's functions are called in one module |
//! | tests | no ignored test, no sleep outside the polling helpers, no `dbg!` |
//! | documents | links lead to files, and no file names a folder of somebody's machine |

mod documents;
mod fence;
mod files;
mod imports;
mod size;
mod source;

#[cfg(test)]
mod plants;

use crate::repo;
use anyhow::{Result, ensure};
use files::Files;
use std::fmt;
use std::path::Path;

/// A broken rule: where, which, and what to do.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    path: String,
    line: usize,
    rule: &'static str,
    message: String,
}

impl Violation {
    fn new(rule: &'static str, path: &str, line: usize, message: impl Into<String>) -> Violation {
        Violation { path: path.to_owned(), line, rule, message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {} [{}]", self.path, self.line, self.message, self.rule)
    }
}

pub fn tidy_repository() -> Result<()> {
    let violations = violations(&repo::root())?;
    for violation in &violations {
        eprintln!("{violation}");
    }
    ensure!(violations.is_empty(), "{} house rule violation(s)", violations.len());
    eprintln!("tidy: all house rules hold");
    Ok(())
}

/// All violations below `root`, in the order of files and lines.
fn violations(root: &Path) -> Result<Vec<Violation>> {
    let files = Files::read(root)?;
    let mut found = Vec::new();
    found.extend(fence::violations(&files));
    found.extend(imports::violations(&files));
    found.extend(size::violations(&files));
    found.extend(documents::violations(&files));
    found.sort();
    Ok(found)
}
