//! A lock on the keys of a table that have no row.
//!
//! A row that is put where none is must know of every tombstone of its key, and a tombstone that is written where no row
//! is must know of every row; neither sees the other while both are in open transactions, and there is no row to lock.
//! Whoever puts rows holds this lock shared until his transaction ends; whoever has written to a key without a row takes
//! it exclusively before he commits, and looks once more.
//!
//! It is a heavyweight lock of the advisory class, with a number that advisory locks of users don't have, so that
//! `pg_locks` shows it and the server's deadlock detection knows it.

use pgrx::pg_sys;

use super::Oid;
use super::xact::Xact;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyLock {
    /// This transaction puts rows where none is.
    Shared,
    /// Nobody else does.
    Exclusive,
}

/// Users' advisory locks have 1 or 2 here.
const LOCK_KIND: u16 = 0x6D65;

/// `USER_LOCKMETHOD`.
const LOCK_METHOD: u8 = 2;

/// Takes the lock, and holds it until the transaction ends.
pub fn lock(_xact: &Xact, table: Oid, lock: KeyLock) {
    acquire(table, lock, false);
}

/// The same in a backend's statement, which always is in a transaction.
pub fn lock_in_statement(table: Oid, lock: KeyLock) {
    acquire(table, lock, false);
}

/// Takes it exclusively unless somebody else holds it.
pub fn try_exclusive(_xact: &Xact, table: Oid) -> bool {
    acquire(table, KeyLock::Exclusive, true)
}

fn acquire(table: Oid, lock: KeyLock, at_once: bool) -> bool {
    let mode = match lock {
        KeyLock::Shared => pg_sys::ShareLock,
        KeyLock::Exclusive => pg_sys::ExclusiveLock,
    };
    // SAFETY: inside a transaction, which the lock belongs to; the tag is copied
    unsafe {
        let tag = pg_sys::LOCKTAG {
            locktag_field1: pg_sys::MyDatabaseId.to_u32(),
            locktag_field2: table.to_u32(),
            locktag_field3: 0,
            locktag_field4: LOCK_KIND,
            locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
            locktag_lockmethodid: LOCK_METHOD,
        };
        let result = pg_sys::LockAcquire(&tag, mode as i32, false, at_once);
        result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }
}
