//! Queries that are planned once in a process and run for many rows.
//!
//! A plan belongs to what the query was made of (a foreign key), is made at its first run, and goes with it. The server
//! plans it anew by itself when a table in it changes; when one is renamed, its owner has to make the query anew.

use std::cell::OnceCell;
use std::fmt;

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::PgOid;
use pgrx::spi::{OwnedPreparedStatement, SpiTupleTable};
use pgrx::{Spi, pg_sys};

use crate::log::Result;

/// A query's plan, once it has run.
#[derive(Default)]
pub struct Plan(OnceCell<OwnedPreparedStatement>);

impl Plan {
    /// Runs a query that locks rows, with a snapshot of the moment, and gives what `read` makes of its rows; at most
    /// `limit` of them. The number and the types of `values` are always the same.
    pub(super) fn run<T>(
        &self,
        sql: impl FnOnce() -> String,
        values: &[DatumWithOid],
        limit: Option<i64>,
        read: impl FnOnce(SpiTupleTable<'_>) -> Result<T>,
    ) -> Result<T> {
        Spi::connect_mut(|client| {
            if self.0.get().is_none() {
                let types: Vec<PgOid> = values.iter().map(|value| PgOid::from(value.oid())).collect();
                let kept = client.prepare_mut(sql().as_str(), &types)?.keep();
                let _ = self.0.set(kept);
            }
            let Some(plan) = self.0.get() else { unreachable!("set above") };
            read(client.update(plan, limit.map(|limit| limit as pg_sys::int64), values)?)
        })
    }
}

/// A copy makes its own plan.
impl Clone for Plan {
    fn clone(&self) -> Plan {
        Plan::default()
    }
}

impl PartialEq for Plan {
    fn eq(&self, _: &Plan) -> bool {
        true
    }
}

impl Eq for Plan {}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "Plan(made)" } else { "Plan" })
    }
}
