//! The table in shared memory in which the workers meet.
//!
//! It has a place for each manager (one per database with a node) and one for each subscription. A subscription's
//! place is taken by its manager and lasts until the subscription is dropped, so that its last error and its counters
//! outlive the worker; workers come and go in it. A worker is alive if its process id is in the server's process
//! array; nobody has to clear anything when it dies.
//!
//! A place's `generation` rises with each launch and with each release. A worker gets it as its launch text and gives
//! up if the place has moved on since: it was started too late.
//!
//! `holder` is the backend that is about to drop or disable the subscription: the manager starts no worker while that
//! backend lives and holds.
//!
//! Everything but the progress is behind one LWLock that is held for a few copies only. After a crash of any process
//! the postmaster ends all others and makes the table anew.

mod progress;

use std::sync::LazyLock;
use std::sync::atomic::Ordering;

use meld_core::time::Timestamp;

use super::text::Text;
use crate::pg::Oid;
use crate::pg::shmem::{Reserve, SharedTable};
use crate::pg::worker::{self, ProcNumber};

use progress::Counters;
pub use progress::{Announcement, Heard, Progress, WorkerState};

const MANAGERS: usize = 64;
const SUBSCRIPTIONS: usize = 128;
const REQUESTS: usize = 16;

static TABLE: SharedTable<Places, Counters> = SharedTable::new(c"meld workers");

/// The table, for the postmaster to reserve.
pub fn reservation() -> &'static dyn Reserve {
    &TABLE
}

/// Whether the library was preloaded, without which there are no workers.
pub fn available() -> bool {
    TABLE.available()
}

#[derive(Clone, Copy)]
struct Places {
    supervisor: Process,
    /// Databases that the supervisor shall look at; 0 is an empty entry.
    requests: [u32; REQUESTS],
    /// Look at all databases, since `requests` was full.
    rescan: bool,
    managers: [ManagerPlace; MANAGERS],
    subscriptions: [SubscriptionPlace; SUBSCRIPTIONS],
}

#[derive(Clone, Copy, Default)]
struct Process {
    pid: i32,
    number: i32,
}

impl Process {
    fn this() -> Process {
        Process { pid: worker::my_pid(), number: worker::my_proc_number().0 }
    }

    fn is_alive(self) -> bool {
        worker::is_alive(self.pid)
    }

    fn wake(self) {
        if self.pid != 0 {
            worker::wake(ProcNumber(self.number));
        }
    }
}

#[derive(Clone, Copy, Default)]
struct ManagerPlace {
    /// 0: free.
    database: u32,
    process: Process,
}

#[derive(Clone, Copy, Default)]
struct SubscriptionPlace {
    /// 0: free.
    database: u32,
    subscription_id: i32,
    generation: u32,
    process: Process,
    holder: i32,
    state: WorkerState,
    sqlstate: Text<5>,
    error: Text<500>,
}

impl Default for Places {
    fn default() -> Places {
        Places {
            supervisor: Process::default(),
            requests: [0; REQUESTS],
            rescan: false,
            managers: [ManagerPlace::default(); MANAGERS],
            subscriptions: [SubscriptionPlace::default(); SUBSCRIPTIONS],
        }
    }
}

// --- the supervisor and its managers

pub fn register_supervisor() {
    let this = Process::this();
    TABLE.write(|places| places.supervisor = this);
}

/// Process id of the supervisor, if it runs.
pub fn supervisor_pid() -> Option<i32> {
    TABLE.read(|places| places.supervisor.pid).filter(|&pid| worker::is_alive(pid))
}

/// Asks the supervisor to start a manager in a database; nothing happens if one runs there.
pub fn request_manager(database: Oid) {
    let database = database.to_u32();
    let supervisor = TABLE.write(|places| {
        if !places.requests.contains(&database) {
            match places.requests.iter_mut().find(|entry| **entry == 0) {
                Some(entry) => *entry = database,
                None => places.rescan = true,
            }
        }
        places.supervisor
    });
    supervisor.unwrap_or_default().wake();
}

/// What the supervisor was asked for since it last looked.
#[derive(Debug, Default)]
pub struct Requests {
    pub databases: Vec<Oid>,
    pub rescan: bool,
}

pub fn take_requests() -> Requests {
    let taken = TABLE.write(|places| {
        let taken = (places.requests, places.rescan);
        places.requests = [0; REQUESTS];
        places.rescan = false;
        taken
    });
    let (requests, rescan) = taken.unwrap_or_default();
    Requests { databases: requests.into_iter().filter(|&d| d != 0).map(Oid::from).collect(), rescan }
}

/// Makes this process its database's manager; false if there is one already, or no place.
pub fn attach_manager(database: Oid) -> bool {
    let (database, this) = (database.to_u32(), Process::this());
    let attach = |places: &mut Places| {
        let known = places.managers.iter().position(|place| place.database == database);
        let Some(index) = known.or_else(|| places.managers.iter().position(|place| place.database == 0)) else {
            return false;
        };
        let place = &mut places.managers[index];
        if place.process.is_alive() && place.process.pid != this.pid {
            return false;
        }
        *place = ManagerPlace { database, process: this };
        true
    };
    TABLE.write(attach).unwrap_or(false)
}

/// The database needs no manager any more. Called by the manager before it ends.
pub fn retire_manager(database: Oid) {
    let database = database.to_u32();
    TABLE.write(|places| {
        for place in places.managers.iter_mut().filter(|place| place.database == database) {
            *place = ManagerPlace::default();
        }
        for place in places.subscriptions.iter_mut().filter(|place| place.database == database) {
            free(place);
        }
    });
}

/// Databases that have a node, each with the process id of its manager (dead or alive).
pub fn managers() -> Vec<(Oid, i32)> {
    let managers = TABLE.read(|places| places.managers);
    let taken = managers.into_iter().flatten().filter(|place| place.database != 0);
    taken.map(|place| (Oid::from(place.database), place.process.pid)).collect()
}

/// Lets the manager of a database read the catalog again; without one, asks for one.
pub fn wake_manager(database: Oid) {
    let process = TABLE
        .read(|places| places.managers.iter().find(|place| place.database == database.to_u32()).map(|m| m.process))
        .flatten();
    match process {
        Some(process) if process.is_alive() => process.wake(),
        _ => request_manager(database),
    }
}

// --- the managers and their subscriptions

/// A subscription's place as it was when it was looked at.
#[derive(Clone, Debug)]
pub struct Entry {
    pub slot: usize,
    pub database: Oid,
    pub subscription_id: i32,
    pub pid: i32,
    pub state: WorkerState,
    pub holder: i32,
    pub sqlstate: Option<String>,
    pub error: Option<String>,
}

impl Entry {
    fn of(slot: usize, place: &SubscriptionPlace) -> Entry {
        Entry {
            slot,
            database: Oid::from(place.database),
            subscription_id: place.subscription_id,
            pid: place.process.pid,
            state: place.state,
            holder: place.holder,
            sqlstate: place.sqlstate.get(),
            error: place.error.get(),
        }
    }

    /// Whether a worker runs in this place.
    pub fn is_alive(&self) -> bool {
        worker::is_alive(self.pid)
    }

    /// Whether a worker took this place and has not yet come so far that it shows as alive.
    pub fn is_arriving(&self) -> bool {
        self.state == WorkerState::Starting && worker::exists(self.pid)
    }

    pub fn is_held(&self) -> bool {
        worker::is_alive(self.holder)
    }
}

/// The places of all subscriptions of a database.
pub fn entries(database: Oid) -> Vec<Entry> {
    let database = database.to_u32();
    TABLE
        .read(|places| {
            let taken = places.subscriptions.iter().enumerate().filter(|(_, place)| place.database == database);
            taken.map(|(slot, place)| Entry::of(slot, place)).collect()
        })
        .unwrap_or_default()
}

pub fn find(database: Oid, subscription_id: i32) -> Option<Entry> {
    entries(database).into_iter().find(|entry| entry.subscription_id == subscription_id)
}

impl Places {
    /// The subscription's place, taken if it has none yet; `None` if the table is full.
    fn claim(&mut self, database: u32, subscription_id: i32) -> Option<usize> {
        let is_its = |p: &SubscriptionPlace| p.database == database && p.subscription_id == subscription_id;
        if let Some(slot) = self.subscriptions.iter().position(is_its) {
            return Some(slot);
        }
        let slot = self.subscriptions.iter().position(|p| p.database == 0 && !p.process.is_alive())?;
        let generation = self.subscriptions[slot].generation.wrapping_add(1);
        self.subscriptions[slot] =
            SubscriptionPlace { database, subscription_id, generation, ..SubscriptionPlace::default() };
        if let Some(progress) = TABLE.open() {
            progress.0[slot].clear();
        }
        Some(slot)
    }
}

fn free(place: &mut SubscriptionPlace) {
    // the process stays, so that the place is not used again before its worker is gone
    let (generation, process) = (place.generation.wrapping_add(1), place.process);
    *place = SubscriptionPlace { generation, process, ..SubscriptionPlace::default() };
}

/// Prepares the launch of a worker: its place, and the text to start it with. `None` if the table is full.
pub fn prepare_launch(database: Oid, subscription_id: i32) -> Option<(usize, String)> {
    let prepare = |places: &mut Places| {
        let slot = places.claim(database.to_u32(), subscription_id)?;
        let place = &mut places.subscriptions[slot];
        place.generation = place.generation.wrapping_add(1);
        place.state = WorkerState::Starting;
        Some((slot, place.generation.to_string()))
    };
    TABLE.write(prepare).flatten()
}

/// Gives up the place of a subscription that was dropped.
pub fn release(slot: usize) {
    TABLE.write(|places| places.subscriptions.get_mut(slot).map(free));
}

/// Keeps the manager from starting a worker for the subscription until [`let_go`] or the end of this process.
pub fn hold(database: Oid, subscription_id: i32) {
    let pid = worker::my_pid();
    TABLE.write(|places| {
        if let Some(slot) = places.claim(database.to_u32(), subscription_id) {
            places.subscriptions[slot].holder = pid;
        }
    });
}

pub fn let_go(database: Oid, subscription_id: i32) {
    let (database, pid) = (database.to_u32(), worker::my_pid());
    TABLE.write(|places| {
        let is_its = |p: &&mut SubscriptionPlace| p.database == database && p.subscription_id == subscription_id;
        if let Some(place) = places.subscriptions.iter_mut().find(is_its)
            && place.holder == pid
        {
            place.holder = 0;
        }
    });
}

/// What an apply worker was started for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Assignment {
    pub database: Oid,
    pub subscription_id: i32,
}

/// First call of an apply worker. Ends the process at once if the place has moved on since it was launched.
pub fn attach(slot: usize) -> Assignment {
    let (this, launched_as) = (Process::this(), worker::launch_extra());
    let attach = |places: &mut Places| {
        let place = places.subscriptions.get_mut(slot)?;
        let is_held = worker::is_alive(place.holder);
        if place.database == 0 || is_held || place.generation.to_string() != launched_as {
            return None;
        }
        place.process = this;
        place.state = WorkerState::Starting;
        Some(Assignment { database: Oid::from(place.database), subscription_id: place.subscription_id })
    };
    match TABLE.write(attach).flatten() {
        Some(assignment) => {
            progress(slot).applying_commit_ts.store(0, Ordering::Relaxed);
            progress(slot).heard.start_again();
            assignment
        }
        None => worker::exit(0),
    }
}

fn change(slot: usize, change: impl FnOnce(&mut SubscriptionPlace)) {
    let pid = worker::my_pid();
    TABLE.write(|places| {
        if let Some(place) = places.subscriptions.get_mut(slot)
            && place.process.pid == pid
        {
            change(place);
        }
    });
}

/// Shown as the subscription's status. Replicating clears the last error.
pub fn set_state(slot: usize, state: WorkerState) {
    change(slot, |place| {
        place.state = state;
        if state == WorkerState::Replicating {
            place.sqlstate = Text::default();
            place.error = Text::default();
        }
    });
}

/// Why the worker is about to end. Never with a connection string in it.
pub fn set_error(slot: usize, sqlstate: &str, message: &str) {
    let (sqlstate, message) = (Text::cut(sqlstate), Text::cut(message));
    change(slot, |place| {
        place.state = WorkerState::Failed;
        place.sqlstate = sqlstate;
        place.error = message;
    });
}

/// The counters of a place.
pub fn progress(slot: usize) -> &'static Progress {
    static SPARE: LazyLock<Progress> = LazyLock::new(Progress::default);
    TABLE.open().and_then(|all| all.0.get(slot)).unwrap_or(&SPARE)
}

/// Whatever was committed anywhere up to this was applied at the provider before it wrote what comes next in the stream.
pub fn heard_horizon(slot: usize) -> Timestamp {
    progress(slot).heard.streamed_horizon()
}
