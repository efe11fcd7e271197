//! Finding relations by name, without a search path.

use std::ffi::CString;

use pgrx::pg_sys;
use pgrx::prelude::PgSqlErrorCode;

use crate::log::{Failure, Result};

/// The table's oid, or an error that says that it is not here. Inside a transaction.
pub(super) fn table_oid(schema: &str, name: &str) -> Result<pg_sys::Oid> {
    let missing = || {
        Failure::new(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, format!("table \"{schema}.{name}\" does not exist here"))
            .hint("Create it as it is at the provider, or remove it from the replication set there.")
    };
    let c_schema = CString::new(schema).map_err(|_| missing())?;
    let c_name = CString::new(name).map_err(|_| missing())?;
    // SAFETY: inside a transaction; the names live longer than the calls; no namespace has the invalid oid
    let oid = unsafe {
        let namespace = pg_sys::get_namespace_oid(c_schema.as_ptr(), true);
        pg_sys::get_relname_relid(c_name.as_ptr(), namespace)
    };
    if oid == pg_sys::InvalidOid { Err(missing()) } else { Ok(oid) }
}
