//! Whether this database is a node, as any process of any user can find out in the middle of a commit.

use pgrx::pg_sys;

/// Looks for a row in `meld.local_node`, without asking for rights on it. True, too, if the table is locked, as while the
/// extension is dropped: waiting for that could end in a deadlock. Inside a transaction.
pub fn is_here() -> bool {
    let lock = pg_sys::AccessShareLock as i32;
    // SAFETY: inside a transaction, on the main thread; names are C literals; the table is locked before it is opened,
    // and looked for again, since it may be gone by then. A scan without a snapshot takes a fresh one
    unsafe {
        let table = || {
            let schema = pg_sys::get_namespace_oid(c"meld".as_ptr(), true);
            if schema == pg_sys::InvalidOid {
                pg_sys::InvalidOid
            } else {
                pg_sys::get_relname_relid(c"local_node".as_ptr(), schema)
            }
        };
        let oid = table();
        if oid == pg_sys::InvalidOid {
            return false;
        }
        if !pg_sys::ConditionalLockRelationOid(oid, lock) {
            return true;
        }
        let is_there = table() == oid && {
            let relation = pg_sys::table_open(oid, pg_sys::NoLock as i32);
            let scan = pg_sys::systable_beginscan(
                relation,
                pg_sys::InvalidOid,
                false,
                std::ptr::null_mut(),
                0,
                std::ptr::null_mut(),
            );
            let found = !pg_sys::systable_getnext(scan).is_null();
            pg_sys::systable_endscan(scan);
            pg_sys::table_close(relation, pg_sys::NoLock as i32);
            found
        };
        pg_sys::UnlockRelationOid(oid, lock);
        is_there
    }
}
