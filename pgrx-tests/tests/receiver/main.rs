//! The receiver room by itself, against real servers and a fake one: it is Rust and libpq, and needs no extension.

#[allow(dead_code, reason = "the extension uses all of it")]
#[path = "../../../src/receiver/mod.rs"]
mod receiver;
