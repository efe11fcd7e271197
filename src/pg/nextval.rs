//! `snowflake.nextval`: one id of a sequence, as fast as may be.
//!
//! Called by the server with no guard around it (see `sequence_page`): everything that may fail in Rust is in a function
//! with a guard of its own, off the usual way.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use meld_core::ids::NodeId;
use meld_core::snowflake::{self, State, Step};
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::sequence_page::{
    Locked, Stored, close, definition, file_number, flush, hold, lock, may_draw, now, open, require_writes,
};
use super::{Oid, clock};

pub use super::sequence_page::Trouble;

/// What a sequence is stepped by that was converted. The server's own `nextval` finds no next value then, instead of
/// giving one that another node may give as well.
pub const MARK: i64 = i64::MAX;

/// Tries before a clock that does not move on is not waited for any more.
const WAITS: u32 = 3;

/// What the function needs from outside. Neither may hold anything when it raises.
#[derive(Clone, Copy)]
pub struct Ways {
    /// The number for the ids, if it is known and right.
    pub number: fn() -> Option<NodeId>,
    /// Finds it, or raises.
    pub find_number: fn() -> NodeId,
    pub refuse: fn(Trouble, Oid) -> !,
}

/// What the server hands to the function.
#[repr(transparent)]
pub struct Call(pg_sys::FunctionCallInfo);

/// What it gets back.
pub type Answer = pg_sys::Datum;

/// What need not be found out again for the next id.
#[derive(Clone, Copy)]
struct Last {
    locked: Locked,
    /// The file in which it was when it was last seen to be converted.
    file: u32,
    sequence: Oid,
    id: i64,
}

thread_local! {
    /// The sequence that this session has drawn from last.
    static LAST: Cell<Last> = const { Cell::new(Last { locked: Locked::NEVER, file: 0, sequence: pg_sys::InvalidOid, id: 0 }) };
    /// What it has drawn last from each of the others.
    static DRAWN: RefCell<HashMap<Oid, i64>> = RefCell::default();
}

/// Exports the function under a name, and how to call it.
#[macro_export]
macro_rules! nextval_entry {
    ($name:ident, $info:ident => $ways:expr) => {
        #[doc = "Function for the server; see [`run`](crate::pg::nextval::run)."]
        #[unsafe(no_mangle)]
        pub extern "C-unwind" fn $name(call: $crate::pg::nextval::Call) -> $crate::pg::nextval::Answer {
            $crate::pg::nextval::run(&call, $ways)
        }

        #[doc = concat!("How to call `", stringify!($name), "`.")]
        #[unsafe(no_mangle)]
        pub extern "C-unwind" fn $info() -> &'static $crate::pg::row_trigger::CallingConvention {
            &$crate::pg::row_trigger::CALLING_CONVENTION
        }
    };
}

/// Draws an id from the sequence that the call names.
pub fn run(call: &Call, ways: Ways) -> Answer {
    // SAFETY: the server's own call of a STRICT function of one regclass, in a transaction
    let sequence = unsafe { Oid::from((*(*call.0).args.as_ptr()).value.value() as u32) };
    let node = match (ways.number)() {
        Some(node) => node,
        None => guarded_number(ways),
    };
    // SAFETY: called by the server, so that an error may jump over this frame, which holds nothing
    match unsafe { draw(sequence, node) } {
        Ok(id) => id.into(),
        Err(trouble) => guarded_refusal(ways, trouble, sequence),
    }
}

/// What this session has drawn last.
pub fn drawn(sequence: Oid) -> Option<i64> {
    let last = LAST.get();
    if last.sequence == sequence {
        return Some(last.id);
    }
    DRAWN.with_borrow(|drawn| drawn.get(&sequence).copied())
}

#[cold]
#[pg_guard]
#[allow(improper_ctypes_definitions)]
extern "C-unwind" fn guarded_number(ways: Ways) -> NodeId {
    (ways.find_number)()
}

#[cold]
#[pg_guard]
#[allow(improper_ctypes_definitions)]
extern "C-unwind" fn guarded_refusal(ways: Ways, trouble: Trouble, sequence: Oid) -> pg_sys::Datum {
    (ways.refuse)(trouble, sequence)
}

#[cold]
#[pg_guard]
extern "C-unwind" fn wait(us: i64) {
    clock::nap_us(us);
    super::worker::check_for_interrupts();
}

/// An id was drawn.
fn note(new: Last) {
    let old = LAST.replace(new);
    if old.sequence != new.sequence && old.sequence != pg_sys::InvalidOid {
        DRAWN.with_borrow_mut(|drawn| drawn.insert(old.sequence, old.id));
    }
}

/// # Safety
/// Inside a transaction; see `sequence_page`.
unsafe fn draw(sequence: Oid, node: NodeId) -> Result<i64, Trouble> {
    // SAFETY: the caller's promise; the page is held from `hold` to `let_go`
    unsafe {
        require_writes(c"snowflake.nextval()");
        let mut last = LAST.get();
        last.locked = lock(sequence, last.locked);
        let relation = open(sequence)?;
        if !may_draw(sequence) {
            close(relation);
            return Err(Trouble::NotAllowed);
        }
        let file = file_number(relation);
        let is_known = last.sequence == sequence && last.file == file;
        if !is_known && definition(sequence).is_none_or(|definition| definition.increment != MARK) {
            close(relation);
            return Err(Trouble::NotConverted);
        }
        let mut waits = 0;
        loop {
            let held = match hold(relation) {
                Ok(held) => held,
                Err(trouble) => {
                    close(relation);
                    return Err(trouble);
                }
            };
            let stored = held.stored();
            let state = State { last: stored.last_value, logged_ahead_ms: stored.log_cnt };
            match snowflake::draw(state, node, now(), held.is_log_old(), waits < WAITS) {
                Step::Draw { id, after, log } => {
                    let new = Stored { last_value: id, log_cnt: after.logged_ahead_ms, is_called: true };
                    held.store(relation, new, log);
                    let logged_up_to = held.lsn();
                    held.let_go();
                    close(relation);
                    flush(logged_up_to);
                    note(Last { file, sequence, id, ..last });
                    return Ok(id);
                }
                Step::Wait { us } => {
                    held.let_go();
                    waits += 1;
                    wait(us);
                }
                Step::Exhausted => {
                    held.let_go();
                    close(relation);
                    return Err(Trouble::Exhausted);
                }
            }
        }
    }
}
