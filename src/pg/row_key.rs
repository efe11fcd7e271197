//! The key of a row: the columns by which a peer finds it, and a fingerprint of their values.
//!
//! The row trigger looks at a table that a statement has open, the output plugin at one that is decoded; both must come
//! to the same columns and bytes.

use std::slice;

use meld_core::fingerprint::Fingerprint;
use pgrx::pg_sys;

/// Numbers of the columns by which a peer finds a row.
///
/// # Safety
/// An open relation, in a transaction.
pub(super) unsafe fn key_attributes(relation: pg_sys::Relation) -> Vec<pg_sys::AttrNumber> {
    // SAFETY: see above; the array has at least so many elements
    unsafe {
        with_index(key_index(relation), |index| {
            let form = &*(*index).rd_index;
            Some(form.indkey.values.as_slice(form.indnkeyatts as usize).to_vec())
        })
        .unwrap_or_default()
    }
}

/// The index by which a peer finds a row: the replica identity index, which is the primary key unless another was set.
/// With REPLICA IDENTITY FULL the primary key, too. `InvalidOid` with NOTHING: WAL does not tell which row was deleted.
///
/// # Safety
/// An open relation, in a transaction.
pub(super) unsafe fn key_index(relation: pg_sys::Relation) -> pg_sys::Oid {
    // SAFETY: see above; both calls read the relation's cached list of indexes, or build it
    unsafe {
        match (*(*relation).rd_rel).relreplident as u8 {
            pg_sys::REPLICA_IDENTITY_NOTHING => pg_sys::InvalidOid,
            pg_sys::REPLICA_IDENTITY_FULL => primary_key_index(relation),
            _ => pg_sys::RelationGetReplicaIndex(relation),
        }
    }
}

/// Looks at an index, if there is one.
///
/// # Safety
/// In a transaction; the index's table is open.
pub(super) unsafe fn with_index<T>(index: pg_sys::Oid, look: impl FnOnce(pg_sys::Relation) -> Option<T>) -> Option<T> {
    if index == pg_sys::InvalidOid {
        return None;
    }
    // SAFETY: a cache entry is held while it is looked at, and given back; an error lets go of it, too
    unsafe {
        let index = pg_sys::RelationIdGetRelation(index);
        if index.is_null() {
            return None;
        }
        let result = look(index);
        pg_sys::RelationClose(index);
        result
    }
}

/// The index of the primary key, or `InvalidOid`.
///
/// # Safety
/// An open relation, in a transaction.
pub(super) unsafe fn primary_key_index(relation: pg_sys::Relation) -> pg_sys::Oid {
    // SAFETY: see above
    #[cfg(not(feature = "pg18"))]
    unsafe {
        pg_sys::RelationGetPrimaryKeyIndex(relation)
    }
    // SAFETY: see above; a deferrable key is none to find rows by
    #[cfg(feature = "pg18")]
    unsafe {
        pg_sys::RelationGetPrimaryKeyIndex(relation, false)
    }
}

/// Fingerprint of a row's key. None if the table has none. Values that are stored out of line are read from their TOAST
/// table, unless `in_wal`: WAL holds no more of them, so there is no fingerprint, either.
///
/// # Safety
/// An open relation, in a transaction, and a row with its descriptor. What is decompressed goes into the current memory
/// context.
pub(super) unsafe fn fingerprint(relation: pg_sys::Relation, row: pg_sys::HeapTuple, in_wal: bool) -> Option<u64> {
    // SAFETY: see above; the buffers are as wide as the descriptor, in which every key column is
    unsafe {
        let mut attributes = key_attributes(relation);
        if attributes.is_empty() {
            return None;
        }
        attributes.sort_unstable();
        let descriptor = (*relation).rd_att;
        let columns = pgrx::PgTupleDesc::from_pg_unchecked(descriptor);
        let mut datums = vec![pg_sys::Datum::from(0_usize); columns.len()];
        let mut nulls = vec![true; columns.len()];
        pg_sys::heap_deform_tuple(row, descriptor, datums.as_mut_ptr(), nulls.as_mut_ptr());
        let mut fingerprint = Fingerprint::default();
        for attribute in attributes {
            let place = usize::try_from(attribute - 1).ok()?;
            let column = columns.get(place)?;
            if *nulls.get(place)? {
                return None;
            }
            add(&mut fingerprint, datums[place], column.attlen, column.attbyval, in_wal)?;
        }
        Some(fingerprint.finish())
    }
}

/// Adds one value; none if its bytes are not at hand.
///
/// # Safety
/// A value of a type of this length and way of passing.
unsafe fn add(
    fingerprint: &mut Fingerprint,
    value: pg_sys::Datum,
    length: i16,
    by_value: bool,
    in_wal: bool,
) -> Option<()> {
    // SAFETY: see above
    unsafe {
        match length {
            _ if by_value => fingerprint.add(&value.value().to_le_bytes()),
            1.. => fingerprint.add(slice::from_raw_parts(value.cast_mut_ptr(), length as usize)),
            -1 => {
                let stored = value.cast_mut_ptr::<pg_sys::varlena>();
                if in_wal && pgrx::varlena::varatt_is_1b_e(stored) {
                    return None;
                }
                let plain = pg_sys::pg_detoast_datum_packed(stored);
                let bytes = pgrx::varlena::vardata_any(plain).cast();
                fingerprint.add(slice::from_raw_parts(bytes, pgrx::varlena::varsize_any_exhdr(plain)));
            }
            _ => fingerprint.add(std::ffi::CStr::from_ptr(value.cast_mut_ptr()).to_bytes()),
        }
    }
    Some(())
}
