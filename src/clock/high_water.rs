//! The marks in shared memory: high water, newest timestamp, bound of forgotten stamps.
//!
//! The first two only rise. Until a process has brought them up to date after a start (`is_ready`), they are not to be
//! read; the first that needs them does that, several at once with one result. Afterwards each commit raises them.
//!
//! The record on disk may lag behind by the transactions that had not ended when it was made, which it names. Ended
//! ones had their timestamps from a clock that read no more than it did after they were listed, so the record holds that
//! reading, too: one that has ended and not raised the mark yet is covered.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use meld_core::clock::{Recovery, SkewAction};
use meld_core::ids::Xid;
use meld_core::time::Timestamp;

use super::file;
use crate::log::Result;
use crate::pg::commit::Committed;
use crate::pg::shmem::{Reserve, SharedTable};
use crate::pg::xact::{Xact, in_transaction};
use crate::pg::{clock, commit_ts, worker};
use crate::settings;

static STATE: SharedTable<Forgotten, Marks> = SharedTable::new(c"meld clock");

/// Between two looks for a request to end, in transactions.
const SCAN_STEP: usize = 4096;

struct Marks {
    is_ready: AtomicBool,
    high_water: AtomicI64,
    /// Largest timestamp of a replayed transaction that was not waited for.
    ahead: AtomicI64,
    /// High water in the record on disk.
    recorded: AtomicI64,
}

impl Default for Marks {
    fn default() -> Marks {
        Marks {
            is_ready: AtomicBool::new(false),
            high_water: AtomicI64::new(i64::MIN),
            ahead: AtomicI64::new(i64::MIN),
            recorded: AtomicI64::new(i64::MIN),
        }
    }
}

/// Transactions before `oldest_kept` have timestamps smaller than `before`.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Forgotten {
    /// `None` until the marks are ready.
    oldest_kept: Option<Xid>,
    before: Timestamp,
}

impl Default for Forgotten {
    fn default() -> Forgotten {
        Forgotten { oldest_kept: None, before: Timestamp::MIN }
    }
}

pub fn reservation() -> &'static dyn Reserve {
    &STATE
}

/// The high water, or `None` without preloading.
pub fn get() -> Result<Option<Timestamp>> {
    let Some(marks) = STATE.open() else { return Ok(None) };
    if !marks.is_ready.load(Ordering::Acquire) {
        bring_up_to_date(marks);
    }
    Ok(Some(marks.high_water()))
}

/// After a commit. One that was replayed ahead of the clock, because nobody wanted to wait for it, binds no local one.
pub fn after_commit(commit: Committed) {
    let Some(marks) = STATE.open() else { return };
    let mark = if commit.commit_ts <= commit.clock { &marks.high_water } else { &marks.ahead };
    mark.fetch_max(commit.commit_ts.0, Ordering::AcqRel);
}

/// Called with a promise before it is told to any peer: no local commit gets a timestamp up to it from now on, be it after
/// a crash. (Commits that are under way have been waited for by whoever promises.)
pub fn before_promise(promise: Timestamp) -> Result<()> {
    let Some(marks) = STATE.open() else { return Ok(()) };
    marks.high_water.fetch_max(promise.0, Ordering::AcqRel);
    if marks.recorded.load(Ordering::Acquire) < promise.0 {
        match Xact::current() {
            Some(xact) => record(&xact)?,
            None => in_transaction(record)?,
        };
    }
    Ok(())
}

/// Writes the record. Gives the high water and the next transaction as they stand in it.
pub fn record(xact: &Xact) -> Result<(Timestamp, Xid)> {
    let Some(marks) = STATE.open() else { return Ok((Timestamp::MIN, Xid(0))) };
    get()?;
    let (next, running) = commit_ts::not_ended(xact);
    let now = clock::now();
    let forgotten = forgotten();
    let written = file::write(|| {
        let high_water = marks.high_water().max(now);
        meld_core::clock::Record {
            high_water,
            newest: marks.newest().max(high_water),
            next,
            running,
            oldest_kept: forgotten.oldest_kept.unwrap_or(Xid(0)),
            forgotten_before: forgotten.before,
        }
    })?;
    marks.recorded.fetch_max(written.high_water.0, Ordering::AcqRel);
    Ok((written.high_water, written.next))
}

/// What a row's stamp is smaller than, if the server has forgotten it. To be asked after the server was asked for the
/// row's timestamp, every time.
pub fn forgotten_before() -> Result<Timestamp> {
    get()?;
    Ok(forgotten().before)
}

/// The bound for what is forgotten at this moment. If the server has begun to forget more since it was set, all of that
/// was committed by now.
fn forgotten() -> Forgotten {
    let oldest_kept = Some(commit_ts::oldest_kept());
    let known = STATE.read(|forgotten| *forgotten).unwrap_or_default();
    if known.oldest_kept == oldest_kept {
        return known;
    }
    let latest = STATE.open().map_or(Timestamp::MIN, Marks::newest).max(clock::now());
    let moved = Forgotten { oldest_kept, before: known.before.max(Timestamp(latest.0.saturating_add(1))) };
    let move_on = |forgotten: &mut Forgotten| {
        // another process may have seen it move on already, or further
        if *forgotten == known {
            *forgotten = moved;
        } else {
            forgotten.before = forgotten.before.max(moved.before);
        }
        *forgotten
    };
    STATE.write(move_on).unwrap_or(moved)
}

impl Marks {
    fn high_water(&self) -> Timestamp {
        Timestamp(self.high_water.load(Ordering::Acquire))
    }

    fn newest(&self) -> Timestamp {
        self.high_water().max(Timestamp(self.ahead.load(Ordering::Acquire)))
    }
}

/// What the record on disk does not know: once after each start, and after each crash of a process.
#[cold]
fn bring_up_to_date(marks: &Marks) {
    let record = file::read();
    let replay_waits = SkewAction::from(settings::MAX_CLOCK_SKEW_ACTION.get()) != SkewAction::Warn;
    let mut recovery = Recovery::new(record.as_ref(), clock::now(), replay_waits);
    if commit_ts::are_kept() {
        for (count, xid) in Recovery::ids(record.as_ref(), commit_ts::next()).enumerate() {
            if count % SCAN_STEP == 0 {
                worker::answer_interrupts();
            }
            if let Some(mark) = commit_ts::of(xid) {
                recovery.add(mark.commit_ts, mark.roident == 0);
            }
        }
    }
    let (high_water, newest) = recovery.done();
    marks.high_water.fetch_max(high_water.0, Ordering::AcqRel);
    marks.ahead.fetch_max(newest.0, Ordering::AcqRel);
    STATE.write(|forgotten| {
        if forgotten.oldest_kept.is_none()
            && let Some(record) = &record
        {
            *forgotten = Forgotten { oldest_kept: Some(record.oldest_kept), before: record.forgotten_before };
        }
    });
    marks.is_ready.store(true, Ordering::Release);
}
