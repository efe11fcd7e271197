//! The values of delta columns: what can be added up, and how it is stored and told.
//!
//! Sums are made in a wider type than the column's, so that only what is to be stored can be out of range, and that is an
//! error. As text an amount does not depend on any setting: an integer, a number, or for money its smallest units. What is
//! no number (NaN, infinity, null) can't be added up, so the node that writes it is refused.

use pgrx::pg_sys;
use pgrx::prelude::PgSqlErrorCode;
use pgrx::{AnyNumeric, FromDatum, IntoDatum};

use super::Oid;
use crate::log::{Failure, Result};

/// Of which type a delta column is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CounterType {
    Int2,
    Int4,
    Int8,
    Money,
    Float4,
    Float8,
    Numeric,
}

/// A counter's value, or what is added to it.
#[derive(Clone, PartialEq, Debug)]
pub enum Amount {
    Integer(i128),
    Float(f64),
    Numeric(AnyNumeric),
}

impl CounterType {
    /// None if columns of the type can't be counters.
    pub fn of(type_oid: Oid) -> Option<CounterType> {
        match type_oid {
            pg_sys::INT2OID => Some(CounterType::Int2),
            pg_sys::INT4OID => Some(CounterType::Int4),
            pg_sys::INT8OID => Some(CounterType::Int8),
            pg_sys::MONEYOID => Some(CounterType::Money),
            pg_sys::FLOAT4OID => Some(CounterType::Float4),
            pg_sys::FLOAT8OID => Some(CounterType::Float8),
            pg_sys::NUMERICOID => Some(CounterType::Numeric),
            _ => None,
        }
    }

    pub fn zero(self) -> Amount {
        match self {
            CounterType::Int2 | CounterType::Int4 | CounterType::Int8 | CounterType::Money => Amount::Integer(0),
            CounterType::Float4 | CounterType::Float8 => Amount::Float(0.0),
            CounterType::Numeric => Amount::Numeric(AnyNumeric::default()),
        }
    }

    /// What [`Amount::text`] wrote.
    pub fn parse(self, text: &[u8]) -> Result<Amount> {
        let wrong = || {
            let shown = String::from_utf8_lossy(text);
            Failure::new(PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION, format!("\"{shown}\" is no amount of a counter"))
        };
        let text = std::str::from_utf8(text).map_err(|_| wrong())?;
        let amount = match self {
            CounterType::Int2 | CounterType::Int4 | CounterType::Int8 | CounterType::Money => {
                text.parse().ok().map(Amount::Integer)
            }
            CounterType::Float4 | CounterType::Float8 => text.parse().ok().map(Amount::Float),
            // its digits and nothing else: the type's own parser would raise in its own words
            CounterType::Numeric if text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.".contains(&byte)) => {
                AnyNumeric::try_from(text).ok().map(Amount::Numeric)
            }
            CounterType::Numeric => None,
        };
        amount.filter(Amount::is_finite).ok_or_else(wrong)
    }

    /// # Safety
    /// A value of this type.
    pub(super) unsafe fn read(self, value: pg_sys::Datum) -> Result<Amount> {
        // SAFETY: see above; the Datum of a numeric is copied
        let amount = unsafe {
            match self {
                CounterType::Int2 => Amount::Integer((value.value() as i16).into()),
                CounterType::Int4 => Amount::Integer((value.value() as i32).into()),
                CounterType::Int8 | CounterType::Money => {
                    Amount::Integer(i64::from_datum(value, false).unwrap_or_default().into())
                }
                CounterType::Float4 => Amount::Float(f32::from_bits(value.value() as u32).into()),
                CounterType::Float8 => Amount::Float(f64::from_datum(value, false).unwrap_or_default()),
                CounterType::Numeric => Amount::Numeric(AnyNumeric::from_datum(value, false).unwrap_or_default()),
            }
        };
        if amount.is_finite() { Ok(amount) } else { Err(not_a_number()) }
    }

    /// The amount as a value of a column of this type, in the current memory context.
    pub(super) fn store(self, amount: &Amount, type_modifier: i32) -> Result<pg_sys::Datum> {
        let datum = match (self, amount) {
            (CounterType::Int2, Amount::Integer(n)) => i16::try_from(*n).ok().and_then(IntoDatum::into_datum),
            (CounterType::Int4, Amount::Integer(n)) => i32::try_from(*n).ok().and_then(IntoDatum::into_datum),
            (CounterType::Int8 | CounterType::Money, Amount::Integer(n)) => {
                i64::try_from(*n).ok().and_then(IntoDatum::into_datum)
            }
            (CounterType::Float4, Amount::Float(x)) => {
                Some(*x as f32).filter(|x| x.is_finite()).and_then(IntoDatum::into_datum)
            }
            (CounterType::Float8, Amount::Float(x)) => {
                Some(*x).filter(|x| x.is_finite()).and_then(IntoDatum::into_datum)
            }
            (CounterType::Numeric, Amount::Numeric(n)) => n.clone().into_datum().map(|plain| {
                // SAFETY: `pg_catalog.numeric(numeric, int4)`, which rounds to the column's scale; raises if it does not fit
                unsafe {
                    pg_sys::OidFunctionCall2Coll(
                        pg_sys::F_NUMERIC_NUMERIC_INT4.into(),
                        pg_sys::InvalidOid,
                        plain,
                        pg_sys::Datum::from(type_modifier),
                    )
                }
            }),
            _ => return Err(other_type()),
        };
        datum.ok_or_else(out_of_range)
    }
}

impl Amount {
    pub fn plus(&self, other: &Amount) -> Result<Amount> {
        match (self, other) {
            (Amount::Integer(a), Amount::Integer(b)) => a.checked_add(*b).map(Amount::Integer).ok_or_else(out_of_range),
            (Amount::Float(a), Amount::Float(b)) => Ok(Amount::Float(a + b)).and_then(finite),
            (Amount::Numeric(a), Amount::Numeric(b)) => Ok(Amount::Numeric(a.clone() + b.clone())).and_then(finite),
            _ => Err(other_type()),
        }
    }

    pub fn minus(&self, other: &Amount) -> Result<Amount> {
        match (self, other) {
            (Amount::Integer(a), Amount::Integer(b)) => a.checked_sub(*b).map(Amount::Integer).ok_or_else(out_of_range),
            (Amount::Float(a), Amount::Float(b)) => Ok(Amount::Float(a - b)).and_then(finite),
            (Amount::Numeric(a), Amount::Numeric(b)) => Ok(Amount::Numeric(a.clone() - b.clone())).and_then(finite),
            _ => Err(other_type()),
        }
    }

    pub fn is_zero(&self) -> bool {
        match self {
            Amount::Integer(n) => *n == 0,
            Amount::Float(x) => *x == 0.0,
            Amount::Numeric(n) => *n == AnyNumeric::default(),
        }
    }

    /// The same whatever the session's settings are.
    pub fn text(&self) -> String {
        match self {
            Amount::Integer(n) => n.to_string(),
            Amount::Float(x) => x.to_string(),
            Amount::Numeric(n) => n.to_string(),
        }
    }

    fn is_finite(&self) -> bool {
        match self {
            Amount::Integer(_) => true,
            Amount::Float(x) => x.is_finite(),
            // "NaN", "Infinity", "-Infinity"
            Amount::Numeric(n) => !n.is_nan() && !n.normalize().ends_with(char::is_alphabetic),
        }
    }
}

fn finite(amount: Amount) -> Result<Amount> {
    if amount.is_finite() { Ok(amount) } else { Err(out_of_range()) }
}

fn out_of_range() -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, "counter is out of the range of its column's type")
        .detail("A delta column holds the sum of what all nodes have added to it.")
}

fn not_a_number() -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, "a delta column cannot hold NaN or infinity")
        .detail("It is a sum to which every node adds.")
}

fn other_type() -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH, "amounts of counters of different types meet")
}
