//! Rules about the shape of files: their length, the length of their functions, and the header.

use super::Violation;
use super::files::Files;
use super::source::{Source, identifier};

const FILE_LINES: usize = 400;
const FUNCTION_LINES: usize = 70;

pub fn violations(files: &Files) -> Vec<Violation> {
    let mut found = Vec::new();
    for source in &files.rust {
        let lines = source.text.lines().count();
        if lines > FILE_LINES {
            let message = format!("{lines} lines, at most {FILE_LINES}: split the file by what it is about");
            found.push(Violation::new("size", &source.path, lines, message));
        }
        if !source.text.starts_with("//!") {
            let message = "a file begins with a `//!` header: what, why, invariants, which process, what comes next";
            found.push(Violation::new("size", &source.path, 1, message));
        }
        found.extend(long_functions(source));
    }
    found
}

fn long_functions(source: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    for at in source.words("fn") {
        let name_at = at + 2 + source.code[at + 2..].bytes().take_while(u8::is_ascii_whitespace).count();
        let name = identifier(&source.code, name_at);
        // `fn(` is a type.
        let Some(end) = body_end(&source.code, name_at).filter(|_| !name.is_empty()) else { continue };
        let lines = source.line(end) - source.line(at) + 1;
        if lines > FUNCTION_LINES {
            let message = format!("`{name}` has {lines} lines, at most {FUNCTION_LINES}: split it");
            found.push(Violation::new("size", &source.path, source.line(at), message));
        }
    }
    found
}

/// The offset of the brace that closes the body of a function; None for a declaration without one.
fn body_end(code: &str, signature: usize) -> Option<usize> {
    let (mut brackets, mut braces) = (0_i32, 0_i32);
    for (offset, byte) in code.bytes().enumerate().skip(signature) {
        match byte {
            b'(' | b'[' if braces == 0 => brackets += 1,
            b')' | b']' if braces == 0 => brackets -= 1,
            b';' if brackets == 0 && braces == 0 => return None,
            b'{' if brackets == 0 => braces += 1,
            b'}' if brackets == 0 && braces == 1 => return Some(offset),
            b'}' if brackets == 0 => braces -= 1,
            _ => {}
        }
    }
    None
}
