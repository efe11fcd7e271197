//! Rows of the server as values for the wire.
//!
//! A value of a built-in type travels in the binary form that its send function makes, all others as text: the oid of
//! a type that was created means nothing on another server, and neither do oids inside of values. The common types are
//! written here without calling their send functions, which would cost more than all the rest; what is written is the
//! same. What has to be computed is put into the current memory context, which the caller empties.

use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::ffi::CStr;
use std::rc::Rc;
use std::slice;

use meld_core::value::Value;
use pgrx::pg_sys;

use super::decoded::{HeapRow, PublishedColumn};

/// Oids below this are given by hand in PostgreSQL's sources and are the same in every version.
const FIRST_UNSTABLE_OID: u32 = 10_000;

/// How the values of one type are written.
#[derive(Clone)]
enum Form {
    /// By value, big-endian, in so many bytes.
    Integer {
        width: usize,
    },
    /// By reference, always so many bytes.
    Fixed {
        width: usize,
    },
    /// By reference, up to the first zero byte.
    Name,
    /// The bytes that the value is made of.
    Bytes,
    Send(Rc<TypeFunction>),
    Text(Rc<TypeFunction>),
}

/// A send or output function of one type, with what it keeps between its calls.
struct TypeFunction {
    function: UnsafeCell<pg_sys::FmgrInfo>,
    /// Where the function keeps it.
    _memory: Rc<FunctionMemory>,
}

/// Memory of the server's that ends with its last user.
struct FunctionMemory(pg_sys::MemoryContext);

/// The forms of the types seen so far.
pub struct TypeForms {
    by_type: HashMap<pg_sys::Oid, Form>,
    memory: Rc<FunctionMemory>,
    text_only: bool,
}

/// How the rows of one table are written.
pub struct RowFormat {
    columns: Vec<ColumnFormat>,
    width: usize,
}

struct ColumnFormat {
    attribute: usize,
    is_varlena: bool,
    is_key: bool,
    form: Form,
}

/// Room for one row, kept from row to row.
#[derive(Default)]
pub struct RowBuffer {
    datums: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
    /// Values that are not in the row in the form in which they travel.
    integers: Vec<[u8; 8]>,
}

impl FunctionMemory {
    fn new() -> Rc<FunctionMemory> {
        // SAFETY: main thread; under the topmost context, so that only `drop` ends it; the name is static
        Rc::new(FunctionMemory(unsafe {
            pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopMemoryContext,
                c"meld output functions".as_ptr(),
                0,
                1024,
                8 * 1024 * 1024,
            )
        }))
    }
}

impl Drop for FunctionMemory {
    fn drop(&mut self) {
        // SAFETY: nobody else has it, and the functions that have memory in it are gone with their counts
        unsafe { pg_sys::MemoryContextDelete(self.0) }
    }
}

impl TypeForms {
    /// `text_only`: every value as text.
    pub fn new(text_only: bool) -> TypeForms {
        TypeForms { by_type: HashMap::new(), memory: FunctionMemory::new(), text_only }
    }

    /// Forgets what it has looked up, since types or functions changed. Formats that were made before stay usable.
    pub fn renew(&mut self) {
        *self = TypeForms::new(self.text_only);
    }

    fn form(&mut self, column: &PublishedColumn) -> Form {
        if let Some(form) = self.by_type.get(&column.type_oid) {
            return form.clone();
        }
        let form = self.look_up(column);
        self.by_type.insert(column.type_oid, form.clone());
        form
    }

    fn look_up(&self, column: &PublishedColumn) -> Form {
        if !self.text_only {
            if let Some(form) = plain_form(column) {
                return form;
            }
            if let Some(send) = stable_send_function(column.type_oid) {
                return Form::Send(self.function(send));
            }
        }
        let (mut output, mut is_varlena) = (pg_sys::InvalidOid, false);
        // SAFETY: in a transaction, with catalog access; raises if the type is not there
        unsafe { pg_sys::getTypeOutputInfo(column.type_oid, &mut output, &mut is_varlena) };
        Form::Text(self.function(output))
    }

    fn function(&self, oid: pg_sys::Oid) -> Rc<TypeFunction> {
        let mut function = pg_sys::FmgrInfo::default();
        // SAFETY: in a transaction, with catalog access; the memory lives as long as the struct
        unsafe { pg_sys::fmgr_info_cxt(oid, &mut function, self.memory.0) };
        Rc::new(TypeFunction { function: UnsafeCell::new(function), _memory: Rc::clone(&self.memory) })
    }
}

/// Types whose binary form is known here.
fn plain_form(column: &PublishedColumn) -> Option<Form> {
    match column.type_oid {
        pg_sys::BOOLOID | pg_sys::CHAROID => Some(Form::Integer { width: 1 }),
        pg_sys::INT2OID => Some(Form::Integer { width: 2 }),
        pg_sys::INT4OID | pg_sys::OIDOID | pg_sys::FLOAT4OID | pg_sys::DATEOID => Some(Form::Integer { width: 4 }),
        pg_sys::INT8OID
        | pg_sys::FLOAT8OID
        | pg_sys::TIMESTAMPOID
        | pg_sys::TIMESTAMPTZOID
        | pg_sys::TIMEOID
        | pg_sys::MONEYOID
            if column.is_by_value =>
        {
            Some(Form::Integer { width: 8 })
        }
        pg_sys::UUIDOID => Some(Form::Fixed { width: 16 }),
        pg_sys::NAMEOID => Some(Form::Name),
        pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID | pg_sys::BYTEAOID | pg_sys::JSONOID => {
            Some(Form::Bytes)
        }
        _ => None,
    }
}

/// The send function of a type whose binary form means the same on every server.
fn stable_send_function(type_oid: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: in a transaction, with catalog access; gives nothing for what is no array
    let element = unsafe { pg_sys::get_element_type(type_oid) };
    let scalar = if element == pg_sys::InvalidOid { type_oid } else { element };
    if type_oid.to_u32() >= FIRST_UNSTABLE_OID || scalar.to_u32() >= FIRST_UNSTABLE_OID || holds_oid(scalar) {
        return None;
    }
    // SAFETY: as above
    let kind = unsafe { pg_sys::get_typtype(scalar) } as u8;
    if !matches!(kind, pg_sys::TYPTYPE_BASE | pg_sys::TYPTYPE_RANGE | pg_sys::TYPTYPE_MULTIRANGE) {
        return None;
    }
    send_function(scalar)?;
    send_function(type_oid)
}

/// Types that stand for an object of the catalog by its oid.
fn holds_oid(type_oid: pg_sys::Oid) -> bool {
    /// `regdatabase`, of version 19.
    const REGDATABASE: u32 = 8326;
    matches!(
        type_oid,
        pg_sys::REGPROCOID
            | pg_sys::REGPROCEDUREOID
            | pg_sys::REGOPEROID
            | pg_sys::REGOPERATOROID
            | pg_sys::REGCLASSOID
            | pg_sys::REGCOLLATIONOID
            | pg_sys::REGTYPEOID
            | pg_sys::REGROLEOID
            | pg_sys::REGNAMESPACEOID
            | pg_sys::REGCONFIGOID
            | pg_sys::REGDICTIONARYOID
    ) || type_oid.to_u32() == REGDATABASE
}

fn send_function(type_oid: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: in a transaction, with catalog access; the row of the cache is given back after one read
    let send = unsafe {
        let row = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::TYPEOID as i32, pg_sys::Datum::from(type_oid));
        if row.is_null() {
            return None;
        }
        let send = (*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_type>()).typsend;
        pg_sys::ReleaseSysCache(row);
        send
    };
    (send != pg_sys::InvalidOid).then_some(send)
}

impl RowFormat {
    pub fn new(width: usize, columns: &[PublishedColumn], forms: &mut TypeForms) -> RowFormat {
        let format = |column: &PublishedColumn| ColumnFormat {
            attribute: column.attribute,
            is_varlena: column.is_varlena,
            is_key: column.is_key,
            form: forms.form(column),
        };
        RowFormat { columns: columns.iter().map(format).collect(), width }
    }

    pub fn has_key(&self) -> bool {
        self.columns.iter().any(|column| column.is_key)
    }

    /// The values of a row, in the order of the columns.
    pub fn values<'a>(&self, row: HeapRow<'a>, buffer: &'a mut RowBuffer) -> Vec<Value<'a>> {
        self.write(row, buffer, |_| true)
    }

    /// Like [`RowFormat::values`], with every column that is not in the key null.
    pub fn key_values<'a>(&self, row: HeapRow<'a>, buffer: &'a mut RowBuffer) -> Vec<Value<'a>> {
        self.write(row, buffer, |column| column.is_key)
    }

    /// Places of the key columns in what [`RowFormat::values`] gives.
    pub fn key_places(&self) -> impl Iterator<Item = usize> {
        self.columns.iter().enumerate().filter(|(_, column)| column.is_key).map(|(place, _)| place)
    }

    fn write<'a>(
        &self,
        row: HeapRow<'a>,
        buffer: &'a mut RowBuffer,
        wanted: impl Fn(&ColumnFormat) -> bool,
    ) -> Vec<Value<'a>> {
        buffer.datums.resize(self.width, pg_sys::Datum::from(0_usize));
        buffer.nulls.resize(self.width, true);
        buffer.integers.resize(self.columns.len(), [0; 8]);
        // SAFETY: the row belongs to the descriptor, whose width the format was made for and the buffers have
        unsafe {
            debug_assert_eq!((*row.descriptor).natts as usize, self.width);
            pg_sys::heap_deform_tuple(row.tuple, row.descriptor, buffer.datums.as_mut_ptr(), buffer.nulls.as_mut_ptr());
        }
        let mut values = Vec::with_capacity(self.columns.len());
        for (column, room) in self.columns.iter().zip(&mut buffer.integers) {
            let value = if buffer.nulls[column.attribute] || !wanted(column) {
                Value::Null
            } else {
                // SAFETY: a value of this column's type, of a row that lives as long as the result
                unsafe { column.value(buffer.datums[column.attribute], room) }
            };
            values.push(value);
        }
        values
    }
}

impl ColumnFormat {
    /// # Safety
    /// A value of this column, in memory that lives for `'a`, as the current memory context does.
    unsafe fn value<'a>(&self, datum: pg_sys::Datum, room: &'a mut [u8; 8]) -> Value<'a> {
        // SAFETY: see above, with the type's length and by-value flag as in the catalog
        unsafe {
            if self.is_varlena && is_out_of_line(datum.cast_mut_ptr()) {
                return Value::Unchanged;
            }
            match &self.form {
                Form::Integer { width } => {
                    *room = (datum.value() as u64).to_be_bytes();
                    Value::Binary(&room[8 - width..])
                }
                Form::Fixed { width } => Value::Binary(slice::from_raw_parts(datum.cast_mut_ptr(), *width)),
                Form::Name => Value::Binary(CStr::from_ptr(datum.cast_mut_ptr()).to_bytes()),
                Form::Bytes => Value::Binary(inline_bytes(datum.cast_mut_ptr())),
                Form::Send(function) => Value::Binary(function.send(datum)),
                Form::Text(function) => Value::Text(function.text(datum)),
            }
        }
    }
}

impl TypeFunction {
    /// # Safety
    /// A value of the type that this is the send function of; the result is in the current memory context.
    unsafe fn send<'a>(&self, datum: pg_sys::Datum) -> &'a [u8] {
        // SAFETY: see above; a function is not called while it runs, so nobody else looks at its state. What comes back
        // is a bytea with a long header
        unsafe {
            let bytes = pg_sys::SendFunctionCall(self.function.get(), datum).cast::<pg_sys::varlena>();
            varlena_bytes(bytes)
        }
    }

    /// # Safety
    /// A value of the type that this is the output function of; the result is in the current memory context.
    unsafe fn text<'a>(&self, datum: pg_sys::Datum) -> &'a [u8] {
        // SAFETY: see above and in `send`; a C string comes back
        unsafe { CStr::from_ptr(pg_sys::OutputFunctionCall(self.function.get(), datum)).to_bytes() }
    }
}

/// Whether the value is only a pointer into a TOAST table: WAL holds no more of it, since the UPDATE left it alone.
///
/// # Safety
/// A value of a type of variable length.
unsafe fn is_out_of_line(value: *const pg_sys::varlena) -> bool {
    // SAFETY: see above
    unsafe {
        pgrx::varlena::varatt_is_1b_e(value)
            && pg_sys::vartag_external::Type::from(pgrx::varlena::vartag_1b_e(value))
                == pg_sys::vartag_external::VARTAG_ONDISK
    }
}

/// The bytes of a value, without its header, decompressed and put together if need be.
///
/// # Safety
/// A value of a type of variable length that is not out of line on disk, in memory that lives for `'a`, as the current
/// memory context does.
unsafe fn inline_bytes<'a>(value: *mut pg_sys::varlena) -> &'a [u8] {
    // SAFETY: see above
    unsafe {
        let is_plain = pgrx::varlena::varatt_is_4b_u(value)
            || (pgrx::varlena::varatt_is_1b(value) && !pgrx::varlena::varatt_is_1b_e(value));
        varlena_bytes(if is_plain { value } else { pg_sys::pg_detoast_datum_packed(value) })
    }
}

/// # Safety
/// A value with its bytes behind a short or long header, in memory that lives for `'a`.
unsafe fn varlena_bytes<'a>(value: *const pg_sys::varlena) -> &'a [u8] {
    // SAFETY: see above
    unsafe { slice::from_raw_parts(pgrx::varlena::vardata_any(value).cast(), pgrx::varlena::varsize_any_exhdr(value)) }
}
