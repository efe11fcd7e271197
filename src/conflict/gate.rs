//! Whether a table may have tombstones or explicit stamps at all, at the cost of one look at shared memory.
//!
//! Each table has a counter, which it may share with others, that every writer of such a row raises *after* he has written
//! it and before he commits. A reader that has seen, rows of open transactions included, that there is none for a table
//! need not look again while the counter stays what it was before he looked: whatever was committed since was written
//! after that look, and its writer has raised the counter. (Raised before the write only, it could be read, and the
//! table seen empty, in between.)

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;

use crate::log::Result;
use crate::pg::Oid;
use crate::pg::keyed::{KeyedTable, Sight};
use crate::pg::shmem::{Reserve, SharedTable};
use crate::pg::worker::my_database;

const COUNTERS: usize = 4096;

pub struct Counters([AtomicU32; COUNTERS]);

impl Default for Counters {
    fn default() -> Counters {
        Counters([const { AtomicU32::new(0) }; COUNTERS])
    }
}

static SHARED: SharedTable<(), Counters> = SharedTable::new(c"meld key state");

/// To be reserved at the start of the server.
pub fn reservation() -> &'static dyn Reserve {
    &SHARED
}

/// What is kept of keys.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    Tombstone,
    Bundle,
    Override,
}

/// What a process knows of a table and a kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// There was none, and what the counter said before that was seen.
    Empty(u32),
    /// There were some, which is believed for so many questions more.
    Some(u32),
}

/// A look past rows that are gone but not vacuumed yet may be long, and saying that there may be some is never wrong.
const BELIEVED: u32 = 1000;

thread_local! {
    static SEEN: RefCell<HashMap<(u32, Kind), Seen>> = RefCell::default();
}

fn counter(table: Oid, kind: Kind) -> Option<&'static AtomicU32> {
    let mixed = (u64::from(table.to_u32()) << 32 | u64::from(my_database().to_u32()))
        .wrapping_add(kind as u64)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15);
    SHARED.open().map(|counters| &counters.0[(mixed >> 52) as usize % COUNTERS])
}

/// To be called when a row of the kind was written for the table, before the commit.
pub fn raise(table: Oid, kind: Kind) {
    if let Some(counter) = counter(table, kind) {
        counter.fetch_add(1, SeqCst);
    }
}

/// False if there surely is no row of the kind for the table.
pub fn may_exist(table: Oid, kind: Kind, rows: &KeyedTable) -> Result<bool> {
    let Some(counter) = counter(table, kind) else { return Ok(true) };
    let before = counter.load(SeqCst);
    let key = (table.to_u32(), kind);
    let known = SEEN.with_borrow_mut(|seen| match seen.get_mut(&key) {
        Some(Seen::Empty(counter)) => (*counter == before).then_some(false),
        Some(Seen::Some(left)) => {
            *left -= 1;
            (*left > 0).then_some(true)
        }
        None => None,
    });
    if let Some(may_exist) = known {
        return Ok(may_exist);
    }
    let mut found = false;
    rows.scan(table, None, Sight::Open, |_| {
        found = true;
        Ok(false)
    })?;
    let now = if found { Seen::Some(BELIEVED) } else { Seen::Empty(before) };
    SEEN.with_borrow_mut(|seen| seen.insert(key, now));
    Ok(found)
}

/// That a table was seen without rows of a kind.
#[derive(Clone, Copy)]
pub struct Emptiness {
    counter: &'static AtomicU32,
    before: u32,
}

impl Emptiness {
    /// Whether it is so still.
    pub fn holds(&self) -> bool {
        self.counter.load(SeqCst) == self.before
    }
}

/// What this process has seen when it asked last whether there [may be](may_exist) any: if there was none.
pub fn emptiness(table: Oid, kind: Kind) -> Option<Emptiness> {
    match SEEN.with_borrow(|seen| seen.get(&(table.to_u32(), kind)).copied()) {
        Some(Seen::Empty(before)) => counter(table, kind).map(|counter| Emptiness { counter, before }),
        Some(Seen::Some(_)) | None => None,
    }
}
