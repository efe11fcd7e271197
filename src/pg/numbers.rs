//! What every process of the server has to know of node numbers, in shared memory: which belong to other nodes, under
//! which run of the server all of this is, and which databases are copies of a node that lives elsewhere.
//!
//! The manager of each database says what it knows at each of its looks. Readers take no lock: the postmaster is among
//! them, when it reads its configuration.

use std::ffi::{CStr, CString, c_int, c_void};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use meld_core::ids::NodeId;
use pgrx::prelude::*;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};

use super::Oid;
use super::shmem::{Reserve, SharedTable};

static STATE: SharedTable<(), Numbers> = SharedTable::new(c"meld node numbers");

const NUMBERS: usize = NodeId::MAX as usize + 1;
const NAME_WORDS: usize = pg_sys::NAMEDATALEN as usize / 8;
/// Databases of one server that can be known to be copies.
const COPIES: usize = 64;

struct Numbers {
    run: AtomicI64,
    taken: [Taken; NUMBERS],
    copies: [AtomicU32; COPIES],
}

/// A number that another node has.
struct Taken {
    /// Who says so; 0: nobody.
    database: AtomicU32,
    name: [AtomicU64; NAME_WORDS],
}

impl Default for Numbers {
    fn default() -> Numbers {
        Numbers {
            run: AtomicI64::new(draw_run()),
            taken: [const { Taken { database: AtomicU32::new(0), name: [const { AtomicU64::new(0) }; NAME_WORDS] } };
                NUMBERS],
            copies: [const { AtomicU32::new(0) }; COPIES],
        }
    }
}

/// A number that no other server and no other run of this one has, and that is not 0.
fn draw_run() -> i64 {
    // keys from the system's random numbers
    let random = RandomState::new().hash_one((std::process::id(), std::time::SystemTime::now()));
    random.cast_signed() | 1
}

pub fn reservation() -> &'static dyn Reserve {
    &STATE
}

/// Which run of this server it is. Another after each start; `None` without preloading.
pub fn run() -> Option<i64> {
    STATE.open().map(|numbers| numbers.run.load(Ordering::Relaxed))
}

/// What a database knows of other nodes: their numbers and names.
pub fn publish(database: Oid, others: &[(NodeId, &str)]) {
    let Some(numbers) = STATE.open() else { return };
    let database = database.to_u32();
    for (number, taken) in numbers.taken.iter().enumerate().skip(1) {
        match others.iter().find(|(node, _)| usize::from(node.0) == number) {
            Some((_, name)) => {
                taken.set_name(name);
                taken.database.store(database, Ordering::Release);
            }
            None => {
                let _ = taken.database.compare_exchange(database, 0, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
    }
}

/// The other node that has this number, as this database knows it.
pub fn other_node(number: NodeId) -> Option<String> {
    let taken = &STATE.open()?.taken[usize::from(number.0)];
    is_taken(number).then(|| taken.name())
}

/// Whether this database knows another node with this number.
pub fn is_taken(number: NodeId) -> bool {
    // SAFETY: set once at the start of the session
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    let taken = STATE.open().and_then(|numbers| numbers.taken.get(usize::from(number.0)));
    taken.is_some_and(|taken| taken.database.load(Ordering::Acquire) == database)
}

/// Notes whether this database is a copy of a node that lives elsewhere.
pub fn set_copy(database: Oid, is_copy: bool) {
    let Some(numbers) = STATE.open() else { return };
    let database = database.to_u32();
    if is_copy && !numbers.is_copy(database) {
        let free =
            |place: &&AtomicU32| place.compare_exchange(0, database, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let _ = numbers.copies.iter().find(free);
    } else if !is_copy {
        for place in &numbers.copies {
            let _ = place.compare_exchange(database, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

/// Whether this database is known to be a copy of a node that lives elsewhere.
pub fn is_copy() -> bool {
    // SAFETY: set once at the start of the session
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    STATE.open().is_some_and(|numbers| numbers.is_copy(database))
}

impl Numbers {
    fn is_copy(&self, database: u32) -> bool {
        // all are 0 on nearly every server
        self.copies.iter().any(|place| place.load(Ordering::Relaxed) == database)
    }
}

impl Taken {
    fn set_name(&self, name: &str) {
        let mut bytes = [0; NAME_WORDS * 8];
        let length = name.len().min(bytes.len() - 1);
        bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
        for (word, bytes) in self.name.iter().zip(bytes.chunks_exact(8)) {
            word.store(u64::from_ne_bytes(bytes.try_into().unwrap_or_default()), Ordering::Relaxed);
        }
    }

    fn name(&self) -> String {
        let bytes: Vec<u8> = self.name.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect();
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }
}

/// Registers the setting of this node's number. A number that another node is known to have is not taken: neither from
/// ALTER SYSTEM, nor when the configuration is read again.
pub fn register(name: &'static CStr, short: &'static CStr, long: &'static CStr, setting: &'static GucSetting<i32>) {
    // SAFETY: the hook is guarded
    unsafe {
        GucRegistry::define_int_guc_with_hooks(
            name,
            short,
            long,
            setting,
            0,
            NodeId::MAX,
            GucContext::Sighup,
            GucFlags::default(),
            Some(check),
            None,
            None,
        );
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn check(new: *mut c_int, _extra: *mut *mut c_void, _source: pg_sys::GucSource::Type) -> bool {
    // SAFETY: the server's own number, which the hook may look at
    let Some(number) = NodeId::checked(unsafe { *new }) else { return true };
    // not there yet while the server starts: the manager looks then
    let Some(numbers) = STATE.open() else { return true };
    let taken = &numbers.taken[usize::from(number.0)];
    if taken.database.load(Ordering::Acquire) == 0 {
        return true;
    }
    let detail = format!("Snowflake node number {number} belongs to node \"{}\".", taken.name());
    let hint = "Choose a number that no node of meld.node has, or drop that node with meld.node_drop.";
    if let (Ok(detail), Ok(hint)) = (CString::new(detail), CString::new(hint)) {
        // SAFETY: copies in the current memory context, which outlives the report
        unsafe {
            pg_sys::GUC_check_errdetail_string = pg_sys::pstrdup(detail.as_ptr());
            pg_sys::GUC_check_errhint_string = pg_sys::pstrdup(hint.as_ptr());
        }
    }
    false
}
