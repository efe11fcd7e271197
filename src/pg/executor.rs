//! What the executor needs to write to one table without a plan.

use std::mem::size_of;
use std::ptr::null_mut;

use pgrx::pg_sys;

use super::columns::ColumnMap;
use super::xact::Xact;

/// Memory for one change, emptied after each.
pub struct ChangeMemory {
    pub(super) context: pg_sys::MemoryContext,
}

impl ChangeMemory {
    /// Lives in the transaction and goes with it.
    pub fn new(_xact: &Xact) -> ChangeMemory {
        // SAFETY: inside a transaction, so its context exists; the name is static
        let context = unsafe {
            pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopTransactionContext,
                c"meld change".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        };
        ChangeMemory { context }
    }
}

/// As SET CONSTRAINTS ALL IMMEDIATE: a deferred trigger fires with its row. What is left for the commit would run with
/// the worker's rights, which is why the server refuses to defer anything that is done as the table's owner.
pub fn fire_triggers_at_once(_xact: &Xact) {
    // SAFETY: inside a transaction, between two queries; the node is only read
    unsafe {
        let mut statement = pg_sys::ConstraintsSetStmt {
            type_: pg_sys::NodeTag::T_ConstraintsSetStmt,
            constraints: null_mut(),
            deferred: false,
        };
        pg_sys::AfterTriggerSetState(&mut statement);
    }
}

/// Whether the row would clash with none in the index; waits for transactions that decide it.
///
/// # Safety
/// The relation's indexes are open for that, and the index is one of them; the slot holds a row of the relation.
pub(super) unsafe fn look_for_clash(
    result: *mut pg_sys::ResultRelInfo,
    row: *mut pg_sys::TupleTableSlot,
    executor: *mut pg_sys::EState,
    index: pg_sys::Oid,
) -> bool {
    let mut clash = pg_sys::ItemPointerData::default();
    // SAFETY: as the caller promises; where the clash is, if there is one, is written to this frame
    unsafe {
        let indexes = pg_sys::lappend_oid(null_mut(), index);
        #[cfg(not(feature = "pg18"))]
        return pg_sys::ExecCheckIndexConstraints(result, row, executor, &mut clash, indexes);
        #[cfg(feature = "pg18")]
        return pg_sys::ExecCheckIndexConstraints(result, row, executor, &mut clash, null_mut(), indexes);
    }
}

/// The one range table entry that the executor wants: says that every column may change.
///
/// # Safety
/// In the executor's context; the relation is open.
pub(super) unsafe fn init_range_table(executor: *mut pg_sys::EState, relation: pg_sys::Relation) {
    // SAFETY: a node is zeroed memory with its tag; lists are made in the current context
    unsafe {
        let entry: *mut pg_sys::RangeTblEntry = pg_sys::palloc0(size_of::<pg_sys::RangeTblEntry>()).cast();
        (*entry).type_ = pg_sys::NodeTag::T_RangeTblEntry;
        (*entry).rtekind = pg_sys::RTEKind::RTE_RELATION;
        (*entry).relid = (*relation).rd_id;
        (*entry).relkind = (*(*relation).rd_rel).relkind;
        (*entry).rellockmode = pg_sys::RowExclusiveLock as i32;
        let mut updated: *mut pg_sys::Bitmapset = null_mut();
        for number in 1..=(*(*relation).rd_att).natts {
            updated = pg_sys::bms_add_member(updated, number - pg_sys::FirstLowInvalidHeapAttributeNumber);
        }
        let table = pg_sys::lappend(null_mut(), entry.cast());
        #[cfg(feature = "pg15")]
        {
            (*entry).updatedCols = updated;
            pg_sys::ExecInitRangeTable(executor, table);
        }
        #[cfg(not(feature = "pg15"))]
        {
            let mut permissions: *mut pg_sys::List = null_mut();
            let permission = pg_sys::addRTEPermissionInfo(&mut permissions, entry);
            (*permission).updatedCols = updated;
            #[cfg(not(feature = "pg18"))]
            pg_sys::ExecInitRangeTable(executor, table, permissions);
            #[cfg(feature = "pg18")]
            pg_sys::ExecInitRangeTable(executor, table, permissions, pg_sys::bms_make_singleton(1));
        }
    }
}

/// # Safety
/// `plan_check` is zeroed memory in the executor's context.
pub(super) unsafe fn init_plan_check(plan_check: *mut pg_sys::EPQState, executor: *mut pg_sys::EState) {
    // SAFETY: there is no plan; the state only has to be there for triggers
    unsafe {
        #[cfg(feature = "pg15")]
        pg_sys::EvalPlanQualInit(plan_check, executor, null_mut(), null_mut(), -1);
        #[cfg(not(feature = "pg15"))]
        pg_sys::EvalPlanQualInit(plan_check, executor, null_mut(), null_mut(), -1, null_mut());
    }
}

/// Expressions for the columns that the stream does not bring.
///
/// # Safety
/// In the executor's context; the relation is open.
pub(super) unsafe fn prepare_defaults(
    relation: pg_sys::Relation,
    executor: *mut pg_sys::EState,
    columns: &ColumnMap,
) -> Vec<(usize, *mut pg_sys::ExprState)> {
    let mut defaults = Vec::new();
    for &column in &columns.extra {
        // SAFETY: `column` is one of the relation's; a column without default has a null expression
        unsafe {
            let expression = pg_sys::build_column_default(relation, column as i32 + 1);
            if !expression.is_null() {
                defaults.push((column, pg_sys::ExecPrepareExpr(expression.cast(), executor)));
            }
        }
    }
    defaults
}

/// Puts the defaults into the slot's arrays. The values live in the current memory context.
///
/// # Safety
/// As the table's owner; the slot is of the relation that the expressions were prepared for, the context its executor's.
pub(super) unsafe fn evaluate_defaults(
    defaults: &[(usize, *mut pg_sys::ExprState)],
    context: *mut pg_sys::ExprContext,
    slot: *mut pg_sys::TupleTableSlot,
) {
    for &(column, state) in defaults {
        // SAFETY: `column` is one of the relation's; one C call in the guarded closure
        unsafe {
            let (value, null) = (&mut *(*slot).tts_values.add(column), &mut *(*slot).tts_isnull.add(column));
            if let Some(evaluate) = (*state).evalfunc {
                *value = pg_sys::ffi::pg_guard_ffi_boundary(|| evaluate(state, context, null));
            }
        }
    }
}
