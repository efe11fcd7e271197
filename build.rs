//! Links libpq, which the receiver's own connection uses, and keeps pgrx' schema section in the library.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-lib=pq");
    // Nothing in the library refers to the section from which `cargo pgrx` reads its SQL. `cargo pgrx` would keep it
    // by compiling every crate with other flags; saying it for the library alone lets tests and installation share
    // one build (crates/xtask/src/install.rs).
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-link-arg-cdylib=-Wl,--no-gc-sections");
    }
}
