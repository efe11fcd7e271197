//! Each rule finds a planted violation, and finds nothing in a tree that keeps them all.

use super::{Violation, violations};
use std::fs;
use tempfile::TempDir;

const TABLE: &str = "<!-- import table -->\n| Room | Rooms | Crates |\n|---|---|---|\n\
    | `api` | `catalog`, `pg` | `pgrx` |\n| `catalog` | `pg` | `pgrx`, `serde` |\n| `receiver` | | `meld_core` |\n\
    | `pg` | | `pgrx`, `libc` |\n| `core` | | `serde`, `bincode` |\n<!-- end of import table -->\n";

/// A small tree that keeps all rules, with one file added or replaced.
fn tree_with(path: &str, text: &str) -> Vec<Violation> {
    let dir = TempDir::new().unwrap();
    let manifest = "[dependencies]\nmeld-core.workspace = true\npgrx = \"=0.18.1\"\nlibc = \"0.2\"\nserde = \"1\"\n";
    let tidy_files = [
        ("Cargo.toml", manifest),
        ("docs/architecture.md", TABLE),
        (
            "crates/core/Cargo.toml",
            "[dependencies]\nserde = \"1\"\nbincode = \"2\"\n\n[dev-dependencies]\nrand = \"1\"\n",
        ),
        ("src/lib.rs", "//! Root.\nuse crate::api;\n"),
        ("src/api/node.rs", "//! Uses what it may.\nuse crate::{catalog::{a, b}, pg};\nuse pgrx::prelude::*;\n"),
        ("src/pg/mod.rs", "//! The fence.\nfn f() { unsafe { pg_sys::g() } }\n"),
        ("src/receiver/libpq.rs", "//! The other fence.\nuse meld_core::wire;\nfn f() { unsafe { g() } }\n"),
        ("README.md", "See [this](docs/architecture.md#rooms), [that](docs/), [the web](https://example.org/).\n"),
    ];
    for (path, text) in tidy_files.into_iter().chain([(path, text)]) {
        let file = dir.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    violations(dir.path()).unwrap()
}

#[track_caller]
fn assert_found(path: &str, text: &str, rule: &str, line: usize) {
    let found = tree_with(path, text);
    let hit = found.iter().any(|violation| violation.rule == rule && violation.path == path && violation.line == line);
    assert!(hit && found.len() == 1, "expected one violation of {rule} in {path}:{line}, found {found:#?}");
}

#[track_caller]
fn assert_tidy(path: &str, text: &str) {
    let found = tree_with(path, text);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_tidy_tree_has_no_violations() {
    assert_tidy("src/api/other.rs", "//! Words in comments: unsafe pg_sys dbg! crate::receiver\n// #[ignore]\n");
    assert_tidy(
        "src/api/other.rs",
        "//! Words in strings.\nconst A: &str = \"unsafe pg_sys::x crate::receiver::y\";\n",
    );
}

#[test]
fn unsafe_outside_the_fence_is_found() {
    assert_found("src/api/bad.rs", "//! H.\nfn f() { unsafe { g() } }\n", "fence", 2);
    assert_found("src/receiver/other.rs", "//! H.\nfn f() { unsafe { g() } }\n", "fence", 2);
    assert_found("crates/core/src/bad.rs", "//! H.\nfn f() { unsafe { g() } }\n", "fence", 2);
}

#[test]
fn pg_sys_outside_the_fence_is_found() {
    assert_found("src/api/bad.rs", "//! H.\n\nuse pgrx::pg_sys;\n", "fence", 3);
    assert_found("pgrx-tests/src/bad.rs", "//! H.\nfn f(a: pg_sys::Oid) {}\n", "fence", 2);
}

#[test]
fn a_forbidden_room_is_found() {
    assert_found("src/catalog/bad.rs", "//! H.\nuse crate::api::node;\n", "imports", 2);
    assert_found("src/catalog/bad.rs", "//! H.\nuse crate::{\n    pg::x,\n    api::{y, z},\n};\n", "imports", 4);
    assert_found("src/receiver/bad.rs", "//! H.\nfn f() { crate::catalog::g() }\n", "imports", 2);
    assert_found("src/catalog/bad.rs", "//! H.\nuse super::super::api;\n", "imports", 2);
    assert_tidy("src/catalog/good.rs", "//! H.\ncrate::some_macro!(x);\nuse crate::pg;\n");
}

#[test]
fn a_forbidden_crate_is_found() {
    assert_found("src/receiver/bad.rs", "//! H.\nuse pgrx::prelude::*;\n", "imports", 2);
    assert_found("crates/core/Cargo.toml", "[dependencies]\nserde = \"1\"\npgrx = \"1\"\n", "imports", 1);
}

#[test]
fn a_room_without_a_row_is_found() {
    assert_found("src/shed/mod.rs", "//! H.\n", "imports", 1);
    assert_found("docs/architecture.md", "no table\n", "imports", 1);
}

#[test]
fn long_files_and_functions_are_found() {
    let file = |lines: usize| format!("//! H.\n{}", "// line\n".repeat(lines - 1));
    assert_tidy("src/api/long.rs", &file(400));
    assert_found("src/api/long.rs", &file(401), "size", 401);
    let function = |lines: usize| format!("//! H.\nfn f(a: [u8; 2]) {{\n{}}}\n", "    g();\n".repeat(lines - 2));
    assert_tidy("src/api/long.rs", &function(70));
    assert_found("src/api/long.rs", &function(71), "size", 2);
}

#[test]
fn a_missing_header_is_found() {
    assert_found("crates/core/src/bad.rs", "fn f() {}\n", "size", 1);
}

#[test]
fn bincode_outside_the_codec_is_found() {
    assert_tidy("crates/core/src/wire/codec.rs", "//! H.\nuse bincode::config;\n");
    assert_tidy("crates/core/src/ids.rs", "//! H.\nuse bincode::{Decode, Encode};\n");
    assert_found("crates/core/src/ids.rs", "//! H.\nuse bincode::{Decode, config::Config};\n", "codec", 2);
    assert_found("crates/core/src/ids.rs", "//! H.\nfn f() { bincode::encode_to_vec(1) }\n", "codec", 2);
}

#[test]
fn what_tests_may_not_do_is_found() {
    assert_found("pgrx-tests/src/bad.rs", "//! H.\n#[test]\n#[ignore = \"slow\"]\nfn f() {}\n", "tests", 3);
    assert_found("pgrx-tests/src/bad.rs", "//! H.\nfn f() { std::thread::sleep(g()) }\n", "tests", 2);
    assert_found("crates/core/src/bad.rs", "//! H.\nfn f() { dbg!(1); }\n", "tests", 2);
    assert_tidy("pgrx-tests/src/wait.rs", "//! H.\nfn f() { std::thread::sleep(g()) }\n");
}

#[test]
fn machine_paths_and_dead_links_are_found() {
    let path = ["/ro", "ot/notes"].concat();
    assert_found("docs/notes.md", &format!("first\nsee {path}\n"), "documents", 2);
    assert_tidy("docs/notes.md", "sql/ro/ot framework/x\n");
    assert_found("docs/notes.md", "[gone](gone.md)\n", "documents", 1);
    assert_tidy("docs/notes.md", "[up](../README.md) [here](#x) [top](/src/lib.rs)\n");
    assert_tidy("docs/notes.md", "```\n[gone](gone.md)\n```\n");
}
