//! Queries on meld's tables, with their outcome as [`Result`].

use meld_core::time::Timestamp;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::PgSqlErrorCode;
use pgrx::spi::SpiHeapTupleData;
use pgrx::{FromDatum, IntoDatum, Spi};

use crate::log::{Failure, Result};

/// A row of a result; columns are counted from 1.
pub struct Row<'a>(SpiHeapTupleData<'a>);

impl Row<'_> {
    pub fn get<T: IntoDatum + FromDatum>(&self, column: usize) -> Result<T> {
        self.optional(column)?.ok_or_else(|| {
            Failure::new(
                PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                format!("unexpected null in column {column} of a query on meld's catalog"),
            )
        })
    }

    pub fn optional<T: IntoDatum + FromDatum>(&self, column: usize) -> Result<Option<T>> {
        Ok(self.0.get(column)?)
    }
}

/// The rows of a query that changes nothing.
pub fn rows<T>(sql: &str, args: &[DatumWithOid], read: impl Fn(&Row) -> Result<T>) -> Result<Vec<T>> {
    Spi::connect(|client| client.select(sql, None, args)?.map(|row| read(&Row(row))).collect())
}

/// The first row of a query that changes nothing.
pub fn first<T>(sql: &str, args: &[DatumWithOid], read: impl Fn(&Row) -> Result<T>) -> Result<Option<T>> {
    Ok(rows(sql, args, read)?.into_iter().next())
}

/// The rows that a changing statement returns.
pub fn change<T>(sql: &str, args: &[DatumWithOid], read: impl Fn(&Row) -> Result<T>) -> Result<Vec<T>> {
    Spi::connect_mut(|client| client.update(sql, None, args)?.map(|row| read(&Row(row))).collect())
}

/// Runs a changing statement.
pub fn execute(sql: &str, args: &[DatumWithOid]) -> Result<()> {
    Spi::connect_mut(|client| client.update(sql, None, args).map(|_| ()))?;
    Ok(())
}

/// A timestamp that the query gives by `timestamptz_send`.
pub fn time(row: &Row, column: usize) -> Result<Timestamp> {
    let bytes: Vec<u8> = row.get(column)?;
    let bytes = bytes.try_into().map_err(|_| {
        Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, "unexpected timestamp in a query on meld's catalog")
    })?;
    Ok(Timestamp(i64::from_be_bytes(bytes)))
}
