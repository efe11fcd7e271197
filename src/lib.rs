//! meld: active-active logical replication for stock PostgreSQL, as an extension.
//!
//! This crate is the server shell. It reads WAL through an output plugin (`plugin`), receives a peer's stream
//! (`receiver`), and carries out (`apply`) what `meld_core` decides. Every process of PostgreSQL that loads the library
//! comes in through `_PG_init` below; what each room is for, which process runs it and what it may import stands in
//! `docs/architecture.md`.

pub mod api;
pub mod apply;
pub mod catalog;
pub mod conflict;
pub mod log;
pub mod monitor;
pub mod pg;
pub mod plugin;
pub mod receiver;
pub mod settings;
pub mod workers;

use pgrx::prelude::*;

pg_module_magic!();

extension_sql_file!("../sql/catalog.sql", name = "catalog", bootstrap);
extension_sql_file!("../sql/functions.sql", name = "functions", requires = ["catalog"]);
extension_sql_file!("../sql/views.sql", name = "views", requires = ["functions"]);

/// Runs once in each process that loads the library: in the postmaster when it is preloaded, else in a backend.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::register();
    workers::init();
}

/// Settings of the server that `#[pg_test]`s run in.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["wal_level = logical", "track_commit_timestamp = on", "shared_preload_libraries = 'meld'"]
    }
}
