//! Rows of which there is nothing to say: a large statement meets many of the same kind.
//!
//! A version that this node's own committed transaction wrote, in a table without counters and without explicit stamps, is
//! announced by silence, and only its key matters. That is so for every row of the same writer in the same table, until
//! something of that changes: so the verdict over one row is remembered for the next, which then costs a few comparisons.

use std::cell::RefCell;
use std::rc::Rc;

use meld_core::ids::{RelId, Xid};

use crate::conflict::gate::{self, Emptiness, Kind};
use crate::pg::Oid;
use crate::pg::invalidation;
use crate::pg::key_bytes::KeyColumns;
use crate::pg::row_trigger::OldRow;
use crate::pg::xact;

/// The verdict over a row, and what it rests on.
struct Quiet {
    table: RelId,
    writer: Xid,
    /// When the writer was found to be committed: its number may come again.
    found_at: u64,
    /// Of what is known of tables.
    generation: u64,
    no_explicit_stamps: Emptiness,
    key: Rc<KeyColumns>,
}

/// Tables whose last verdict is remembered: a transaction may go from one to the next again and again.
const TABLES: usize = 8;

/// A row that is not frozen was written by one of the last so many transactions, half of the numbers that there are. So
/// within as many a number is no other transaction's.
const NUMBERS_HOLD: u64 = 1 << 31;

thread_local! {
    static LAST: RefCell<[Option<Quiet>; TABLES]> = const { RefCell::new([const { None }; TABLES]) };
}

fn place(table: RelId) -> usize {
    table.0 as usize % TABLES
}

/// The columns of the row's key, if that is all that matters of the row.
pub fn key_of_quiet(row: &OldRow<'_>) -> Option<Rc<KeyColumns>> {
    LAST.with_borrow(|last| {
        let is_quiet = |last: &&Quiet| {
            last.table == row.relation()
                && last.writer == row.xmin()
                && xact::ever_begun().wrapping_sub(last.found_at) < NUMBERS_HOLD
                && last.generation == invalidation::generation()
                && last.no_explicit_stamps.holds()
                && !row.is_frozen()
        };
        last[place(row.relation())].as_ref().filter(is_quiet).map(|last| Rc::clone(&last.key))
    })
}

/// The row was written by a committed transaction of this node, and has no counters and no explicit stamp.
pub fn remember(row: &OldRow<'_>) {
    // a table that has some explicit stamps may have one for the next row of the same writer
    let no_explicit_stamps = gate::emptiness(Oid::from(row.relation().0), Kind::Override);
    let quiet = no_explicit_stamps.zip(row.key_columns()).map(|(no_explicit_stamps, key)| Quiet {
        table: row.relation(),
        writer: row.xmin(),
        found_at: xact::ever_begun(),
        generation: invalidation::generation(),
        no_explicit_stamps,
        key,
    });
    LAST.with_borrow_mut(|last| last[place(row.relation())] = quiet);
}
