//! Statements that are no queries: one hook in front of each, for all in this library who want to see some.
//!
//! The owner of a table may drop and rename its triggers, internal ones too, so the server has to be asked not to.
//! Those who may switch them off are superusers, who are not refused; what they did is reported, to be repaired. And
//! the commit of a prepared transaction can be seen nowhere else before it is made.

use std::ffi::{CStr, c_char};
use std::marker::PhantomData;
use std::ptr::null_mut;
use std::sync::OnceLock;

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::{Oid, trigger_catalog};

/// Somebody who looks at statements.
#[derive(Clone, Copy)]
pub struct Watcher {
    /// Looks at a statement before it runs, and may raise to refuse it. Whether `after` is to be called.
    pub before: fn(Statement<'_>) -> bool,
    /// Called after the statement, unless it failed.
    pub after: fn(),
}

/// As many as there are bits for in the hook's frame.
const WATCHERS: usize = 32;

static WATCHERS_IN_ORDER: [OnceLock<Watcher>; WATCHERS] = [const { OnceLock::new() }; WATCHERS];

/// The hook that was there before.
static BEFORE: OnceLock<pg_sys::ProcessUtility_hook_type> = OnceLock::new();

/// Adds a watcher; those who came first look first. Only while the library is loaded.
pub fn watch(watcher: Watcher) {
    let placed = WATCHERS_IN_ORDER.iter().any(|place| place.set(watcher).is_ok());
    debug_assert!(placed, "too many watchers");
    // SAFETY: a global that this process's only thread sets while it loads the library
    unsafe {
        if BEFORE.set(pg_sys::ProcessUtility_hook).is_ok() {
            pg_sys::ProcessUtility_hook = Some(on_utility);
        }
    }
}

fn watchers() -> impl Iterator<Item = (u32, &'static Watcher)> {
    WATCHERS_IN_ORDER.iter().map_while(OnceLock::get).enumerate().map(|(place, watcher)| (1 << place, watcher))
}

// Not pgrx's binding, which would catch errors
unsafe extern "C-unwind" {
    #[link_name = "standard_ProcessUtility"]
    fn run_as_usual(
        planned: *mut pg_sys::PlannedStmt,
        query: *const c_char,
        read_only: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        parameters: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        receiver: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

/// Between a user and all of his commands: an error in one of them has to pass as it is, with its context, position and
/// names, most of which a guard would lose. So there is none around the command, and no value with a destructor in this
/// frame, over which the server jumps then.
#[allow(clippy::too_many_arguments)]
unsafe extern "C-unwind" fn on_utility(
    planned: *mut pg_sys::PlannedStmt,
    query: *const c_char,
    read_only: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    receiver: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: the hook of another library or the server's own function, with the arguments as they came
    unsafe {
        let wanted = before(planned);
        match BEFORE.get().copied().flatten() {
            Some(run) => run(planned, query, read_only, context, parameters, environment, receiver, completion),
            None => run_as_usual(planned, query, read_only, context, parameters, environment, receiver, completion),
        }
        if wanted != 0 {
            after(wanted);
        }
    }
}

/// Lets the watchers look; a bit for each that is to be called afterwards.
#[pg_guard]
unsafe extern "C-unwind" fn before(planned: *mut pg_sys::PlannedStmt) -> u32 {
    // SAFETY: the server's statement, which lives as long as the call
    let statement = unsafe { Statement { node: (*planned).utilityStmt, call: PhantomData } };
    watchers().filter(|(_, watcher)| (watcher.before)(statement)).fold(0, |wanted, (bit, _)| wanted | bit)
}

#[pg_guard]
unsafe extern "C-unwind" fn after(wanted: u32) {
    watchers().filter(|(bit, _)| wanted & bit != 0).for_each(|(_, watcher)| (watcher.after)());
}

/// A statement that is about to run.
#[derive(Clone, Copy)]
pub struct Statement<'a> {
    node: *mut pg_sys::Node,
    call: PhantomData<&'a ()>,
}

impl Statement<'_> {
    /// The name of a trigger of meld's that it would drop or rename.
    pub fn own_trigger_at_stake(self) -> Option<String> {
        // SAFETY: a parsed statement that is about to be run
        unsafe { own_trigger_at_stake(self.node) }
    }

    /// Whether it enables or disables triggers.
    pub fn switches_triggers(self) -> bool {
        // SAFETY: a parsed statement
        unsafe { switches_triggers(self.node) }
    }

    /// Whether it commits a prepared transaction.
    pub fn is_commit_prepared(self) -> bool {
        // SAFETY: a parsed statement; the tag says what the node is
        unsafe {
            (*self.node).type_ == pg_sys::NodeTag::T_TransactionStmt
                && (*self.node.cast::<pg_sys::TransactionStmt>()).kind
                    == pg_sys::TransactionStmtKind::TRANS_STMT_COMMIT_PREPARED
        }
    }
}

/// The name of a trigger of meld's that the statement would drop or rename.
///
/// # Safety
/// A parsed statement that is about to be run.
unsafe fn own_trigger_at_stake(statement: *mut pg_sys::Node) -> Option<String> {
    // SAFETY: see above; the tag says what the node is. Both statements run in a transaction
    unsafe {
        match (*statement).type_ {
            pg_sys::NodeTag::T_DropStmt => {
                let drop = &*statement.cast::<pg_sys::DropStmt>();
                if drop.removeType != pg_sys::ObjectType::OBJECT_TRIGGER {
                    return None;
                }
                elements(drop.objects).find_map(|names| own_trigger(names.cast()))
            }
            pg_sys::NodeTag::T_RenameStmt => {
                let rename = &*statement.cast::<pg_sys::RenameStmt>();
                if rename.renameType != pg_sys::ObjectType::OBJECT_TRIGGER {
                    return None;
                }
                shown_if_own(rename.relation, CStr::from_ptr(rename.subname))
            }
            _ => None,
        }
    }
}

/// A trigger of meld's by its name: those of schema and table, then its own.
///
/// # Safety
/// A list of strings, as the parser makes it.
unsafe fn own_trigger(names: *mut pg_sys::List) -> Option<String> {
    // SAFETY: see above; the copy is the current memory context's
    unsafe {
        let count = elements(names).count();
        let name = elements(names).last()?.cast::<pg_sys::String>();
        if count < 2 {
            return None;
        }
        let table = pg_sys::list_truncate(pg_sys::list_copy(names), count as i32 - 1);
        shown_if_own(pg_sys::makeRangeVarFromNameList(table), CStr::from_ptr((*name).sval))
    }
}

/// # Safety
/// A table's name, as the parser makes it.
unsafe fn shown_if_own(table: *const pg_sys::RangeVar, name: &CStr) -> Option<String> {
    // SAFETY: see above; inside a transaction. Nothing is locked: the server looks again
    let oid: Oid = unsafe {
        let missing_ok = pg_sys::RVROption::RVR_MISSING_OK as pg_sys::uint32;
        pg_sys::RangeVarGetRelidExtended(table, pg_sys::NoLock as i32, missing_ok, None, null_mut())
    };
    let is_own = oid != pg_sys::InvalidOid && trigger_catalog::is_own(oid, name);
    is_own.then(|| name.to_string_lossy().into_owned())
}

/// # Safety
/// A parsed statement.
unsafe fn switches_triggers(statement: *mut pg_sys::Node) -> bool {
    use pg_sys::AlterTableType as Kind;
    // SAFETY: see above; the tag says what the node is, and the commands of this statement are of one type
    unsafe {
        (*statement).type_ == pg_sys::NodeTag::T_AlterTableStmt
            && elements((*statement.cast::<pg_sys::AlterTableStmt>()).cmds).any(|command| {
                let kind = (*command.cast::<pg_sys::AlterTableCmd>()).subtype;
                matches!(
                    kind,
                    Kind::AT_EnableTrig
                        | Kind::AT_EnableAlwaysTrig
                        | Kind::AT_EnableReplicaTrig
                        | Kind::AT_DisableTrig
                        | Kind::AT_EnableTrigAll
                        | Kind::AT_DisableTrigAll
                )
            })
    }
}

/// What a list of pointers holds.
///
/// # Safety
/// Null, which is an empty list, or a list of pointers that stays as it is while the result is used.
unsafe fn elements(list: *mut pg_sys::List) -> impl Iterator<Item = *mut pg_sys::Node> {
    // SAFETY: see above
    let count = if list.is_null() { 0 } else { unsafe { (*list).length } };
    // SAFETY: within the length
    (0..count as usize).map(move |i| unsafe { (*(*list).elements.add(i)).ptr_value.cast() })
}
