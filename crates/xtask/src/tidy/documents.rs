//! Rules about all text files: links between documents lead somewhere, and no file names somebody's machine.

use super::Violation;
use super::files::{Document, Files};

pub fn violations(files: &Files) -> Vec<Violation> {
    let mut found = Vec::new();
    for document in &files.documents {
        machine_paths(document, &mut found);
        if document.path.ends_with(".md") {
            dead_links(document, files, &mut found);
        }
    }
    found
}

/// Folders that exist on one machine only. Put together here, so that this file does not name them itself.
fn machine_folders() -> [String; 4] {
    [["/wo", "rk/"], ["/tm", "p/w/"], ["/ro", "ot/"], ["/ho", "me/"]].map(|halves| halves.concat())
}

fn machine_paths(document: &Document, found: &mut Vec<Violation>) {
    for (index, line) in document.text.lines().enumerate() {
        for folder in machine_folders() {
            // Only as the beginning of a path: `framework/src` and `/srv/work/` are something else.
            let at_start = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_-./}".contains(c));
            if line.match_indices(folder.as_str()).any(|(at, _)| at_start(at)) {
                let message = format!("a path below {folder} is true on one machine only");
                found.push(Violation::new("documents", &document.path, index + 1, message));
            }
        }
    }
}

fn dead_links(document: &Document, files: &Files, found: &mut Vec<Violation>) {
    let mut in_code = false;
    for (index, line) in document.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        for target in targets {
            let path = target.split('#').next().unwrap_or_default();
            let elsewhere = path.is_empty() || path.contains("://") || path.starts_with("mailto:");
            if !elsewhere && !files.exists(&resolve(&document.path, path)) {
                let message = format!("the link \"{target}\" leads to no file");
                found.push(Violation::new("documents", &document.path, index + 1, message));
            }
        }
    }
}

/// A link's path from the top of the tree; a link that begins with `/` is one already.
fn resolve(document: &str, link: &str) -> String {
    let mut parts: Vec<&str> = match link.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => document.split('/').rev().skip(1).collect::<Vec<_>>().into_iter().rev().collect(),
    };
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}
