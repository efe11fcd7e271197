//! meld: active-active logical replication for stock PostgreSQL, as an extension.
//!
//! This crate is the server shell. It reads WAL through an output plugin (`plugin`), receives a peer's stream
//! (`receiver`), and carries out (`apply`) what `meld_core` decides. Every process of PostgreSQL that loads the library
//! comes in through `_PG_init` below; what each room is for, which process runs it and what it may import stands in
//! `docs/architecture.md`.

pub mod api;
pub mod apply;
pub mod catalog;
pub mod clock;
pub mod conflict;
pub mod log;
pub mod monitor;
pub mod pg;
pub mod plugin;
pub mod receiver;
pub mod sequence;
pub mod settings;
pub mod trigger;
pub mod workers;

use pgrx::prelude::*;

pg_module_magic!();

extension_sql_file!("../sql/catalog.sql", name = "catalog", bootstrap);
extension_sql_file!("../sql/state.sql", name = "state", requires = ["catalog"]);
extension_sql_file!("../sql/delta.sql", name = "delta", requires = ["state"]);
extension_sql_file!("../sql/exceptions.sql", name = "exceptions", requires = ["delta"]);
extension_sql_file!("../sql/functions.sql", name = "functions", requires = ["exceptions"]);
extension_sql_file!("../sql/snowflake.sql", name = "snowflake", requires = ["functions"]);
extension_sql_file!("../sql/sequences.sql", name = "sequences", requires = ["snowflake"]);
extension_sql_file!("../sql/views.sql", name = "views", requires = ["sequences"]);

/// Runs once in each process that loads the library: in the postmaster when it is preloaded, else in a backend.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::register();
    clock::init();
    workers::init();
    trigger::init(workers::wake_at_commit);
}

/// Settings of the server that `#[pg_test]`s run in.
#[cfg(test)]
pub mod pg_test {
    use std::path::PathBuf;
    use std::process::Command;

    pub fn setup(_options: Vec<&str>) {}

    pub fn postgresql_conf_options() -> Vec<&'static str> {
        let mut lines = vec!["wal_level = logical", "track_commit_timestamp = on", "shared_preload_libraries = 'meld'"];
        // A server of a minor release without the setting would refuse to start with it.
        if known_settings().lines().any(|line| line.starts_with("output_plugin_libraries\t")) {
            lines.push("output_plugin_libraries = 'meld, pgoutput, test_decoding'");
        }
        lines
    }

    /// What the server says about its settings. `cargo x test` names its folder, by hand the one in PATH is asked.
    fn known_settings() -> String {
        let bin = std::env::var_os("MELD_PG_BIN").map_or_else(
            || {
                let output = Command::new("pg_config").arg("--bindir").output().expect("pg_config is in PATH");
                PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
            },
            PathBuf::from,
        );
        let output = Command::new(bin.join("postgres")).arg("--describe-config").output().expect("the server is there");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
