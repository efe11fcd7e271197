//! The databases of the server, as a process without a database can read them.

use pgrx::pg_sys;

use super::Oid;
use super::xact::Xact;

/// Databases that a worker could connect to: templates are left out, since a connection would get in the way of
/// CREATE DATABASE.
pub fn connectable(_xact: &Xact) -> Vec<Oid> {
    let mut databases = Vec::new();
    // SAFETY: inside a transaction; pg_database is a shared catalog that any process can read. The scan gives tuples
    // that are valid until its next step, laid out as FormData_pg_database
    unsafe {
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::systable_beginscan(
            relation,
            pg_sys::InvalidOid,
            false,
            std::ptr::null_mut(),
            0,
            std::ptr::null_mut(),
        );
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            if row.datallowconn && !row.datistemplate && row.datconnlimit != INVALID {
                databases.push(row.oid);
            }
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
    databases
}

/// `datconnlimit` of a database whose DROP was interrupted (DATCONNLIMIT_INVALID_DB).
const INVALID: i32 = -2;
