//! Reads the servers' logs: what is worse than a LOG line, or tells of a process that died, must have been announced.
//!
//! Not counted: errors in the harness's own sessions, which get the error as an answer and judge it there; sessions and
//! workers ended by a shutdown that was asked for; and attempts to connect to a server that is starting or stopping.
//! Counted always: a password in any line that is not the user's own statement.

use std::path::Path;

use crate::node::{Node, SECRET};

/// Application name of the harness's own sessions.
pub const HARNESS: &str = "meld-harness";
/// `log_line_prefix` that [`parse`] understands: time, process, SQLSTATE, kind of process, application.
pub const PREFIX: &str = "%m [%p] %e <%b|%a> ";

const SERIOUS: [&str; 4] = ["WARNING", "ERROR", "FATAL", "PANIC"];
/// Of LOG lines, those that tell of a death.
const DEATHS: [&str; 4] =
    ["was terminated by signal", "exited with exit code", "all server processes terminated", "TRAP:"];
/// admin_shutdown and cannot_connect_now
const SHUTDOWN_CODES: [&str; 2] = ["57P01", "57P03"];

/// One line of a log, with the lines that continue it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub sqlstate: String,
    pub application: String,
    pub severity: String,
    pub message: String,
    /// As it stands in the file.
    pub text: String,
}

/// Panics with every entry that was not announced.
#[track_caller]
pub fn check(nodes: &[Node]) {
    let mut found = Vec::new();
    for node in nodes {
        let unannounced = findings(&node.server.log, &node.expected());
        found.extend(unannounced.into_iter().map(|entry| format!("{}: {}", node.name, entry.text)));
    }
    if !found.is_empty() {
        let total = found.len();
        found.truncate(40);
        panic!("{total} unannounced lines in the server logs:\n{}", found.join("\n"));
    }
}

/// Entries of a log that none of the texts announces.
pub fn findings(log: &Path, expected: &[String]) -> Vec<Entry> {
    let is_expected = |entry: &Entry| expected.iter().any(|text| holds(&entry.text, text));
    let leaks = |entry: &Entry| entry.severity != "STATEMENT" && entry.text.contains(SECRET);
    let mut stopping = false;
    let mut found = entries(log);
    found.retain(|entry| {
        match entry.message.as_str() {
            message if message.ends_with(" shutdown request") => stopping = true,
            message if message.starts_with("starting PostgreSQL") => stopping = false,
            _ => {}
        }
        // so says a session that is told to end before it has authenticated itself
        let ended = ["exited with exit code 1", "canceling authentication due to timeout"];
        let told_to_end = stopping && ended.iter().any(|text| entry.message.contains(text));
        leaks(entry) || (counts(entry) && !told_to_end && !is_expected(entry))
    });
    found
}

/// Whether an entry holds an announced text; with `*` in it, its parts in this order.
fn holds(entry: &str, announced: &str) -> bool {
    let mut rest = Some(entry);
    for part in announced.split('*') {
        rest = rest.and_then(|rest| rest.find(part).map(|at| &rest[at + part.len()..]));
    }
    rest.is_some()
}

/// Entries of one severity or any with this text, for scenarios that want to see one.
pub fn entries_with(log: &Path, text: &str) -> Vec<Entry> {
    entries(log).into_iter().filter(|entry| entry.text.contains(text)).collect()
}

fn counts(entry: &Entry) -> bool {
    if !SERIOUS.contains(&entry.severity.as_str()) {
        return entry.severity == "?" || DEATHS.iter().any(|death| entry.message.contains(death));
    }
    let own = entry.application == HARNESS && entry.severity != "WARNING" && entry.severity != "PANIC";
    !own && !SHUTDOWN_CODES.contains(&entry.sqlstate.as_str())
}

pub fn entries(log: &Path) -> Vec<Entry> {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut entries: Vec<Entry> = Vec::new();
    for line in text.lines() {
        match (line.starts_with('\t'), entries.last_mut()) {
            (true, Some(last)) => {
                last.text.push('\n');
                last.text.push_str(line);
            }
            _ => entries.push(parse(line)),
        }
    }
    entries
}

/// A line without the prefix (a panic of Rust, an assertion, a complaint of the C library) has severity "?" and counts.
fn parse(line: &str) -> Entry {
    let unknown = || Entry {
        sqlstate: String::new(),
        application: String::new(),
        severity: "?".into(),
        message: line.into(),
        text: line.into(),
    };
    let Some((before, rest)) = line.split_once(" <") else { return unknown() };
    let Some((who, rest)) = rest.split_once("> ") else { return unknown() };
    let Some((severity, message)) = rest.split_once(":  ") else { return unknown() };
    let severity_ok = severity.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
    let (Some(sqlstate), Some((_, application)), true) = (
        before.rsplit(' ').next(),
        who.split_once('|'),
        severity_ok && before.ends_with(|c: char| c.is_alphanumeric()),
    ) else {
        return unknown();
    };
    Entry {
        sqlstate: sqlstate.to_owned(),
        application: application.to_owned(),
        severity: severity.to_owned(),
        message: message.to_owned(),
        text: line.to_owned(),
    }
}
