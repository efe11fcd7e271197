//! Rules about single words: the fences around `unsafe` and `pg_sys`, the one codec module, and what tests may not do.

use super::Violation;
use super::files::Files;
use super::source::{Source, identifier};

/// The room that may spell `pg_sys` and `unsafe`.
const SERVER_FENCE: &str = "src/pg/";
/// The one other module that may spell `unsafe`: the bindings to libpq.
const LIBPQ_FENCE: [&str; 2] = ["src/receiver/libpq.rs", "src/receiver/libpq/"];
/// The one module that calls bincode, so that it can be replaced.
const CODEC: &str = "crates/core/src/wire/codec.rs";
/// The only places that sleep: the tests' polling helper, and the loop that waits for servers to end.
const POLLING: [&str; 2] = ["pgrx-tests/src/wait.rs", "crates/xtask/src/server.rs"];
/// bincode's traits (with a macro that implements one) and error types may be named anywhere: types derive and bound them.
const BINCODE_TYPES: [&str; 7] = ["BorrowDecode", "Decode", "Encode", "de", "enc", "error", "impl_borrow_decode"];

pub fn violations(files: &Files) -> Vec<Violation> {
    let mut found = Vec::new();
    for source in &files.rust {
        fence(source, &mut found);
        codec(source, &mut found);
        tests(source, &mut found);
    }
    found
}

fn fence(source: &Source, found: &mut Vec<Violation>) {
    let path = source.path.as_str();
    let in_server_fence = path.starts_with(SERVER_FENCE);
    let mut refuse = |word: &str, message: String| {
        found.extend(source.words(word).into_iter().map(|at| Violation::new("fence", path, source.line(at), &message)));
    };
    if !in_server_fence {
        refuse("pg_sys", format!("`pg_sys` may be spelled in {SERVER_FENCE} only: add a wrapper there"));
    }
    if !in_server_fence && !LIBPQ_FENCE.iter().any(|fence| path.starts_with(fence)) {
        refuse("unsafe", format!("`unsafe` may be spelled in {SERVER_FENCE} and {} only", LIBPQ_FENCE[0]));
    }
}

fn codec(source: &Source, found: &mut Vec<Violation>) {
    if source.path == CODEC {
        return;
    }
    for at in source.words("bincode::") {
        let after = at + "bincode::".len();
        let names = match source.code[after..].strip_prefix('{') {
            Some(group) => group[..group.find('}').unwrap_or(group.len())].split(',').map(str::trim).collect(),
            None => vec![identifier(&source.code, after)],
        };
        for name in names.into_iter().filter(|name| !name.is_empty()) {
            if !BINCODE_TYPES.contains(&identifier(name, 0)) {
                let message = format!("`bincode::{name}` may be used in {CODEC} only");
                found.push(Violation::new("codec", &source.path, source.line(at), message));
            }
        }
    }
}

fn tests(source: &Source, found: &mut Vec<Violation>) {
    let mut refuse = |word: &str, message: &str| {
        let places = source.words(word).into_iter();
        found.extend(places.map(|at| Violation::new("tests", &source.path, source.line(at), message)));
    };
    refuse("#[ignore", "an ignored test shows nothing: mend or remove it");
    refuse("dbg!", "`dbg!` is for a moment's look, not to be kept");
    if !POLLING.contains(&source.path.as_str()) {
        refuse("thread::sleep", "do not sleep: poll with a deadline through the polling helper");
        refuse("sleep_ms", "do not sleep: poll with a deadline through the polling helper");
    }
}
