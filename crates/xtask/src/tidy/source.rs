//! A Rust source with comments and literals blanked out, and searches in it.
//!
//! This is no parser: it knows only what it takes to tell code from comments, strings and characters. The blanked text
//! has the length and the line breaks of the original, so that offsets and line numbers hold in both.

pub struct Source {
    pub path: String,
    pub text: String,
    /// `text` with every byte of comments, strings and character literals replaced by a space.
    pub code: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned(), code: blank(text) }
    }

    /// The line number of an offset, from 1.
    pub fn line(&self, offset: usize) -> usize {
        self.code.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// Offsets at which `word` stands in the code as a whole word (its first and last characters decide).
    pub fn words(&self, word: &str) -> Vec<usize> {
        let bytes = self.code.as_bytes();
        let whole = |start: &usize| {
            let before = start.checked_sub(1).map(|at| bytes[at]);
            let after = bytes.get(start + word.len()).copied();
            let first = word.as_bytes()[0];
            let last = word.as_bytes()[word.len() - 1];
            let longer_before = is_word(first) && before.is_some_and(is_word);
            let longer_after = is_word(last) && after.is_some_and(is_word);
            !longer_before && !longer_after
        };
        self.code.match_indices(word).map(|(start, _)| start).filter(whole).collect()
    }
}

pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The identifier that starts at `offset`, empty if none does.
pub fn identifier(code: &str, offset: usize) -> &str {
    let rest = &code[offset..];
    let end = rest.bytes().position(|byte| !is_word(byte)).unwrap_or(rest.len());
    &rest[..end]
}

fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = if bytes[at..].starts_with(b"//") {
            bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length)
        } else if bytes[at..].starts_with(b"/*") {
            comment_end(bytes, at)
        } else if bytes[at] == b'"' {
            string_end(bytes, at + 1)
        } else if let Some(end) = raw_string_end(bytes, at) {
            end
        } else if bytes[at] == b'\'' {
            character_end(bytes, at)
        } else {
            at += 1;
            continue;
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(out).expect("whole literals are replaced by spaces")
}

/// Block comments nest.
fn comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if bytes[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// `r"…"`, `r#"…"#` and so on, also after `b` or `c`; None if there is no raw string at `start`.
fn raw_string_end(bytes: &[u8], start: usize) -> Option<usize> {
    if bytes[start] != b'r' {
        return None;
    }
    // `for"` is no raw string, `br"` is one.
    let prefix_start = if start > 0 && matches!(bytes[start - 1], b'b' | b'c') { start - 1 } else { start };
    if prefix_start > 0 && is_word(bytes[prefix_start - 1]) {
        return None;
    }
    let hashes = bytes[start + 1..].iter().take_while(|byte| **byte == b'#').count();
    let open = start + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let length = bytes[open + 1..].windows(close.len()).position(|window| window == close.as_bytes());
    Some(length.map_or(bytes.len(), |length| open + 1 + length + close.len()))
}

/// The end of a character literal at `start`; `start` itself for a lifetime, which stays as it is.
fn character_end(bytes: &[u8], start: usize) -> usize {
    match bytes.get(start + 1) {
        Some(b'\\') => {
            let rest = &bytes[(start + 3).min(bytes.len())..];
            rest.iter().position(|byte| *byte == b'\'').map_or(bytes.len(), |length| start + 3 + length + 1)
        }
        Some(first) => {
            let width = match first {
                0xf0.. => 4,
                0xe0.. => 3,
                0xc0.. => 2,
                _ => 1,
            };
            if bytes.get(start + 1 + width) == Some(&b'\'') { start + width + 2 } else { start }
        }
        None => start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        Source::new("x.rs", text).code
    }

    #[test]
    fn comments_and_literals_are_blank() {
        assert_eq!(code("a // unsafe\nb"), "a          \nb");
        assert_eq!(code("a /* x /* y */ z */ b"), "a                   b");
        assert_eq!(code(r#"f("a\"b", c)"#), "f(      , c)");
        assert_eq!(code("f(r#\"a\"b\"#, c)"), "f(        , c)");
        assert_eq!(code("br\"x\" y"), "b     y");
    }

    #[test]
    fn lifetimes_are_no_literals() {
        assert_eq!(code("fn f<'a>(x: &'a str) -> char { '\\'' }"), "fn f<'a>(x: &'a str) -> char {      }");
        assert_eq!(code("'x' 'é' '\\u{1F600}' 'outer: loop {}"), "                     'outer: loop {}");
    }

    #[test]
    fn an_identifier_that_ends_in_r_is_no_raw_string() {
        assert_eq!(code("attr\"x\""), "attr   ");
    }

    #[test]
    fn words_are_whole() {
        let source = Source::new("x.rs", "unsafe_code unsafe x_unsafe (unsafe)\nunsafe");
        let lines: Vec<_> = source.words("unsafe").into_iter().map(|at| source.line(at)).collect();
        assert_eq!(lines, [1, 1, 2]);
    }
}
