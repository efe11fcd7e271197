//! The key of a row as bytes: what tombstones and explicit stamps are found by.
//!
//! Two rows of a table have the same bytes just if the key's index takes their keys for equal. For most types that is so
//! for the stored bytes, which the type's operator class tells; numbers are brought to one form first. A table whose key
//! has a column of another type can't be replicated. Integers keep their order, so that keys that were noted in the
//! order of a scan go into an index one after the other.
//!
//! Used by the row trigger, by the apply worker, and by the functions that add tables to replication sets.

use std::cell::RefCell;
use std::ffi::CStr;
use std::rc::Rc;
use std::slice;

use meld_core::ids::RelId;
use pgrx::pg_sys;

use super::Oid;
use super::invalidation::TableCache;
use super::row_key::{key_index, with_index};

/// The bytes of a key. The empty one is no row's: it stands for all keys of a table.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct RowKey(pub Vec<u8>);

/// How the values of a key column become bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// By value, signed, so many bytes.
    Signed(usize),
    /// By value, without a sign.
    Unsigned(usize),
    Float4,
    Float8,
    Numeric,
    /// By reference, so many bytes.
    Fixed(usize),
    Varlena,
    /// Like it, but blanks at the end don't count.
    Padded,
    CString,
}

#[derive(Clone, Copy, Debug)]
struct KeyColumn {
    /// Index in the row.
    place: usize,
    form: Form,
}

/// The columns of a table's key, to be kept as long as the table is open.
#[derive(Clone, Debug)]
pub struct KeyColumns {
    columns: Vec<KeyColumn>,
    width: usize,
}

impl KeyColumn {
    /// Whether two rows surely have the same value here: false for values of variable length, which take a closer look,
    /// unless they are stored in the same way.
    ///
    /// # Safety
    /// Two rows with the column, with their descriptor.
    unsafe fn is_same(&self, row: pg_sys::HeapTuple, other: pg_sys::HeapTuple, descriptor: pg_sys::TupleDesc) -> bool {
        let number = self.place as i32 + 1;
        let (mut is_null, mut other_is_null) = (true, true);
        // SAFETY: see above; a value by reference is as long as its form or its header says, and lies in its row
        unsafe {
            let value = pg_sys::heap_getattr(row, number, descriptor, &mut is_null);
            let other_value = pg_sys::heap_getattr(other, number, descriptor, &mut other_is_null);
            if is_null || other_is_null {
                return false;
            }
            let bytes = |value: pg_sys::Datum, length| slice::from_raw_parts(value.cast_mut_ptr::<u8>(), length);
            match self.form {
                Form::Signed(_) | Form::Unsigned(_) | Form::Float4 | Form::Float8 => value == other_value,
                Form::Fixed(length) => bytes(value, length) == bytes(other_value, length),
                Form::Numeric | Form::Varlena | Form::Padded => {
                    let length = pgrx::varlena::varsize_any(value.cast_mut_ptr());
                    length == pgrx::varlena::varsize_any(other_value.cast_mut_ptr())
                        && bytes(value, length) == bytes(other_value, length)
                }
                Form::CString => false,
            }
        }
    }
}

/// Support function of a btree operator class that tells whether equal means equal bytes (`BTEQUALIMAGE_PROC`).
const EQUAL_IMAGE: i16 = 4;

/// Between two columns of variable length; zero bytes inside of one are followed by `ESCAPED`.
const END: [u8; 2] = [0, 0];
const ESCAPED: u8 = 0xFF;

/// In front of a key of one column of variable length.
const ONLY: u8 = 1;

impl KeyColumns {
    /// The columns by which rows of the table are found; none if it has no key. `Err` names a column whose values can't
    /// become bytes.
    ///
    /// # Safety
    /// An open relation, in a transaction.
    pub(super) unsafe fn of(relation: pg_sys::Relation) -> Option<Result<KeyColumns, String>> {
        // SAFETY: see above; the index is open inside the closure, its arrays are as long as it has key columns
        unsafe {
            let index = key_index(relation);
            with_index(index, |index| {
                let descriptor = (*relation).rd_att;
                let attributes = (*descriptor).attrs.as_slice((*descriptor).natts as usize);
                let form = &*(*index).rd_index;
                let mut columns = Vec::new();
                for (i, &number) in form.indkey.values.as_slice(form.indnkeyatts as usize).iter().enumerate() {
                    let place = usize::try_from(number - 1).ok()?;
                    let attribute = attributes.get(place)?;
                    match form_of(index, i, attribute) {
                        Some(form) => columns.push(KeyColumn { place, form }),
                        None => return Some(Err(super::columns::name_of(attribute))),
                    }
                }
                Some(Ok(KeyColumns { columns, width: attributes.len() }))
            })
        }
    }

    /// The key of a row given by its values; none if one of them is null.
    ///
    /// # Safety
    /// Arrays as wide as the table's rows, with values of its columns. What is decompressed goes into the current memory
    /// context.
    pub(super) unsafe fn encode(&self, values: *const pg_sys::Datum, nulls: *const bool) -> Option<RowKey> {
        let mut bytes = Vec::with_capacity(16);
        // SAFETY: within the arrays
        unsafe { self.append(&mut bytes, |place| (!*nulls.add(place)).then(|| *values.add(place))) }
            .then_some(RowKey(bytes))
    }

    /// The key of a stored row.
    ///
    /// # Safety
    /// A row of the table, with its descriptor.
    pub(super) unsafe fn of_tuple(&self, row: pg_sys::HeapTuple, descriptor: pg_sys::TupleDesc) -> Option<RowKey> {
        let mut bytes = Vec::with_capacity(16);
        // SAFETY: see above
        unsafe { self.append_tuple(&mut bytes, row, descriptor) }.then_some(RowKey(bytes))
    }

    /// Puts the key of a stored row behind other bytes. If one of its values is null, it has none: what is behind them
    /// then means nothing, and this is false.
    ///
    /// # Safety
    /// A row of the table, with its descriptor.
    pub(super) unsafe fn append_tuple(
        &self,
        bytes: &mut Vec<u8>,
        row: pg_sys::HeapTuple,
        descriptor: pg_sys::TupleDesc,
    ) -> bool {
        let value = |place: usize| {
            let mut is_null = true;
            // SAFETY: the row has the column
            let value = unsafe { pg_sys::heap_getattr(row, place as i32 + 1, descriptor, &mut is_null) };
            (!is_null).then_some(value)
        };
        // SAFETY: see above
        unsafe { self.append(bytes, value) }
    }

    /// # Safety
    /// `value` gives the columns' values by their places in a row of the table; none for null.
    unsafe fn append(&self, bytes: &mut Vec<u8>, value: impl Fn(usize) -> Option<pg_sys::Datum>) -> bool {
        let is_only = self.columns.len() == 1;
        for column in &self.columns {
            let Some(value) = value(column.place) else { return false };
            // SAFETY: a value of that column
            unsafe { append(bytes, value, column.form, is_only) };
        }
        true
    }

    /// Whether two versions of a row have different keys.
    ///
    /// # Safety
    /// Two rows of the table, with their descriptor.
    pub(super) unsafe fn differ(
        &self,
        row: pg_sys::HeapTuple,
        other: pg_sys::HeapTuple,
        descriptor: pg_sys::TupleDesc,
    ) -> bool {
        // SAFETY: see above
        unsafe {
            // nearly every update leaves the key alone, which takes no more than a look
            if self.columns.iter().all(|column| column.is_same(row, other, descriptor)) {
                return false;
            }
            self.of_tuple(row, descriptor) != self.of_tuple(other, descriptor)
        }
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }
}

/// A column of a table's key whose values can't become bytes.
pub fn column_without_bytes(table: Oid) -> Option<String> {
    // SAFETY: inside a transaction; raises if there is no such table; open while it is looked at, locked until the end
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
        let columns = KeyColumns::of(relation);
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        columns.and_then(Result::err)
    }
}

/// The key columns of a table, as this process knows them: asked for again when the table has changed.
///
/// # Safety
/// An open relation, in a transaction.
pub(super) unsafe fn known(relation: pg_sys::Relation) -> Option<Rc<KeyColumns>> {
    // SAFETY: see above
    let table = RelId(unsafe { (*relation).rd_id }.to_u32());
    KNOWN.with_borrow_mut(|known| known.get(table)).unwrap_or_else(|| {
        // SAFETY: see above. Nothing is borrowed meanwhile: a look-up may take in invalidations
        let columns = unsafe { KeyColumns::of(relation) }.and_then(Result::ok).map(Rc::new);
        KNOWN.with_borrow_mut(|known| known.insert(table, columns.clone()));
        columns
    })
}

thread_local! {
    static KNOWN: RefCell<TableCache<Option<Rc<KeyColumns>>>> = RefCell::default();
}

/// # Safety
/// An open index, one of its key columns, and the table's column that it is of.
unsafe fn form_of(index: pg_sys::Relation, i: usize, attribute: &pg_sys::FormData_pg_attribute) -> Option<Form> {
    // SAFETY: see above
    let (input_type, family, collation) =
        unsafe { (*(*index).rd_opcintype.add(i), *(*index).rd_opfamily.add(i), *(*index).rd_indcollation.add(i)) };
    let form = match (input_type, attribute.attbyval, attribute.attlen) {
        (pg_sys::NUMERICOID, ..) => return Some(Form::Numeric),
        (pg_sys::FLOAT4OID, ..) => return Some(Form::Float4),
        (pg_sys::FLOAT8OID, ..) => return Some(Form::Float8),
        (pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID | pg_sys::DATEOID, true, length @ 1..) => {
            Form::Signed(length as usize)
        }
        (pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID | pg_sys::TIMEOID, true, length @ 1..) => {
            Form::Signed(length as usize)
        }
        (_, true, length @ 1..) => Form::Unsigned(length as usize),
        (_, false, length @ 1..) => Form::Fixed(length as usize),
        (pg_sys::BPCHAROID, false, -1) => {
            // SAFETY: asks the catalog for a collation that the index has
            return unsafe { pg_sys::get_collation_isdeterministic(collation) }.then_some(Form::Padded);
        }
        (_, false, -1) => Form::Varlena,
        (_, false, -2) => Form::CString,
        _ => return None,
    };
    // SAFETY: asks the operator class of an open index
    let equals_by_image = unsafe {
        let function = pg_sys::get_opfamily_proc(family, input_type, input_type, EQUAL_IMAGE);
        function != pg_sys::InvalidOid
            && pg_sys::OidFunctionCall1Coll(function, collation, pg_sys::Datum::from(input_type)).value() as u8 != 0
    };
    equals_by_image.then_some(form)
}

/// # Safety
/// A value of a column of that form.
unsafe fn append(bytes: &mut Vec<u8>, value: pg_sys::Datum, form: Form, is_only: bool) {
    let number = value.value() as u64;
    // SAFETY: see above, in each arm
    unsafe {
        match form {
            Form::Signed(length) => integer(bytes, number ^ 1 << (8 * length - 1), length),
            Form::Unsigned(length) => integer(bytes, number, length),
            Form::Float4 => {
                let value = f64::from(f32::from_bits(number as u32));
                integer(bytes, float_order(value), 8);
            }
            Form::Float8 => integer(bytes, float_order(f64::from_bits(number)), 8),
            Form::Numeric => {
                let text = pg_sys::numeric_normalize(pg_sys::pg_detoast_datum(value.cast_mut_ptr()).cast());
                variable(bytes, CStr::from_ptr(text).to_bytes(), is_only);
                pg_sys::pfree(text.cast());
            }
            Form::Fixed(length) => bytes.extend_from_slice(slice::from_raw_parts(value.cast_mut_ptr(), length)),
            Form::CString => variable(bytes, CStr::from_ptr(value.cast_mut_ptr()).to_bytes(), is_only),
            Form::Varlena => variable(bytes, content(value), is_only),
            Form::Padded => variable(bytes, without_blanks_at_end(content(value)), is_only),
        }
    }
}

/// # Safety
/// A value of variable length, which stays, or whose copy does, while the memory context does.
unsafe fn content<'a>(value: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: see above
    unsafe {
        let plain = pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr());
        slice::from_raw_parts(pgrx::varlena::vardata_any(plain).cast(), pgrx::varlena::varsize_any_exhdr(plain))
    }
}

fn without_blanks_at_end(text: &[u8]) -> &[u8] {
    let length = text.iter().rposition(|&byte| byte != b' ').map_or(0, |last| last + 1);
    &text[..length]
}

fn integer(bytes: &mut Vec<u8>, value: u64, length: usize) {
    bytes.extend_from_slice(&value.to_be_bytes()[8 - length..]);
}

/// A number that is ordered, and equal, as the float is for the server: one zero, one NaN, above all.
fn float_order(value: f64) -> u64 {
    let bits = match value {
        value if value.is_nan() => f64::NAN.to_bits() & !(1 << 63),
        0.0 => 0,
        value => value.to_bits(),
    };
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

/// The only column needs no end; others must not run into the next. No key is empty: that stands for the whole table.
fn variable(bytes: &mut Vec<u8>, content: &[u8], is_only: bool) {
    if is_only {
        bytes.push(ONLY);
        bytes.extend_from_slice(content);
        return;
    }
    for &byte in content {
        bytes.push(byte);
        if byte == 0 {
            bytes.push(ESCAPED);
        }
    }
    bytes.extend_from_slice(&END);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_keys_of_two_columns_run_together() {
        let key = |one: &[u8], other: &[u8]| {
            let mut bytes = Vec::new();
            variable(&mut bytes, one, false);
            variable(&mut bytes, other, false);
            bytes
        };
        assert_ne!(key(b"a", b"bc"), key(b"ab", b"c"));
        assert_ne!(key(b"a\0", b"b"), key(b"a", b"\0b"));
        assert_ne!(key(b"", b"\0"), key(b"\0", b""));
        assert!(key(b"a", b"z") < key(b"ab", b"a"));
    }

    #[test]
    fn no_key_is_empty() {
        for is_only in [true, false] {
            let mut bytes = Vec::new();
            variable(&mut bytes, b"", is_only);
            assert!(!bytes.is_empty());
        }
    }

    #[test]
    fn floats_are_ordered_and_equal_as_for_the_server() {
        let ordered = [f64::NEG_INFINITY, -2.5, -1.0, 0.0, 1e-300, 1.0, f64::INFINITY, f64::NAN];
        assert!(ordered.windows(2).all(|pair| float_order(pair[0]) < float_order(pair[1])));
        assert_eq!(float_order(-0.0), float_order(0.0));
        assert_eq!(float_order(-f64::NAN), float_order(f64::NAN));
    }

    #[test]
    fn integers_keep_their_order() {
        let key = |value: i64| {
            let mut bytes = Vec::new();
            integer(&mut bytes, value as u64 ^ 1 << 63, 8);
            bytes
        };
        assert!([i64::MIN, -1, 0, 1, i64::MAX].windows(2).all(|pair| key(pair[0]) < key(pair[1])));
    }
}
