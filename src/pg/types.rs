//! SQL types of arguments and results for which pgrx has no Rust type of its own.
//!
//! How each function looks to SQL stands in `sql/functions.sql`; these make the Rust side fit its argument types.

use std::ffi::{CStr, CString};

use meld_core::lsn::Lsn;
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::nullable::Nullable;
use pgrx::{FromDatum, IntoDatum, impl_sql_translatable, pg_sys};

/// `name`: at most 63 bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name(pub String);

/// `regclass`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Regclass(pub pg_sys::Oid);

/// `jsonb`, as the server writes it: numbers keep all of their digits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JsonbText(pub String);

/// `pg_lsn`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PgLsn(pub Lsn);

/// How a procedure was called; not an argument that SQL sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// By CALL outside of a transaction block and of functions, so that it might commit.
    pub is_non_atomic: bool,
}

// SAFETY: no SQL argument belongs to it; its name in SQL is never used, since the functions are declared by hand
unsafe impl<'fcx> ArgAbi<'fcx> for Call {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Call {
        // SAFETY: gives the call's own information, whatever the argument is
        let info = unsafe { <pg_sys::FunctionCallInfo as ArgAbi>::unbox_arg_unchecked(arg) };
        // SAFETY: the server's call information, whose context is null or a node; a CallContext by its tag
        let is_non_atomic = unsafe {
            let context = (*info).context;
            !context.is_null()
                && (*context).type_ == pg_sys::NodeTag::T_CallContext
                && !(*context.cast::<pg_sys::CallContext>()).atomic
        };
        Call { is_non_atomic }
    }

    fn is_virtual_arg() -> bool {
        true
    }
}

impl_sql_translatable!(Call, arg_only = "internal");

/// `regclass`, `name` and `pg_lsn` pass like any type that goes through a Datum.
macro_rules! sql_type {
    ($type:ty, $sql:literal) => {
        impl_sql_translatable!($type, $sql);

        // SAFETY: `FromDatum` below reads exactly the SQL type that is declared above
        unsafe impl<'fcx> ArgAbi<'fcx> for $type {
            unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
                let index = arg.index();
                // SAFETY: the caller's promise: the argument is of this SQL type
                unsafe { arg.unbox_arg_using_from_datum() }
                    .unwrap_or_else(|| panic!("argument {index} must not be null"))
            }

            unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
                // SAFETY: as above
                unsafe { arg.unbox_arg_using_from_datum().into() }
            }
        }

        // SAFETY: `IntoDatum` below makes exactly the SQL type that is declared above
        unsafe impl BoxRet for $type {
            unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
                match self.into_datum() {
                    // SAFETY: a Datum of the declared type, in the current memory context
                    Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
                    None => fcinfo.return_null(),
                }
            }
        }
    };
}

sql_type!(Name, "name");
sql_type!(Regclass, "regclass");
sql_type!(JsonbText, "jsonb");
sql_type!(PgLsn, "pg_lsn");

impl FromDatum for Name {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Name> {
        if is_null {
            return None;
        }
        // SAFETY: a Datum of type name points to 64 bytes with a NUL among them
        let text = unsafe { CStr::from_ptr(datum.cast_mut_ptr()) };
        Some(Name(super::decoding_session::to_utf8(text.to_bytes())))
    }
}

impl IntoDatum for Name {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        let mut end = self.0.len().min(pg_sys::NAMEDATALEN as usize - 1);
        while !self.0.is_char_boundary(end) {
            end -= 1;
        }
        // SAFETY: 64 zeroed bytes in the current memory context, of which at most 63 are written
        unsafe {
            let name = pg_sys::palloc0(pg_sys::NAMEDATALEN as usize).cast::<u8>();
            std::ptr::copy_nonoverlapping(self.0.as_ptr(), name, end);
            Some(pg_sys::Datum::from(name))
        }
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::NAMEOID
    }
}

impl FromDatum for Regclass {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, oid: pg_sys::Oid) -> Option<Regclass> {
        // SAFETY: regclass is an oid by value
        unsafe { pg_sys::Oid::from_polymorphic_datum(datum, is_null, oid) }.map(Regclass)
    }
}

impl FromDatum for JsonbText {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<JsonbText> {
        if is_null {
            return None;
        }
        // SAFETY: the caller's promise: a jsonb; its output is a C string in the current memory context
        unsafe {
            let text = pg_sys::OidOutputFunctionCall(pg_sys::Oid::from(pg_sys::F_JSONB_OUT), datum);
            Some(JsonbText(CStr::from_ptr(text).to_string_lossy().into_owned()))
        }
    }
}

impl IntoDatum for JsonbText {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        let text = CString::new(self.0).ok()?;
        // SAFETY: the input function reads a C string and gives a jsonb, or raises
        unsafe {
            let input = pg_sys::Oid::from(pg_sys::F_JSONB_IN);
            Some(pg_sys::OidInputFunctionCall(input, text.as_ptr().cast_mut(), pg_sys::InvalidOid, -1))
        }
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::JSONBOID
    }
}

impl IntoDatum for Regclass {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        self.0.into_datum()
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::REGCLASSOID
    }
}

impl FromDatum for PgLsn {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<PgLsn> {
        (!is_null).then(|| PgLsn(Lsn(datum.value() as u64)))
    }
}

impl IntoDatum for PgLsn {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(pg_sys::Datum::from(self.0.0))
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::PG_LSNOID
    }
}
