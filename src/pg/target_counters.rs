//! The counters of a table that remote changes are written to.
//!
//! A column is a counter here if both nodes have marked it; one that only one of them has marked is an ordinary column
//! between the two. What it is worth is worked out outside of the row and put into it before it is written.

use meld_core::value::{Tuple, Value};
use meld_core::wire::RelationDescription;
use pgrx::pg_sys;
use pgrx::prelude::PgSqlErrorCode;

use super::counter::Amount;
use super::delta::{self, DeltaColumn, DeltaColumns};
use super::target::{RowSide, Target};
use crate::log::{Failure, Result};

/// The counters that this table has in common with the stream's. None for most tables.
#[derive(Clone, Default, Debug)]
pub struct Counters(Vec<Counter>);

#[derive(Clone, Copy, Debug)]
struct Counter {
    column: DeltaColumn,
    /// Its place in the stream's tuples.
    remote: usize,
}

impl Counters {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn zeros(&self) -> Vec<Amount> {
        self.0.iter().map(|counter| counter.column.kind.zero()).collect()
    }

    /// The amounts in a tuple of the stream; a null is nothing.
    pub fn read(&self, tuple: &Tuple) -> Result<Vec<Amount>> {
        let values: Vec<Value<'_>> = tuple.values().collect();
        let read = |counter: &Counter| match values.get(counter.remote) {
            Some(Value::Text(text)) => counter.column.kind.parse(text),
            Some(Value::Null) => Ok(counter.column.kind.zero()),
            Some(Value::Binary(_) | Value::Unchanged) | None => {
                Err(Failure::new(PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION, "an amount of a counter is missing"))
            }
        };
        self.0.iter().map(read).collect()
    }

    /// As they are kept with a tombstone: the amounts that are not zero, each with the number of its column. Counters that
    /// came or went meanwhile do no harm to it.
    pub fn residue(&self, amounts: &[Amount]) -> Vec<String> {
        let of = |(counter, amount): (&Counter, &Amount)| delta::kept(&counter.column, amount);
        self.0.iter().zip(amounts).filter_map(of).collect()
    }

    /// The amounts of what [`Counters::residue`] made.
    pub fn of_residue(&self, residue: &[String]) -> Result<Vec<Amount>> {
        self.0.iter().map(|counter| delta::amount_kept(&counter.column, residue)).collect()
    }
}

impl Target {
    /// The counters of the table that the stream's table of this description has, too.
    pub fn counters(&self, remote: &RelationDescription) -> Result<Counters> {
        // SAFETY: the relation is open
        let columns: DeltaColumns = unsafe { delta::of(self.relation)? };
        let counter = |column: &DeltaColumn| {
            let name = self.column_name(column.attribute);
            let remote = remote.columns.iter().position(|remote| remote.is_delta && remote.name == name)?;
            Some(Counter { column: *column, remote })
        };
        Ok(Counters(columns.iter().filter_map(counter).collect()))
    }

    /// What the counters are in a row of the change in hand.
    pub fn counter_values(&self, side: RowSide, counters: &Counters) -> Result<Vec<Amount>> {
        counters.0.iter().map(|counter| self.counter_value(side, counter)).collect()
    }

    fn counter_value(&self, side: RowSide, counter: &Counter) -> Result<Amount> {
        let slot = if side == RowSide::Remote { self.remote } else { self.local };
        let attribute = counter.column.attribute;
        // SAFETY: the slot holds a row of the relation, of which the attribute is one; one that came with the stream has all
        // of its values at hand
        unsafe {
            if ((*slot).tts_nvalid as usize) <= attribute {
                pg_sys::slot_getsomeattrs_int(slot, attribute as i32 + 1);
            }
            if *(*slot).tts_isnull.add(attribute) {
                return Err(Failure::new(
                    PgSqlErrorCode::ERRCODE_NOT_NULL_VIOLATION,
                    format!("delta column \"{}\" must not be null", self.column_name(attribute)),
                ));
            }
            counter.column.kind.read(*(*slot).tts_values.add(attribute))
        }
    }

    /// What the counters are in the new row of an UPDATE; one that it left alone and that WAL does not hold is the old one.
    pub fn new_counters(&self, counters: &Counters, old: &[Amount]) -> Result<Vec<Amount>> {
        let new = |(counter, old): (&Counter, &Amount)| match self.unchanged.contains(&counter.column.attribute) {
            true => Ok(old.clone()),
            false => self.counter_value(RowSide::Remote, counter),
        };
        counters.0.iter().zip(old).map(new).collect()
    }

    /// Puts the counters into the remote row, which is complete.
    pub fn set_counters(&mut self, counters: &Counters, amounts: &[Amount]) -> Result<()> {
        for (counter, amount) in counters.0.iter().zip(amounts) {
            let DeltaColumn { attribute, kind, type_modifier } = counter.column;
            let value = kind.store(amount, type_modifier)?;
            self.unchanged.retain(|&column| column != attribute);
            // SAFETY: the slot's arrays are as wide as the row; the value is in the change's memory
            unsafe {
                *(*self.remote).tts_values.add(attribute) = value;
                *(*self.remote).tts_isnull.add(attribute) = false;
            }
        }
        Ok(())
    }

    /// All delta columns of the row that was found, for this node's own stream; `None` if there are none.
    pub fn old_counters(&self) -> Result<Option<Tuple>> {
        // SAFETY: the relation is open; the local slot holds a row of it, a copy of which is the current memory context's
        unsafe {
            let columns = delta::of(self.relation)?;
            if columns.is_empty() {
                return Ok(None);
            }
            let mut is_copy = false;
            let tuple = pg_sys::ExecFetchSlotHeapTuple(self.local, false, &mut is_copy);
            let amounts = delta::amounts(self.relation, tuple, &columns)?;
            Ok(Some(delta::amounts_tuple(self.relation, &columns, &amounts)))
        }
    }

    /// Makes the remote row a copy of the one that was found.
    pub fn take_local_row(&mut self) {
        // SAFETY: both slots are of this relation; values point into the tuple that `local` keeps pinned
        unsafe {
            let width = (*(*self.local).tts_tupleDescriptor).natts;
            pg_sys::slot_getsomeattrs_int(self.local, width);
            for attribute in 0..width as usize {
                *(*self.remote).tts_values.add(attribute) = *(*self.local).tts_values.add(attribute);
                *(*self.remote).tts_isnull.add(attribute) = *(*self.local).tts_isnull.add(attribute);
            }
        }
    }
}
