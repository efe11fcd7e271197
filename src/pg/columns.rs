//! From the values of a stream to the columns of a local table.
//!
//! A [`ColumnMap`] is made for a relation of a stream and the local table of the same name, and may be kept until either
//! changes. Columns are matched by name. A value comes as text, which the local type's input
//! function reads, or in binary, which its receive function reads if the types are the same; if they differ, the
//! value is received as the sender's type, printed, and read again, so that an `int4` fits into a `numeric` column.

use std::ffi::CStr;
use std::mem::zeroed;

use meld_core::value::{Tuple, Value};
use meld_core::wire::{Column, RelationDescription};
use pgrx::pg_sys;
use pgrx::prelude::PgSqlErrorCode;

use crate::log::{Failure, Result};

/// A function of a type, looked up once.
struct TypeFunction {
    info: Function,
    /// Type oid that the function wants as its second argument.
    io_param: pg_sys::Oid,
}

/// How a value in binary becomes a Datum of the local type.
enum Binary {
    Receive(TypeFunction),
    /// Received and printed as the sender's type, then read as text.
    Convert {
        receive: TypeFunction,
        output: Function,
    },
}

/// One local column that the stream brings values for.
struct MappedColumn {
    /// Index in the local row.
    local: usize,
    type_oid: pg_sys::Oid,
    type_modifier: i32,
    remote_type: pg_sys::Oid,
    input: Option<TypeFunction>,
    binary: Option<Binary>,
}

/// The columns of a stream's relation matched to a local table.
pub(super) struct ColumnMap {
    /// By position in the stream's tuples.
    columns: Vec<MappedColumn>,
    /// Local columns that the stream does not know, and that are not generated.
    pub(super) extra: Vec<usize>,
    /// By local column: where it is in the stream's tuples.
    remote_of: Vec<Option<usize>>,
    is_remote_key: Vec<bool>,
}

impl ColumnMap {
    /// Matches by name. A column of the stream that is missing here is an error, as it is in native replication.
    ///
    /// # Safety
    /// `descriptor` belongs to a relation that stays open longer than the result.
    pub(super) unsafe fn new(
        remote: &RelationDescription,
        descriptor: pg_sys::TupleDesc,
    ) -> std::result::Result<ColumnMap, Vec<String>> {
        // SAFETY: the caller keeps the relation open; `natts` attributes follow the descriptor
        let attributes = unsafe { (*descriptor).attrs.as_slice((*descriptor).natts as usize) };
        let mut columns = Vec::with_capacity(remote.columns.len());
        let mut remote_of = vec![None; attributes.len()];
        let mut missing = Vec::new();
        for (position, column) in remote.columns.iter().enumerate() {
            match attributes.iter().position(|a| is_column(a) && a.attgenerated == 0 && name_of(a) == column.name) {
                Some(local) => {
                    remote_of[local] = Some(position);
                    columns.push(MappedColumn::new(local, &attributes[local], column));
                }
                None => missing.push(column.name.clone()),
            }
        }
        if !missing.is_empty() {
            return Err(missing);
        }
        let extra = (0..attributes.len())
            .filter(|&i| is_column(&attributes[i]) && attributes[i].attgenerated == 0 && remote_of[i].is_none())
            .collect();
        let is_remote_key = remote.columns.iter().map(|c| c.is_key).collect();
        Ok(ColumnMap { columns, extra, remote_of, is_remote_key })
    }

    /// Whether the stream sends this local column with the keys of updates and deletes.
    pub(super) fn is_remote_key(&self, local: usize) -> bool {
        self.remote_of.get(local).copied().flatten().is_some_and(|remote| self.is_remote_key[remote])
    }

    /// These columns of a local row as a tuple of the stream, as text, with null for all others.
    ///
    /// # Safety
    /// `values` and `nulls` are a local row's; inside a transaction.
    pub(super) unsafe fn print(&self, wanted: &[usize], values: *const pg_sys::Datum, nulls: *const bool) -> Tuple {
        let mut tuple = Tuple::with_capacity(self.columns.len(), 0);
        for column in &self.columns {
            // SAFETY: as the caller promises
            let value = || unsafe { column.print(values, nulls) };
            tuple.push(if wanted.contains(&column.local) { value() } else { Value::Null });
        }
        tuple
    }

    /// Fills the local row's arrays from a tuple of the stream. Columns whose values were left out keep what is in the
    /// arrays; their local indexes are returned. Memory comes from the current context.
    ///
    /// # Safety
    /// `values` and `nulls` have room for every local column; inside a transaction.
    pub(super) unsafe fn read<'v>(
        &mut self,
        tuple: impl ExactSizeIterator<Item = Value<'v>>,
        values: *mut pg_sys::Datum,
        nulls: *mut bool,
    ) -> Result<Vec<usize>> {
        if tuple.len() != self.columns.len() {
            return Err(Failure::new(
                PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION,
                format!("row with {} values for a relation with {} columns", tuple.len(), self.columns.len()),
            ));
        }
        let mut unchanged = Vec::new();
        for (column, value) in self.columns.iter_mut().zip(tuple) {
            // SAFETY: the arrays are as wide as the local row, which `local` is an index of
            let (slot, null) = unsafe { (&mut *values.add(column.local), &mut *nulls.add(column.local)) };
            match value {
                Value::Unchanged => {
                    unchanged.push(column.local);
                    continue;
                }
                Value::Null => (*slot, *null) = (pg_sys::Datum::from(0_usize), true),
                Value::Text(bytes) => (*slot, *null) = (column.read_text(bytes), false),
                Value::Binary(bytes) => (*slot, *null) = (column.read_binary(bytes)?, false),
            }
        }
        Ok(unchanged)
    }
}

/// A column that users see: neither dropped nor a system column.
fn is_column(attribute: &pg_sys::FormData_pg_attribute) -> bool {
    !attribute.attisdropped
}

pub(super) fn name_of(attribute: &pg_sys::FormData_pg_attribute) -> String {
    // SAFETY: a NameData is NUL-terminated and lives inside the attribute
    unsafe { CStr::from_ptr(attribute.attname.data.as_ptr()) }.to_string_lossy().into_owned()
}

impl MappedColumn {
    fn new(local: usize, attribute: &pg_sys::FormData_pg_attribute, remote: &Column) -> MappedColumn {
        MappedColumn {
            local,
            type_oid: attribute.atttypid,
            type_modifier: attribute.atttypmod,
            remote_type: pg_sys::Oid::from(remote.type_oid),
            input: None,
            binary: None,
        }
    }

    /// The column of a local row as text, in the current memory context.
    ///
    /// # Safety
    /// `values` and `nulls` are a local row's; inside a transaction.
    unsafe fn print<'v>(&self, values: *const pg_sys::Datum, nulls: *const bool) -> Value<'v> {
        // SAFETY: `local` is an index of the row; the output function is the one of the column's type
        unsafe {
            if *nulls.add(self.local) {
                return Value::Null;
            }
            let (mut function, mut is_varlena) = (pg_sys::InvalidOid, false);
            pg_sys::getTypeOutputInfo(self.type_oid, &mut function, &mut is_varlena);
            let text = pg_sys::OidOutputFunctionCall(function, *values.add(self.local));
            Value::Text(CStr::from_ptr(text).to_bytes())
        }
    }

    fn read_text(&mut self, bytes: &[u8]) -> pg_sys::Datum {
        let text = copy_terminated(bytes);
        let (modifier, input) = (self.type_modifier, self.input());
        // SAFETY: `text` is NUL-terminated and lives in the current context, longer than the call
        unsafe { pg_sys::InputFunctionCall(&mut *input.info.info, text, input.io_param, modifier) }
    }

    fn read_binary(&mut self, bytes: &[u8]) -> Result<pg_sys::Datum> {
        if self.binary.is_none() {
            self.binary = Some(self.find_binary());
        }
        let modifier = self.type_modifier;
        match self.binary.as_mut() {
            Some(Binary::Receive(receive)) => receive.receive(bytes, modifier),
            Some(Binary::Convert { receive, output }) => {
                let value = receive.receive(bytes, -1)?;
                // SAFETY: `output` is the output function of the type that `value` was received as
                let text = unsafe { pg_sys::OutputFunctionCall(&mut *output.info, value) };
                let input = self.input();
                // SAFETY: `text` is the NUL-terminated result of the output function
                Ok(unsafe { pg_sys::InputFunctionCall(&mut *input.info.info, text, input.io_param, modifier) })
            }
            None => unreachable!("set above"),
        }
    }

    fn input(&mut self) -> &mut TypeFunction {
        let type_oid = self.type_oid;
        self.input.get_or_insert_with(|| TypeFunction::input_of(type_oid))
    }

    fn find_binary(&self) -> Binary {
        if self.type_oid == self.remote_type {
            return Binary::Receive(TypeFunction::receiver_of(self.type_oid));
        }
        let (mut function, mut is_varlena) = (pg_sys::InvalidOid, false);
        // SAFETY: a provider sends built-in types in binary only, whose oids mean the same on every server; an unknown
        // one raises "cache lookup failed"
        unsafe { pg_sys::getTypeOutputInfo(self.remote_type, &mut function, &mut is_varlena) };
        Binary::Convert { receive: TypeFunction::receiver_of(self.remote_type), output: Function::look_up(function) }
    }
}

impl TypeFunction {
    fn input_of(type_oid: pg_sys::Oid) -> TypeFunction {
        let (mut function, mut io_param) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        // SAFETY: main thread, inside a transaction; raises if the type is unknown
        unsafe { pg_sys::getTypeInputInfo(type_oid, &mut function, &mut io_param) };
        TypeFunction { info: Function::look_up(function), io_param }
    }

    fn receiver_of(type_oid: pg_sys::Oid) -> TypeFunction {
        let (mut function, mut io_param) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        // SAFETY: main thread, inside a transaction; raises if the type is unknown or has no receive function
        unsafe { pg_sys::getTypeBinaryInputInfo(type_oid, &mut function, &mut io_param) };
        TypeFunction { info: Function::look_up(function), io_param }
    }

    fn receive(&mut self, bytes: &[u8], modifier: i32) -> Result<pg_sys::Datum> {
        let mut buffer = pg_sys::StringInfoData {
            data: copy_terminated(bytes),
            len: bytes.len() as i32,
            maxlen: bytes.len() as i32 + 1,
            cursor: 0,
        };
        // SAFETY: the buffer is a private, NUL-terminated copy: some receive functions write into theirs
        let value = unsafe { pg_sys::ReceiveFunctionCall(&mut *self.info.info, &mut buffer, self.io_param, modifier) };
        if buffer.cursor != buffer.len {
            return Err(Failure::new(
                PgSqlErrorCode::ERRCODE_INVALID_BINARY_REPRESENTATION,
                format!("{} bytes left over after a binary value", buffer.len - buffer.cursor),
            ));
        }
        Ok(value)
    }
}

/// A function to be called, with memory of its own for what it keeps between calls.
struct Function {
    info: Box<pg_sys::FmgrInfo>,
    memory: pg_sys::MemoryContext,
}

impl Function {
    fn look_up(function: pg_sys::Oid) -> Function {
        // SAFETY: an all-zero FmgrInfo is what the look-up fills in; the memory lives as long as it
        unsafe {
            let memory = pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopMemoryContext,
                c"meld function".as_ptr(),
                pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
                pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
                pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
            );
            let mut function_of = Function { info: Box::new(zeroed()), memory };
            pg_sys::fmgr_info_cxt(function, &mut *function_of.info, memory);
            function_of
        }
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        // SAFETY: made by `look_up`, and nobody else's. At the end of the process it is too late to call anything, and needless
        unsafe {
            if !pg_sys::proc_exit_inprogress {
                pg_sys::MemoryContextDelete(self.memory);
            }
        }
    }
}

/// A copy in the current context with a NUL behind it.
pub(super) fn copy_terminated(bytes: &[u8]) -> *mut std::ffi::c_char {
    // SAFETY: palloc gives as many bytes as asked for or raises; the regions do not overlap
    unsafe {
        let copy: *mut u8 = pg_sys::palloc(bytes.len() + 1).cast();
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len());
        copy.add(bytes.len()).write(0);
        copy.cast()
    }
}
