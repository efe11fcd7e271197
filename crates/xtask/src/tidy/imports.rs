//! The import law: which room of the extension may use which other room and which crates.
//!
//! The law is the table between two marks in docs/architecture.md. It is read from there, so that the document and the
//! check cannot differ. A room is a folder or a file directly below `src/`.

use super::Violation;
use super::files::{Document, Files};
use super::source::{Source, identifier};
use std::collections::BTreeMap;

const DOCUMENT: &str = "docs/architecture.md";
const BEGIN: &str = "<!-- import table -->";
const END: &str = "<!-- end of import table -->";
/// The crate root declares all rooms and is bound by no row.
const CRATE_ROOT: &str = "lib";

/// One row: the rooms and the crates that a room may use.
#[derive(Default)]
struct Row {
    rooms: Vec<String>,
    crates: Vec<String>,
}

pub fn violations(files: &Files) -> Vec<Violation> {
    let Some(document) = files.document(DOCUMENT) else {
        return vec![Violation::new("imports", DOCUMENT, 1, "the document with the import table is missing")];
    };
    let table = match read_table(document) {
        Ok(table) => table,
        Err(violation) => return vec![violation],
    };
    let crates = dependencies(files, "Cargo.toml");
    let mut found = Vec::new();
    for source in &files.rust {
        let Some(room) = room_of(&source.path).filter(|room| *room != CRATE_ROOT) else { continue };
        match table.get(room) {
            Some(row) => found.extend(foreign_uses(source, room, row, &crates)),
            None => {
                let message = format!("room `{room}` has no row in the import table of {DOCUMENT}");
                found.push(Violation::new("imports", &source.path, 1, message));
            }
        }
    }
    found.extend(core_dependencies(files, &table));
    found
}

/// The room a path belongs to: `src/apply/worker.rs` to `apply`, `src/settings.rs` to `settings`.
fn room_of(path: &str) -> Option<&str> {
    let below = path.strip_prefix("src/")?;
    Some(below.split_once('/').map_or_else(|| below.trim_end_matches(".rs"), |(room, _)| room))
}

fn foreign_uses(source: &Source, room: &str, row: &Row, crates: &[String]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut refuse = |at: usize, message: String| {
        found.push(Violation::new("imports", &source.path, source.line(at), message));
    };
    for (at, used) in paths_below(source, "crate::") {
        if used != room && !used.is_empty() && is_room_name(&used) && !row.rooms.contains(&used) {
            refuse(at, format!("room `{room}` may not use room `{used}` (import table of {DOCUMENT})"));
        }
    }
    for at in source.words("super::super") {
        refuse(at, "write `crate::…`, so that the room that is used can be read".to_owned());
    }
    for name in crates.iter().filter(|name| !row.crates.contains(name)) {
        for at in source.words(&format!("{name}::")) {
            // `self::name::`, `crate::name::` and the like are modules of ours.
            if !source.code[..at].ends_with("::") {
                refuse(at, format!("room `{room}` may not use crate `{name}` (import table of {DOCUMENT})"));
            }
        }
    }
    found
}

/// Modules are written in small letters; types of the crate root are not looked at.
fn is_room_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// The first names below a prefix: `crate::a::b` gives a, `crate::{a::b, c}` gives a and c.
fn paths_below(source: &Source, prefix: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for at in source.words(prefix) {
        let after = at + prefix.len();
        if !source.code[after..].starts_with('{') {
            let name = identifier(&source.code, after);
            // A macro belongs to the crate root, wherever it is written down.
            if !source.code[after + name.len()..].starts_with('!') {
                found.push((at, name.to_owned()));
            }
            continue;
        }
        let (mut depth, mut start_of_name) = (0, true);
        for (offset, byte) in source.code.bytes().enumerate().skip(after) {
            match byte {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                b',' if depth == 1 => start_of_name = true,
                byte if byte.is_ascii_whitespace() => {}
                _ if depth == 1 && start_of_name => {
                    found.push((offset, identifier(&source.code, offset).to_owned()));
                    start_of_name = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

/// core may depend on what its row says and on nothing else.
fn core_dependencies(files: &Files, table: &BTreeMap<String, Row>) -> Vec<Violation> {
    let manifest = "crates/core/Cargo.toml";
    let Some(row) = table.get("core") else { return Vec::new() };
    let foreign = dependencies(files, manifest).into_iter().filter(|name| !row.crates.contains(name));
    let message = |name| format!("core may not depend on `{name}` (import table of {DOCUMENT})");
    foreign.map(|name| Violation::new("imports", manifest, 1, message(name))).collect()
}

/// The crates in `[dependencies]` of a manifest, as they are spelled in code.
fn dependencies(files: &Files, manifest: &str) -> Vec<String> {
    let text = files.document(manifest).map_or("", |document| document.text.as_str());
    let section = text.lines().skip_while(|line| line.trim() != "[dependencies]").skip(1);
    let lines = section.take_while(|line| !line.trim_start().starts_with('['));
    let names = lines.filter_map(|line| line.split(['=', '.']).next()).map(|name| name.trim().replace('-', "_"));
    names.filter(|name| !name.is_empty() && !name.starts_with('#')).collect()
}

fn read_table(document: &Document) -> Result<BTreeMap<String, Row>, Violation> {
    let complain = |message: &str| Violation::new("imports", DOCUMENT, 1, message);
    let (_, after) = document.text.split_once(BEGIN).ok_or_else(|| complain("the import table has no begin mark"))?;
    let (table, _) = after.split_once(END).ok_or_else(|| complain("the import table has no end mark"))?;
    let mut rows = BTreeMap::new();
    // Rows begin with a name in back-quotes; the heading and the rule below it do not.
    for line in table.lines().filter(|line| line.trim_start().starts_with("| `")) {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').collect();
        let [room, rooms, crates, ..] = cells.as_slice() else {
            return Err(complain("a row of the import table needs a room, rooms and crates"));
        };
        let row = Row { rooms: quoted(rooms), crates: quoted(crates) };
        for room in quoted(room) {
            rows.insert(room, Row { rooms: row.rooms.clone(), crates: row.crates.clone() });
        }
    }
    if rows.is_empty() { Err(complain("the import table has no rows")) } else { Ok(rows) }
}

/// The names in back-quotes of a table cell.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
