//! Moving an ordinary sequence on, never back, whoever draws from it at the same time.

use pgrx::pg_sys;

use super::Oid;
use super::sequence_page::{Locked, Stored, Trouble, close, definition, hold, lock, open};

/// How a sequence is defined and where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    pub increment: i64,
    /// The end in the direction in which it goes.
    pub bound: i64,
    pub last_value: i64,
}

/// Where a permanent sequence stands. Inside a transaction.
pub fn standing(sequence: Oid) -> Result<Standing, Trouble> {
    with_page(sequence, None)
}

/// Moves it on to `target`, unless it is there or further; gives where it stood.
pub fn move_on(sequence: Oid, target: i64) -> Result<Standing, Trouble> {
    with_page(sequence, Some(target))
}

fn with_page(sequence: Oid, target: Option<i64>) -> Result<Standing, Trouble> {
    // SAFETY: inside a transaction, on the main thread; one guard around calls that have none, over frames that hold
    // nothing
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| read_and_write(sequence, target)) }
}

/// # Safety
/// Inside a transaction; see `sequence_page`.
unsafe fn read_and_write(sequence: Oid, target: Option<i64>) -> Result<Standing, Trouble> {
    // SAFETY: the caller's promise; the page is held from `hold` to `let_go`
    unsafe {
        lock(sequence, Locked::NEVER);
        let relation = open(sequence)?;
        let (definition, held) = match (definition(sequence), hold(relation)) {
            (Some(definition), Ok(held)) => (definition, held),
            (None, Ok(held)) => {
                held.let_go();
                close(relation);
                return Err(Trouble::Corrupt);
            }
            (_, Err(trouble)) => {
                close(relation);
                return Err(trouble);
            }
        };
        let stored = held.stored();
        let is_rising = definition.increment > 0;
        if let Some(target) = target
            && if is_rising { stored.last_value < target } else { stored.last_value > target }
        {
            held.store(relation, Stored { last_value: target, log_cnt: 0, is_called: true }, Some(target));
        }
        held.let_go();
        close(relation);
        Ok(Standing {
            increment: definition.increment,
            bound: if is_rising { definition.max } else { definition.min },
            last_value: stored.last_value,
        })
    }
}
