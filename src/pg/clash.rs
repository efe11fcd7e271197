//! Rows that stand in the way of a remote row: with the same values in a unique index, or in conflict with it in an
//! exclusion constraint, and with another key.
//!
//! [`Target::clashes`] is asked in the apply worker before a remote row is put; what it finds goes to the decision in
//! `core`, which lets one side of the clash go. It looks as the server looks before an INSERT with ON CONFLICT: with a
//! dirty snapshot, so that it sees rows of open transactions, and waits for their end. Each row that clashes is locked
//! in its last version, and looked at again, since what counts is that it clashes now and until this transaction ends.
//!
//! A row that is put into an index between this look and the write is found by the index itself, whose
//! unique_violation has the transaction tried again. (Not in a deferrable constraint: the server does not check those
//! in a session that stands in for a replica, which is one reason why such tables are refused.)
//!
//! Predicates and expressions of indexes run as the table's owner, like all code of the table.

use std::ffi::c_int;
use std::ptr::null_mut;

use meld_core::ids::Xid;
use meld_core::value::Tuple;
use pgrx::pg_sys;
use pgrx::prelude::PgSqlErrorCode;

use super::clash_rule::{Entry, MAX_COLUMNS, Rule, rules};
use super::columns::ColumnMap;
use super::locate::{KeyIndex, MAX_ROUNDS, begin_scan, raw_xmin, writer_in};
use super::origin::Writer;
use super::target::Target;
use crate::log::{Failure, Result};

// Not among pgrx's bindings: executor/nodeModifyTable.h
#[allow(improper_ctypes)]
unsafe extern "C-unwind" {
    fn ExecComputeStoredGenerated(
        result: *mut pg_sys::ResultRelInfo,
        executor: *mut pg_sys::EState,
        slot: *mut pg_sys::TupleTableSlot,
        command: pg_sys::CmdType::Type,
    );
}

/// A row in the way of the remote one, locked until the transaction ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clash {
    /// As wide as the stream's description of the table: its key columns as text, and null elsewhere.
    pub key: Tuple,
    pub writer: Writer,
    /// Raw, of the version that is here.
    pub xmin: Xid,
    /// Name of the first index in which it is in the way.
    pub index: String,
}

impl Target {
    /// The other rows that the remote row would clash with: written over the row that `find` has found under its key,
    /// or as a new one if there is none. No row comes twice. Completes the remote row as the write would: with defaults,
    /// with what it keeps of the row found, and with generated columns.
    ///
    /// A table without a key has no clashes that could be told by key: there the index refuses the row.
    pub fn clashes(&mut self) -> Result<Vec<Clash>> {
        let Some(key) = &self.key else { return Ok(Vec::new()) };
        // SAFETY: the target's indexes are open, and so they stay
        let rules = unsafe { rules(self.result, key.index_oid()) };
        if rules.is_empty() {
            return Ok(Vec::new());
        }
        // SAFETY: inside a change, whose remote row was read
        let is_over = unsafe { self.is_over_found(key) };
        if is_over {
            self.take_from_local();
        }
        self.as_owner();
        // SAFETY: as above; the slot is dropped here, or with the transaction after an error of the server
        let outcome = unsafe {
            if !is_over {
                self.fill_defaults();
            }
            self.compute_generated(is_over);
            let slot = pg_sys::table_slot_create(self.relation, null_mut());
            let outcome = match &self.key {
                Some(key) => self.search(key, slot).clashes(&rules, is_over.then_some(self.local)),
                None => Ok(Vec::new()),
            };
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            outcome
        };
        self.as_worker();
        outcome
    }

    /// Whether the row found last is the one with the remote row's key.
    ///
    /// # Safety
    /// Inside a change whose remote row was read.
    unsafe fn is_over_found(&self, key: &KeyIndex) -> bool {
        // SAFETY: both are slots of this relation, and the found one is not empty when it is compared
        unsafe {
            let is_empty = u32::from((*self.local).tts_flags) & pg_sys::TTS_FLAG_EMPTY != 0;
            !is_empty && key.same_key(self.remote, self.local)
        }
    }

    /// # Safety
    /// As the table's owner; all other columns of the remote row are set.
    unsafe fn compute_generated(&self, is_over: bool) {
        let (result, executor, remote) = (self.result, self.executor, self.remote);
        let command = if is_over { pg_sys::CmdType::CMD_UPDATE } else { pg_sys::CmdType::CMD_INSERT };
        // SAFETY: the relation is open; one C call in the guarded closure, with the executor's own pieces
        unsafe {
            let constraints = (*(*self.relation).rd_att).constr;
            if !constraints.is_null() && (*constraints).has_generated_stored {
                pg_sys::ffi::pg_guard_ffi_boundary(|| ExecComputeStoredGenerated(result, executor, remote, command));
            }
        }
    }

    /// # Safety
    /// `slot` is one for rows of the table, and lives as long as the result.
    unsafe fn search<'t>(&'t self, key: &'t KeyIndex, slot: *mut pg_sys::TupleTableSlot) -> Search<'t> {
        // SAFETY: the executor is this target's
        let context = unsafe { self.expression_context() };
        Search {
            relation: self.relation,
            executor: self.executor,
            context,
            remote: self.remote,
            key,
            columns: &self.known.columns,
            slot,
        }
    }
}

/// One look for the rows in a remote row's way. All of it runs as the table's owner, in a change.
struct Search<'t> {
    relation: pg_sys::Relation,
    executor: *mut pg_sys::EState,
    context: *mut pg_sys::ExprContext,
    remote: *mut pg_sys::TupleTableSlot,
    key: &'t KeyIndex,
    columns: &'t ColumnMap,
    /// For the row that is looked at.
    slot: *mut pg_sys::TupleTableSlot,
}

/// What one round in one index ended with.
enum Round {
    /// The clashing rows, with where they are.
    Locked(Vec<(u64, Clash)>),
    /// Somebody was faster, or we have waited: look again.
    Again,
}

impl Search<'_> {
    /// # Safety
    /// The rules are of the open table's indexes; `local` is the row that the remote one is to replace, locked.
    unsafe fn clashes(&self, rules: &[Rule], local: Option<*mut pg_sys::TupleTableSlot>) -> Result<Vec<Clash>> {
        let mut found: Vec<(u64, Clash)> = Vec::new();
        for rule in rules {
            // SAFETY: both rows are in their slots
            let (wanted, present) =
                unsafe { (self.entry(rule, self.remote), local.and_then(|local| self.entry(rule, local))) };
            let Some(wanted) = wanted.filter(|wanted| rule.can_clash(wanted)) else { continue };
            // what the row to be replaced holds in the index already is in nobody's way
            // SAFETY: both entries are of this index
            if present.is_some_and(|present| unsafe { rule.same_image(&present, &wanted) }) {
                continue;
            }
            // SAFETY: as the caller promises
            for (place, clash) in unsafe { self.settle(rule, &wanted)? } {
                if !found.iter().any(|(known, _)| *known == place) {
                    found.push((place, clash));
                }
            }
        }
        Ok(found.into_iter().map(|(_, clash)| clash).collect())
    }

    /// What the index would hold of the row in the slot; `None` if its predicate leaves the row out.
    ///
    /// # Safety
    /// The slot holds a row of the table.
    unsafe fn entry(&self, rule: &Rule, slot: *mut pg_sys::TupleTableSlot) -> Option<Entry> {
        let mut entry = Entry { values: [pg_sys::Datum::from(0_usize); MAX_COLUMNS], nulls: [true; MAX_COLUMNS] };
        // SAFETY: the executor's expression context takes its columns from the slot; the arrays are as wide as any index
        unsafe {
            (*self.context).ecxt_scantuple = slot;
            if !(*rule.info).ii_Predicate.is_null() && !self.satisfies_predicate(rule) {
                return None;
            }
            pg_sys::FormIndexDatum(rule.info, slot, self.executor, entry.values.as_mut_ptr(), entry.nulls.as_mut_ptr());
        }
        Some(entry)
    }

    /// # Safety
    /// The index has a predicate; the expression context has the row.
    unsafe fn satisfies_predicate(&self, rule: &Rule) -> bool {
        // SAFETY: the state is kept by the executor's memory like that of the server's own check; one C call in the
        // guarded closure
        unsafe {
            if (*rule.info).ii_PredicateState.is_null() {
                (*rule.info).ii_PredicateState = pg_sys::ExecPrepareQual((*rule.info).ii_Predicate, self.executor);
            }
            let (state, context, mut is_null) = ((*rule.info).ii_PredicateState, self.context, false);
            // an always true predicate has no state
            let Some(evaluate) = state.as_ref().and_then(|state| state.evalfunc) else { return true };
            let outside = pg_sys::MemoryContextSwitchTo((*context).ecxt_per_tuple_memory);
            let result = pg_sys::ffi::pg_guard_ffi_boundary(|| evaluate(state, context, &mut is_null));
            pg_sys::MemoryContextSwitchTo(outside);
            !is_null && result.value() as u8 != 0
        }
    }

    /// The rows in the way in one index, each locked.
    ///
    /// # Safety
    /// The entry is the remote row's, of this index.
    unsafe fn settle(&self, rule: &Rule, wanted: &Entry) -> Result<Vec<(u64, Clash)>> {
        for _ in 0..MAX_ROUNDS {
            // SAFETY: as the caller promises
            if let Round::Locked(clashes) = unsafe { self.round(rule, wanted) } {
                return Ok(clashes);
            }
        }
        Err(Failure::new(
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            "rows that clash with a remote row changed too often while they were looked for",
        ))
    }

    /// # Safety
    /// As for `settle`.
    unsafe fn round(&self, rule: &Rule, wanted: &Entry) -> Round {
        // SAFETY: as the caller promises
        let Some(places) = (unsafe { self.scan(rule, wanted) }) else { return Round::Again };
        let mut clashes = Vec::with_capacity(places.len());
        for place in places {
            // SAFETY: a row that was there a moment ago; when it is locked, its last version is in the slot
            unsafe {
                if !self.lock(place) || !self.is_in_the_way(rule, wanted) {
                    return Round::Again;
                }
                let place = pgrx::itemptr::item_pointer_to_u64((*self.slot).tts_tid);
                clashes.push((place, self.describe(rule)));
            }
        }
        Round::Locked(clashes)
    }

    /// Where the rows in the way are; `None` after a wait for a transaction that would decide it.
    ///
    /// # Safety
    /// As for `settle`.
    unsafe fn scan(&self, rule: &Rule, wanted: &Entry) -> Option<Vec<pg_sys::ItemPointerData>> {
        let mut places = Vec::new();
        let mut wait = None;
        let mut keys = rule.scan_keys(wanted);
        let mut snapshot =
            pg_sys::SnapshotData { snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY, ..Default::default() };
        let dirty = &raw mut snapshot;
        // SAFETY: snapshot and keys outlive the scan; the slot is one for rows of this table. After each row the
        // snapshot tells of transactions that are still open
        unsafe {
            let scan = begin_scan(self.relation, rule.index, dirty, keys.len() as c_int);
            pg_sys::index_rescan(scan, keys.as_mut_ptr(), keys.len() as c_int, null_mut(), 0);
            while pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, self.slot) {
                if self.is_same_row() || (*scan).xs_recheck && !self.is_in_the_way(rule, wanted) {
                    continue;
                }
                let writer =
                    [(*dirty).xmin, (*dirty).xmax].into_iter().find(|&xid| xid != pg_sys::InvalidTransactionId);
                if let Some(writer) = writer {
                    wait = Some((writer, (*dirty).speculativeToken, (*self.slot).tts_tid));
                    break;
                }
                places.push((*self.slot).tts_tid);
            }
            pg_sys::index_endscan(scan);
            let Some((writer, token, mut place)) = wait else { return Some(places) };
            if token != 0 {
                pg_sys::SpeculativeInsertionWait(writer, token);
            } else {
                let reason = pg_sys::XLTW_Oper::XLTW_InsertIndex;
                pg_sys::XactLockTableWait(writer, self.relation, &mut place, reason);
            }
            None
        }
    }

    /// Whether the row in hand has the remote row's key: such a one is the remote row's earlier version.
    ///
    /// # Safety
    /// The slot holds a row.
    unsafe fn is_same_row(&self) -> bool {
        // SAFETY: both slots hold rows of this table
        unsafe { self.key.same_key(self.remote, self.slot) }
    }

    /// # Safety
    /// The slot holds a row; the entry is the remote row's, of this index.
    unsafe fn is_in_the_way(&self, rule: &Rule, wanted: &Entry) -> bool {
        // SAFETY: as the caller promises
        unsafe {
            !self.is_same_row() && self.entry(rule, self.slot).is_some_and(|present| rule.holds(&present, wanted))
        }
    }

    /// Locks the last version of the row, which is in the slot afterwards; false if the row has gone.
    ///
    /// # Safety
    /// Where a row of the table was; a snapshot is active.
    unsafe fn lock(&self, mut place: pg_sys::ItemPointerData) -> bool {
        let mut failure = pg_sys::TM_FailureData::default();
        // SAFETY: relation and slot belong together; nothing but the row that is asked for is written
        let result = unsafe {
            pg_sys::table_tuple_lock(
                self.relation,
                &mut place,
                pg_sys::GetActiveSnapshot(),
                self.slot,
                pg_sys::GetCurrentCommandId(false),
                // against all changes of the row; one that refers to it may go on
                pg_sys::LockTupleMode::LockTupleNoKeyExclusive,
                pg_sys::LockWaitPolicy::LockWaitBlock,
                pg_sys::TUPLE_LOCK_FLAG_FIND_LAST_VERSION as u8,
                &mut failure,
            )
        };
        result == pg_sys::TM_Result::TM_Ok
    }

    /// # Safety
    /// The slot holds a locked row.
    unsafe fn describe(&self, rule: &Rule) -> Clash {
        let wanted: Vec<usize> = self.key.columns().collect();
        // SAFETY: after the first call all values stand in the slot's arrays
        unsafe {
            pg_sys::slot_getsomeattrs_int(self.slot, (*(*self.slot).tts_tupleDescriptor).natts);
            let key = self.columns.print(&wanted, (*self.slot).tts_values, (*self.slot).tts_isnull);
            let xmin = raw_xmin(self.slot);
            Clash { key, writer: writer_in(self.slot), xmin: Xid(xmin.into_inner()), index: rule.name() }
        }
    }
}
