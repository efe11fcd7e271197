//! meld
pgrx::pg_module_magic!();
