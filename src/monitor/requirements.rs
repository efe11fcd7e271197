//! Whether the server's settings are right for a node: all that is wrong in one error, with the lines that put it right.

use std::ffi::CStr;

use pgrx::prelude::PgSqlErrorCode;

use crate::log::{Failure, Result};
use crate::pg::server::{number_setting, preloads, setting};
use crate::workers::registry;

/// Enough for a mesh of three nodes: two slots and senders, two origins; supervisor, manager and two apply workers
/// beside the parallel workers of queries.
const AT_LEAST: [(&CStr, i64); 4] = [
    (c"max_worker_processes", 8),
    (c"max_replication_slots", 4),
    (c"max_wal_senders", 4),
    // since PostgreSQL 18; before, max_replication_slots bounds the origins as well
    (c"max_active_replication_origins", 4),
];

/// A setting that is wrong: what is the matter, and the line for postgresql.conf.
struct Finding {
    complaint: String,
    line: String,
}

/// Refuses a server that lacks something a node needs.
pub fn check() -> Result<()> {
    let findings = findings();
    if findings.is_empty() {
        return Ok(());
    }
    let complaints: Vec<&str> = findings.iter().map(|finding| finding.complaint.as_str()).collect();
    let lines: Vec<&str> = findings.iter().map(|finding| finding.line.as_str()).collect();
    Err(Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the server is not set up for meld")
        .detail(complaints.join("\n"))
        .hint(format!("Put these lines into postgresql.conf and restart the server:\n{}", lines.join("\n"))))
}

fn findings() -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut wants = |name: &CStr, value: &str| {
        if let Some(found) = setting(name)
            && found != value
        {
            let name = name.to_string_lossy();
            findings.push(Finding {
                complaint: format!("{name} is \"{found}\", it must be \"{value}\"."),
                line: format!("{name} = {value}"),
            });
        }
    };
    wants(c"wal_level", "logical");
    wants(c"track_commit_timestamp", "on");
    if !preloads("meld") {
        findings.push(missing_library(c"shared_preload_libraries"));
    } else if !registry::available() {
        findings.push(Finding {
            complaint: "shared_preload_libraries has \"meld\", but the server was not restarted since.".to_owned(),
            line: format!("shared_preload_libraries = '{}'", setting(c"shared_preload_libraries").unwrap_or_default()),
        });
    }
    if let Some(listed) = setting(c"output_plugin_libraries")
        && !lists_meld(&listed)
    {
        findings.push(missing_library(c"output_plugin_libraries"));
    }
    for (name, least) in AT_LEAST {
        if let Some(found) = number_setting(name)
            && found < least
        {
            let name = name.to_string_lossy();
            findings.push(Finding {
                complaint: format!("{name} is {found}, it must be at least {least}."),
                line: format!("{name} = {least}"),
            });
        }
    }
    findings
}

fn lists_meld(list: &str) -> bool {
    list.split(',').any(|entry| matches!(entry.trim().trim_matches('"'), "meld" | "*" | "$libdir/meld"))
}

/// The line adds meld to what is there.
fn missing_library(name: &CStr) -> Finding {
    let listed = setting(name).unwrap_or_default();
    let line = if listed.trim().is_empty() { "meld".to_owned() } else { format!("{listed}, meld") };
    let name = name.to_string_lossy();
    Finding { complaint: format!("{name} does not list \"meld\"."), line: format!("{name} = '{line}'") }
}
