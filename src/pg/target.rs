//! A local table that remote changes are written to.
//!
//! A [`Target`] is opened at a table's first change in a transaction and closed before the commit; in between it keeps
//! what the executor needs (indexes, triggers, slots), so that each further row pays for its own work only. One change
//! goes through [`Target::begin_change`], then reads and writes, then [`Target::end_change`].
//!
//! Writing runs as the table's owner in a restricted security context, so that a trigger or an expression can't use
//! the rights of the worker. After an error nothing here may be used again: the transaction's end frees it all.

use std::cell::{Cell, OnceCell};
use std::mem::size_of;
use std::ptr::null_mut;
use std::rc::Rc;

use meld_core::ids::Xid;
use meld_core::value::Tuple;
use meld_core::wire::RelationDescription;
use pgrx::pg_sys;
use pgrx::prelude::PgSqlErrorCode;

use super::columns::name_of;
use super::executor::{
    ChangeMemory, evaluate_defaults, init_plan_check, init_range_table, look_for_clash, prepare_defaults,
};
use super::key_bytes::KeyColumns;
use super::locate::{KeyIndex, RowLock, Snapshots, raw_xmin, writer_in};
use super::origin::Writer;
use super::remembered::{self, Remembered};
use super::row_json::json_of;
use super::xact::Xact;
use crate::log::{Failure, Result};

/// The row that was found, and is in the local slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    pub writer: Writer,
    /// Number of the transaction that wrote it.
    pub xmin: Xid,
}

/// Which row of a change is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowSide {
    /// The one that came with the stream.
    Remote,
    /// The one that [`Target::find`] found.
    Local,
}

/// Closed, or after an error left alone, before its transaction ends.
pub struct Target {
    pub(super) relation: pg_sys::Relation,
    pub(super) executor: *mut pg_sys::EState,
    pub(super) result: *mut pg_sys::ResultRelInfo,
    plan_check: *mut pg_sys::EPQState,
    pub(super) remote: *mut pg_sys::TupleTableSlot,
    pub(super) local: *mut pg_sys::TupleTableSlot,
    /// Its columns, matched to those of the stream.
    pub(super) known: Remembered,
    pub(super) key: Option<KeyIndex>,
    /// How keys become bytes, once that was asked.
    pub(super) key_bytes: OnceCell<Option<KeyColumns>>,
    /// Expressions for columns that the stream does not know.
    defaults: Vec<(usize, *mut pg_sys::ExprState)>,
    /// Columns of the remote row whose values were left out.
    pub(super) unchanged: Vec<usize>,
    /// The remote row has its defaults.
    has_defaults: bool,
    saved_user: (pg_sys::Oid, i32),
    saved_context: pg_sys::MemoryContext,
    /// Settings that the owner's code changes are put back to this level.
    settings_level: Cell<i32>,
}

impl Target {
    /// Opens and locks the table of that name.
    pub fn open(_xact: &Xact, remote: &Rc<RelationDescription>) -> Result<Target> {
        let (relation, known) = remembered::open(remote)?;
        let columns = &known.columns;
        // SAFETY: as above; everything made here lives in the executor's context, inside the transaction's
        unsafe {
            let key = KeyIndex::open(relation, columns);
            let saved = pg_sys::MemoryContextSwitchTo(pg_sys::TopTransactionContext);
            let executor = pg_sys::CreateExecutorState();
            pg_sys::MemoryContextSwitchTo((*executor).es_query_cxt);
            init_range_table(executor, relation);
            let result: *mut pg_sys::ResultRelInfo = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast();
            pg_sys::InitResultRelInfo(result, relation, 1, null_mut(), 0);
            (*executor).es_opened_result_relations =
                pg_sys::lappend((*executor).es_opened_result_relations, result.cast());
            // `true`: also what a look for a clash before the insert needs
            pg_sys::ExecOpenIndices(result, true);
            let plan_check: *mut pg_sys::EPQState = pg_sys::palloc0(size_of::<pg_sys::EPQState>()).cast();
            init_plan_check(plan_check, executor);
            let remote_slot = pg_sys::ExecInitExtraTupleSlot(executor, (*relation).rd_att, &pg_sys::TTSOpsVirtual);
            let local = pg_sys::table_slot_create(relation, &mut (*executor).es_tupleTable);
            let defaults = prepare_defaults(relation, executor, columns);
            pg_sys::MemoryContextSwitchTo(saved);
            Ok(Target {
                relation,
                executor,
                result,
                plan_check,
                remote: remote_slot,
                local,
                known,
                key,
                key_bytes: OnceCell::new(),
                defaults,
                unchanged: Vec::new(),
                has_defaults: false,
                saved_user: (pg_sys::InvalidOid, 0),
                saved_context: null_mut(),
                settings_level: Cell::new(0),
            })
        }
    }

    pub fn schema(&self) -> &str {
        &self.known.description.schema
    }

    pub fn name(&self) -> &str {
        &self.known.description.name
    }

    /// Gives back everything but the lock, which stays until the transaction ends.
    pub fn close(self) {
        if let Some(key) = self.key {
            key.close();
        }
        // SAFETY: made by `open`, closed once; the executor's context goes with all that was made in it
        unsafe {
            pg_sys::EvalPlanQualEnd(self.plan_check);
            pg_sys::ExecCloseIndices(self.result);
            pg_sys::ExecResetTupleTable((*self.executor).es_tupleTable, false);
            pg_sys::FreeExecutorState(self.executor);
            pg_sys::table_close(self.relation, pg_sys::NoLock as i32);
        }
        self.known.give_back();
    }

    /// Takes a snapshot and the table owner's identity for one change.
    pub fn begin_change(&mut self, memory: &ChangeMemory) {
        // SAFETY: inside a transaction; undone by `end_change`, or by the abort after an error
        unsafe {
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            (*self.executor).es_output_cid = pg_sys::GetCurrentCommandId(true);
            self.saved_context = pg_sys::MemoryContextSwitchTo(memory.context);
            pg_sys::GetUserIdAndSecContext(&mut self.saved_user.0, &mut self.saved_user.1);
            if self.has_triggers() {
                pg_sys::AfterTriggerBeginQuery();
            }
        }
    }

    /// Fires triggers, makes the change visible to the next one, and frees its memory.
    pub fn end_change(&mut self, memory: &ChangeMemory) {
        // SAFETY: pairs with `begin_change`; the slots let go of the memory before it is emptied
        unsafe {
            if self.has_triggers() {
                self.as_owner();
                pg_sys::AfterTriggerEndQuery(self.executor);
                self.as_worker();
            }
            pg_sys::ExecClearTuple(self.remote);
            pg_sys::ExecClearTuple(self.local);
            pg_sys::PopActiveSnapshot();
            pg_sys::MemoryContextSwitchTo(self.saved_context);
            if !(*self.executor).es_per_tuple_exprcontext.is_null() {
                let per_tuple = (*(*self.executor).es_per_tuple_exprcontext).ecxt_per_tuple_memory;
                pg_sys::MemoryContextReset(per_tuple);
            }
            pg_sys::MemoryContextReset(memory.context);
            pg_sys::CommandCounterIncrement();
        }
    }

    pub fn has_triggers(&self) -> bool {
        // SAFETY: the relation is open
        unsafe { !(*self.relation).trigdesc.is_null() }
    }

    fn owner(&self) -> pg_sys::Oid {
        // SAFETY: an open relation has its pg_class form
        unsafe { (*(*self.relation).rd_rel).relowner }
    }

    /// What follows runs as the table's owner: triggers, defaults, and expressions of columns and indexes.
    pub(super) fn as_owner(&self) {
        // SAFETY: pairs with `as_worker`, or with the abort after an error
        unsafe {
            let restricted = self.saved_user.1 | pg_sys::SECURITY_RESTRICTED_OPERATION as i32;
            pg_sys::SetUserIdAndSecContext(self.owner(), restricted);
            self.settings_level.set(pg_sys::NewGUCNestLevel());
        }
    }

    pub(super) fn as_worker(&self) {
        // SAFETY: the level and the identity from before `as_owner`
        unsafe {
            pg_sys::AtEOXact_GUC(false, self.settings_level.get());
            pg_sys::SetUserIdAndSecContext(self.saved_user.0, self.saved_user.1);
        }
    }

    /// Makes the tuple the remote row of the current change.
    pub fn read(&mut self, tuple: &Tuple) -> Result<()> {
        self.as_owner();
        // SAFETY: the slot's arrays are as wide as the local row
        let unchanged = unsafe {
            pg_sys::ExecClearTuple(self.remote);
            let width = (*(*self.remote).tts_tupleDescriptor).natts as usize;
            let (values, nulls) = ((*self.remote).tts_values, (*self.remote).tts_isnull);
            std::slice::from_raw_parts_mut(nulls, width).fill(true);
            self.known.columns.read(tuple.values(), values, nulls)?
        };
        self.unchanged = unchanged;
        self.has_defaults = false;
        self.as_worker();
        // SAFETY: all values are set
        unsafe { pg_sys::ExecStoreVirtualTuple(self.remote) };
        Ok(())
    }

    /// Whether no row has the remote row's key, not even one of a transaction that is still open: for that one's end this
    /// waits. Good for an insert right behind only. `None`: the key's index can't tell.
    pub fn key_is_free(&mut self) -> Option<bool> {
        let index = self.key.as_ref().and_then(KeyIndex::arbiter)?;
        self.as_owner();
        // SAFETY: the result relation's indexes are open, `index` among them; the slot holds all values of the key
        let is_free = unsafe { look_for_clash(self.result, self.remote, self.executor, index) };
        self.as_worker();
        Some(is_free)
    }

    /// Finds the row with the remote row's key, locks it, and tells who wrote it. Needs a key on both sides.
    pub fn find(&mut self, for_delete: bool, snapshots: Snapshots) -> Result<Option<Found>> {
        let key = self.key.as_ref().ok_or_else(|| self.no_key())?;
        let lock = if for_delete { RowLock::Delete } else { RowLock::Update };
        // SAFETY: a slot of this target, which tells nothing of a row that was found before
        unsafe { pg_sys::ExecClearTuple(self.local) };
        // SAFETY: slots and index are of this relation; `begin_change` pushed a snapshot
        if !unsafe { key.find(self.relation, self.remote, self.local, lock, snapshots)? } {
            return Ok(None);
        }
        // SAFETY: the slot holds the locked tuple
        let (xmin, writer) = unsafe { (raw_xmin(self.local), writer_in(self.local)) };
        Ok(Some(Found { writer, xmin: Xid(xmin.into_inner()) }))
    }

    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Stores the remote row; columns that the stream does not know get their defaults.
    pub fn insert(&mut self) -> Result<()> {
        if let Some(&column) = self.unchanged.first() {
            return Err(self.left_out(column));
        }
        self.as_owner();
        // SAFETY: all columns of the remote row are set
        unsafe {
            self.fill_defaults();
            pg_sys::ExecSimpleRelationInsert(self.result, self.executor, self.remote);
        }
        self.as_worker();
        Ok(())
    }

    /// Gives columns that the stream does not know their defaults, once for each row that was read.
    ///
    /// # Safety
    /// As the table's owner; the remote row was read.
    pub(super) unsafe fn fill_defaults(&mut self) {
        if !std::mem::replace(&mut self.has_defaults, true) {
            // SAFETY: the slot is as wide as the local row; the expressions were prepared for this executor
            unsafe { evaluate_defaults(&self.defaults, self.expression_context(), self.remote) };
        }
    }

    /// Puts the remote row in place of the one found, which keeps what the stream left out or does not know.
    pub fn update(&mut self) {
        self.take_from_local();
        self.as_owner();
        // SAFETY: `local` holds the locked row, `remote` the new one
        unsafe {
            pg_sys::ExecSimpleRelationUpdate(self.result, self.executor, self.plan_check, self.local, self.remote);
        }
        self.as_worker();
    }

    pub fn delete(&mut self) {
        self.as_owner();
        // SAFETY: `local` holds the locked row
        unsafe { pg_sys::ExecSimpleRelationDelete(self.result, self.executor, self.plan_check, self.local) };
        self.as_worker();
    }

    /// Completes the remote row with values of the row found.
    pub fn take_from_local(&mut self) {
        // SAFETY: both slots are of this relation; values point into the tuple that `local` keeps pinned
        unsafe {
            pg_sys::slot_getsomeattrs_int(self.local, (*(*self.local).tts_tupleDescriptor).natts);
            for &column in self.unchanged.iter().chain(&self.known.columns.extra) {
                *(*self.remote).tts_values.add(column) = *(*self.local).tts_values.add(column);
                *(*self.remote).tts_isnull.add(column) = *(*self.local).tts_isnull.add(column);
            }
        }
    }

    /// A row of the current change as JSON text; values that the stream left out are not in it.
    pub fn row_json(&self, side: RowSide) -> String {
        let slot = if side == RowSide::Remote { self.remote } else { self.local };
        // SAFETY: the slot holds a row; row_to_json takes a composite Datum and needs no more of its caller
        unsafe { json_of(pg_sys::ExecFetchSlotHeapTupleDatum(slot)) }
    }

    /// Names of the key columns.
    pub fn key_columns(&self) -> Vec<String> {
        self.key.iter().flat_map(KeyIndex::columns).map(|column| self.column_name(column)).collect()
    }

    /// Names of the columns whose values the stream left out.
    pub fn unchanged_columns(&self) -> Vec<String> {
        self.unchanged.iter().map(|&column| self.column_name(column)).collect()
    }

    pub(super) fn column_name(&self, column: usize) -> String {
        // SAFETY: the relation is open and has that column
        unsafe {
            let descriptor = (*self.relation).rd_att;
            name_of(&(*descriptor).attrs.as_slice((*descriptor).natts as usize)[column])
        }
    }

    /// # Safety
    /// The executor is this target's.
    pub(super) unsafe fn expression_context(&self) -> *mut pg_sys::ExprContext {
        // SAFETY: made on first use in the executor's own context
        unsafe {
            match (*self.executor).es_per_tuple_exprcontext {
                context if context.is_null() => pg_sys::MakePerTupleExprContext(self.executor),
                context => context,
            }
        }
    }

    fn no_key(&self) -> Failure {
        Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table \"{}.{}\" has no key by which remote changes find their rows", self.schema(), self.name()),
        )
        .hint("Give it the primary key that it has at the provider.")
    }

    /// The rule fetches what is left out before it lets a row be inserted.
    fn left_out(&self, column: usize) -> Failure {
        let (schema, name, column) = (self.schema(), self.name(), self.column_name(column));
        let message = format!("cannot insert into \"{schema}.{name}\" without a value of column \"{column}\"");
        Failure::new(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, message)
    }
}
